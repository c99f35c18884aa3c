"""The example's effect against the recorder: what it posts, how it finds it again, and what each failure means."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from backbeat import EffectRefusedError
from backbeat.embedded.simulated import log
from examples.code_review import github
from examples.code_review.github import find_review, marker, post_review
from shared.errors import UnavailableError
from tests.support.simulated import Service, service


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What goes wrong, by the name of the repository."""
    file = tmp_path_factory.mktemp("plan") / "plan.jsonl"
    lines = [
        f'{{"fault": "{fault}", "where": {{"method": "{method}", "path": "/{name}-"}}}}'
        for name, method, fault in (
            ("refused", "POST", "422"),
            ("away", "POST", "503"),
            ("lost", "POST", "502;after=1"),
            ("cut", "POST", "disconnect-after"),
            ("blind", "GET", "500"),
        )
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory, plan: Path) -> Iterator[Service]:
    with service("recorder", tmp_path_factory.mktemp("recorder") / "log", "--faults", str(plan)) as running:
        yield running


@pytest.fixture(autouse=True)
def configured(recorder: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("simulated-token\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKBEAT_GITHUB_API", recorder.url)
    monkeypatch.setenv("BACKBEAT_GITHUB_TOKEN_FILE", str(tmp_path / "token"))


def request(name: str = "shop") -> dict[str, Any]:
    comment = {"path": "a.py", "line": 1, "side": "RIGHT", "body": "**major** Why?"}
    repository = f"local/{name}-{uuid4().hex}"
    return {
        "repository": repository,
        "number": 4,
        "commit_id": "c" * 40,
        "event": "COMMENT",
        "body": "Fine",
        "comments": [comment],
    }


def recorded(recorder: Service, asked: dict[str, Any]) -> list[dict[str, Any]]:
    name = asked["repository"].partition("/")[2]
    return [entry for entry in log.read(recorder.log) if entry["pull"][1] == name]


async def test_a_review_is_posted_with_its_marker_and_found_by_it(recorder: Service) -> None:
    asked = request()
    assert await find_review(asked, "k:post") is None
    posted = await post_review(asked, "k:post")
    assert posted == {
        "pull": f"{asked['repository']}#4",
        "id": posted["id"],
        "state": "COMMENTED",
        "url": posted["url"],
    }
    (entry,) = recorded(recorder, asked)
    assert entry["review"]["body"] == f"Fine\n\n{marker('k:post')}"
    assert entry["comments"] == asked["comments"]
    assert await find_review(asked, "k:post") == posted
    assert await find_review(asked, "k:other") is None


async def test_only_our_own_review_that_ends_with_the_mark_is_ours(
    recorder: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark in the middle of a text is somebody's quotation, and a review of somebody else's is none of ours."""
    asked = request()
    url = f"{recorder.url}/repos/{asked['repository']}/pulls/4/reviews"
    async with httpx2.AsyncClient(headers={"authorization": "Bearer simulated-token"}) as client:
        quoted = f"> Fine\n> {marker('k')}\n\nreally?"
        await client.post(url, json={"event": "COMMENT", "body": quoted})
        assert await find_review(asked, "k") is None
        forged = (await client.post(url, json={"event": "COMMENT", "body": f"Fine\n\n{marker('k')}\n"})).json()
    found = await find_review(asked, "k")
    assert found is not None
    assert found["id"] == forged["id"]
    monkeypatch.setattr(github, "_me", _somebody_else)
    assert await find_review(asked, "k") is None


async def _somebody_else(_client: httpx2.AsyncClient) -> int:
    return 2


async def test_a_token_that_may_not_ask_who_it_is_still_finds_its_review(
    recorder: Service, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitHub answers 403 to the token of an app, and the mark alone must do."""
    asked = request()
    posted = await post_review(asked, "k")
    monkeypatch.setattr(github, "_USER", "/nobody")
    assert await find_review(asked, "k") == posted


async def test_it_is_found_on_a_later_page(recorder: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(github, "_PAGE", 10)
    asked = request()
    url = f"{recorder.url}/repos/{asked['repository']}/pulls/4/reviews"
    async with httpx2.AsyncClient(headers={"authorization": "Bearer simulated-token"}) as client:
        for _ in range(25):
            await client.post(url, json={"event": "COMMENT", "body": "noise"})
    posted = await post_review(asked, "late")
    assert await find_review(asked, "late") == posted


async def test_a_refusal_is_certain(recorder: Service) -> None:
    asked = request("refused")
    with pytest.raises(EffectRefusedError, match=r"refused the review of local/refused-.*#4: 422"):
        await post_review(asked, "k")
    assert recorded(recorder, asked) == []


@pytest.mark.parametrize(("name", "written"), [("away", 0), ("lost", 1), ("cut", 1)])
async def test_no_answer_is_not_a_refusal(recorder: Service, name: str, written: int) -> None:
    asked = request(name)
    with pytest.raises((UnavailableError, httpx2.TransportError)):
        await post_review(asked, "k")
    assert len(recorded(recorder, asked)) == written
    assert bool(await find_review(asked, "k")) is bool(written)


async def test_not_being_able_to_look_is_not_finding_nothing() -> None:
    with pytest.raises(UnavailableError, match="500"):
        await find_review(request("blind"), "k")


async def test_without_settings_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, recorder: Service) -> None:
    asked = request()
    monkeypatch.setenv("BACKBEAT_GITHUB_TOKEN_FILE", "missing")
    with pytest.raises(EffectRefusedError, match="token file missing cannot be read"):
        await post_review(asked, "k")
    monkeypatch.delenv("BACKBEAT_GITHUB_TOKEN_FILE")
    with pytest.raises(EffectRefusedError, match="not configured"):
        await post_review(asked, "k")
    assert recorded(recorder, asked) == []


async def test_no_error_names_the_token(recorder: Service, tmp_path: Path) -> None:
    for name in ("refused", "lost"):
        with pytest.raises(Exception, match="review") as raised:
            await post_review(request(name), "k")
        assert "simulated-token" not in str(raised.value) + repr(raised.value)
    assert b"simulated-token" not in recorder.log.read_bytes()
