"""The recorder behaves like GitHub's review endpoints, keeps what it was given, and hides nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from backbeat.embedded.simulated import log
from tests.support.simulated import Service, service

TOKEN = {"authorization": "Bearer simulated"}
REVIEW = {"commit_id": "c" * 40, "event": "COMMENT", "body": "Well done", "comments": []}


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service("recorder", tmp_path_factory.mktemp("recorder") / "reviews.jsonl") as running:
        yield running


@pytest.fixture
def pull(recorder: Service) -> str:
    """The address of a pull request of this test's own."""
    return f"{recorder.url}/repos/local/{uuid4().hex}/pulls/3/reviews"


def post(url: str, review: Any = None, **headers: str) -> httpx2.Response:
    return httpx2.post(url, json=REVIEW if review is None else review, headers=TOKEN | headers)


def bodies(url: str, **params: int) -> list[str]:
    answer = httpx2.get(url, params=params, headers=TOKEN)
    assert answer.status_code == 200
    return [review["body"] for review in answer.json()]


def test_a_review_is_created_and_listed(pull: str) -> None:
    created = post(pull, {**REVIEW, "event": "REQUEST_CHANGES"})
    assert created.status_code == 200
    review = created.json()
    assert (review["state"], review["body"], review["commit_id"]) == ("CHANGES_REQUESTED", "Well done", "c" * 40)
    assert review["html_url"].endswith(f"/pull/3#pullrequestreview-{review['id']}")
    assert httpx2.get(pull, headers=TOKEN).json() == [review]
    assert httpx2.get(pull.replace("/3/", "/4/"), headers=TOKEN).json() == []
    assert created.headers["x-simulated"] == "true"


def test_the_same_review_twice_is_two_reviews(recorder: Service, pull: str) -> None:
    assert post(pull).json()["id"] != post(pull).json()["id"]
    assert bodies(pull) == ["Well done", "Well done"]
    name = pull.split("/")[-4]
    assert sum(entry["pull"][1] == name for entry in log.read(recorder.log)) == 2


def test_pages(pull: str) -> None:
    for number in range(7):
        post(pull, {**REVIEW, "body": str(number)})
    assert bodies(pull, per_page=3) == ["0", "1", "2"]
    assert bodies(pull, per_page=3, page=3) == ["6"]
    assert bodies(pull, per_page=3, page=4) == []
    followed, url = [], f"{pull}?per_page=2"
    while url:
        answer = httpx2.get(url, headers=TOKEN)
        followed += [review["body"] for review in answer.json()]
        url = answer.links.get("next", {}).get("url", "")
    assert followed == [str(number) for number in range(7)]


def test_what_github_refuses(recorder: Service, pull: str) -> None:
    def refused(answer: httpx2.Response) -> tuple[int, str]:
        assert answer.json()["status"] == str(answer.status_code)
        return answer.status_code, answer.json()["message"]

    assert refused(httpx2.post(pull, json=REVIEW)) == (401, "Bad credentials")
    assert refused(httpx2.get(pull)) == (401, "Bad credentials")
    assert refused(post(pull.replace("/3/", "/0/"))) == (404, "Not Found")
    assert refused(post(f"{recorder.url}/repos/local")) == (404, "Not Found")
    wrongs: tuple[Any, ...] = (
        {**REVIEW, "event": "SHIP_IT"},
        {**REVIEW, "body": ""},
        {**REVIEW, "comments": [{"path": "a.py", "body": "where?"}]},
        [],
    )
    for wrong in wrongs:
        assert refused(post(pull, wrong)) == (422, "Unprocessable Entity")
    assert bodies(pull) == []


def test_only_the_token_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("right\n", encoding="utf-8")
    with service("recorder", tmp_path / "log", "--token-file", str(tmp_path / "token")) as running:
        url = f"{running.url}/repos/a/b/pulls/1/reviews"
        assert post(url).status_code == 401
        assert post(url, authorization="Bearer right").status_code == 200
    assert b"right" not in (tmp_path / "log").read_bytes()


@pytest.mark.parametrize(
    ("fault", "recorded"),
    [("disconnect-before", 0), ("502", 0), ("disconnect-after", 1), ("502;after=1", 1)],
)
def test_a_lost_answer_says_nothing_about_the_write(pull: str, fault: str, recorded: int) -> None:
    if fault.startswith("disconnect"):
        with pytest.raises(httpx2.RemoteProtocolError):
            post(pull, **{"x-simulated-fault": fault})
    else:
        assert post(pull, **{"x-simulated-fault": fault}).status_code == 502
    assert len(bodies(pull)) == recorded


def test_a_delay(pull: str) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(pull, json=REVIEW, headers=TOKEN | {"x-simulated-fault": "delay=3"}, timeout=0.1)
    assert post(pull, **{"x-simulated-fault": "nonsense"}).status_code == 400


def test_a_plan(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    plan.write_text('{"fault": "502;after=1", "where": {"method": "POST"}, "times": 1}\n', encoding="utf-8")
    with service("recorder", tmp_path / "log", "--faults", str(plan)) as running:
        url = f"{running.url}/repos/a/b/pulls/1/reviews"
        assert [post(url).status_code for _ in range(2)] == [502, 200]
        assert len(bodies(url)) == 2


def test_reviews_are_back_after_kill_9(tmp_path: Path) -> None:
    file = tmp_path / "reviews.jsonl"
    with service("recorder", file) as running:
        first = post(f"{running.url}/repos/Local/Shop/pulls/1/reviews").json()
        running.kill()
    with file.open("ab") as torn:
        torn.write(b'{"pull": ["local", "sh')
    with service("recorder", file) as running:
        url = f"{running.url}/repos/local/shop/pulls/1/reviews"
        assert [review["id"] for review in httpx2.get(url, headers=TOKEN).json()] == [first["id"]]
        assert post(url).json()["id"] == first["id"] + 1
    with service("recorder", file) as running:
        assert len(bodies(f"{running.url}/repos/local/shop/pulls/1/reviews")) == 2
