"""`backbeat up`, `status`, `down` with real engines, in a directory with a space in its name."""

import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Done, command

ENGINES = ("postgres", "provider", "recorder")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "a home"
    made.mkdir()
    yield made
    command("backbeat", "down", home=made)
    command("backbeat", "down", "--dir", "else where", home=made)


def _backbeat(home: Path, *arguments: str) -> Done:
    return command("backbeat", *arguments, home=home, within=150)


def test_up_work_status_down(home: Path) -> None:
    up = _backbeat(home, "up", "--profile", "cron-only", "-o", "json").fine()
    assert {engine["name"]: engine["state"] for engine in up.json["engines"]} == dict.fromkeys(ENGINES, "ready")
    assert _backbeat(home, "task", "list").fine().err == "none\n"
    again = _backbeat(home, "up", "--profile", "cron-only", "-o", "json").fine()
    assert again.json["engines"] == up.json["engines"]
    assert "already running" in again.err
    table = _backbeat(home, "status").fine().out.splitlines()
    assert [line.split()[:2] for line in table[1:4]] == [
        [name, "ready"] for name in ("postgres", "provider", "recorder")
    ]

    _backbeat(home, "down").fine()
    status = _backbeat(home, "status", "-o", "json")
    assert status.code == 1
    assert {engine["state"] for engine in status.json["engines"]} == {"stopped"}
    said = _backbeat(home, "task", "list").refused(75)
    assert said.startswith("backbeat: Postgres does not answer: ")
    assert said.endswith(". Start it: `backbeat up`")
    tick = command("cron_worker", "tick", "--budget", "1s", home=home).refused(75)
    assert tick.endswith(". Start it: `backbeat up`")
    assert "Postgres does not answer" not in _backbeat(home, "up", "--profile", "cron-only").fine().err


def test_status_and_down_where_nothing_ever_ran(home: Path) -> None:
    where = home / "var"
    assert _backbeat(home, "status").refused(3) == f"backbeat: there is no stack in {where}. `backbeat up` makes one"
    assert _backbeat(home, "down").fine().err.startswith("nothing runs in ")


def test_a_port_that_is_taken_and_a_directory_elsewhere(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        arguments = ("up", "--profile", "cron-only", "--dir", "else where", "--port", f"postgres={port}")
        said = _backbeat(home, *arguments).refused(5)
        assert said == f"backbeat: port {port} for postgres is taken. Stop what listens there, or name another"
    done = _backbeat(home, *arguments).fine()
    (hint,) = [line for line in done.err.splitlines() if line.startswith("To use it: ")]
    assert shlex.split(hint)[-1] == f"BACKBEAT_CONFIG={home / 'else where' / 'backbeat.toml'}"
    assert f"postgres  ready  {port:>5}" in done.out
