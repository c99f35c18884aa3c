"""The fixture repository is the same everywhere, and its defects lead to the decisions it promises."""

from pathlib import Path

import pytest

from backbeat.embedded.simulated import rules
from examples.code_review import fixture
from examples.code_review.fixture import BLOCKING, COMMITS, HEAD, TRIVIAL, build
from examples.code_review.history import last_commits
from examples.code_review.models import Commit
from shared.errors import InputError


@pytest.fixture
def commits(tmp_path: Path) -> dict[int, Commit]:
    return {commit.number: commit for commit in last_commits(build(tmp_path / "orders.git"), COMMITS).commits}


def test_hashes_are_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever builds it, wherever, with whatever configuration."""
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.autocrlf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    one, two = (last_commits(build(tmp_path / name / "orders.git"), COMMITS).commits for name in ("a b", "c"))
    assert one == two
    assert one[-1].sha == HEAD
    assert [commit.number for commit in one] == list(range(1, COMMITS + 1))
    assert {commit.repository for commit in one} == {"local/orders"}
    assert [commit.notes for commit in one] == [()] * COMMITS


def test_decisions_are_foreseeable(commits: dict[int, Commit]) -> None:
    facts = {number: rules.read(f"{commit.subject}\n\n{commit.diff}") for number, commit in commits.items()}
    assert tuple(number for number, one in facts.items() if one.worst == "critical") == BLOCKING
    assert tuple(number for number, one in facts.items() if one.trivial) == TRIVIAL
    assert len(BLOCKING) >= 5


def test_building_again_finds_it(tmp_path: Path) -> None:
    path = build(tmp_path / "orders.git")
    before = sorted(file.stat().st_mtime_ns for file in path.rglob("*"))
    assert build(path) == path
    assert sorted(file.stat().st_mtime_ns for file in path.rglob("*")) == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_stands_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "orders.git").mkdir()
    (tmp_path / "orders.git" / "precious").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="is not the fixture repository"):
        build(tmp_path / "orders.git")
    assert (tmp_path / "orders.git" / "precious").exists()


def test_a_changed_stream_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = tmp_path / "stream"
    stream.write_bytes(fixture._STREAM.read_bytes().replace(b"Start the order service", b"Begin the order service"))
    monkeypatch.setattr(fixture, "_STREAM", stream)
    with pytest.raises(InputError, match="gives another history"):
        build(tmp_path / "orders.git")
    assert not (tmp_path / "orders.git").exists()
