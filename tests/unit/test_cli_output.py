"""Tables and JSON: exact, within their width, and harmless to a terminal."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from backbeat.cli.output import PIPE_WIDTH, emit
from backbeat.visible import clean

ID = UUID("01a203b6-a07d-7bfb-8827-564de37ba04f")


class Pair(NamedTuple):
    left: int
    right: str


@dataclass
class Point:
    x: Decimal
    at: datetime


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is seen of it: without what makes a heading bold on a terminal."""
    return re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out).splitlines()


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime(2030, 1, 31, 9, tzinfo=timezone(timedelta(hours=1)))
    emit([{"id": "a", "cost_usd": Decimal("1.50"), "at": moment}, {"id": "bcd", "cost_usd": None, "at": None}])
    assert _lines(capsys) == [
        "id   cost usd  at",
        "a       $1.50  2030-01-31 08:00:00Z",
        "bcd         -  -",
    ]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make stdout a terminal of so many columns."""

    def start(columns: int) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    return start


def test_off_a_terminal_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"id": ID, "error": "e" * 300, "other": ID}])
    assert _lines(capsys)[1] == f"{ID}  {'e' * 300}  {ID}"


def test_an_id_is_never_cut(capsys: pytest.CaptureFixture[str], terminal: Callable[[int], None]) -> None:
    terminal(60)
    emit([{"name": "n", "error": "e" * 99, "other": ID}])
    assert _lines(capsys)[1] == f"n     {'e' * 15}…  {ID}"


def test_a_wide_table_keeps_its_width_and_its_first_column(
    capsys: pytest.CaptureFixture[str], terminal: Callable[[int], None]
) -> None:
    terminal(100)
    row = {"id": ID, "workflow": "w" * 63, "at": datetime(2030, 1, 31, tzinfo=UTC), "n": 12345, "error": "e" * 200}
    emit([row, {**row, "error": "two\nlines and 日本語" * 20}])
    head, first, second = _lines(capsys)
    assert all(len(line) <= PIPE_WIDTH for line in (head, first, second))
    assert first.startswith(f"{ID}  w")
    assert "2030-01-31 00:00:00Z  12345  e" in first
    assert first.endswith("e…")
    assert "two lines" in second


def test_a_table_may_fold_instead(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"id": ID, "error": "word " * 30}], fold=True)
    lines = _lines(capsys)
    assert sum(line.count("word") for line in lines) == 30
    assert all(len(line) <= PIPE_WIDTH for line in lines)


def test_columns_choose_and_order(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"a": 1, "b": 2}], columns=["b", "a"], title="both")
    assert _lines(capsys) == ["both", "b  a", "2  1"]


def test_a_sheet_folds_and_does_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"name": "x", "payload": {"b": [1, 2], "a": "y" * 150}, "ok": True, "none": None})
    out = capsys.readouterr().out
    assert out.count("y") == 150 + 2  # and those of payload and yes
    assert all(len(line) <= PIPE_WIDTH for line in out.splitlines())
    assert "ok       yes" in out
    assert "none     -" in out


def test_no_rows_are_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    emit([], title="applied")
    assert capsys.readouterr() == ("", "applied: none\n")
    emit([], output="json")
    assert capsys.readouterr() == ("[]\n", "")


def test_a_named_tuple_is_a_sheet_and_not_rows(capsys: pytest.CaptureFixture[str]) -> None:
    emit(Pair(1, "x"))
    assert _lines(capsys) == ["left   1", "right  x"]


def test_json_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    data = {
        "id": ID,
        "cost": Decimal("0.000000020"),
        "big": 2**70,
        "at": datetime(2030, 1, 31, 9, tzinfo=timezone(timedelta(hours=1))),
        "points": [Point(Decimal("1E+2"), datetime(2030, 1, 1, tzinfo=UTC))],
        "pair": Pair(1, "x"),
        "key": b"\x01\xff",
        "set": {"a"},
    }
    emit(data, output="json")
    assert json.loads(capsys.readouterr().out) == {
        "id": str(ID),
        "cost": "0.000000020",
        "big": 2**70,
        "at": "2030-01-31T08:00:00+00:00",
        "points": [{"x": "100", "at": "2030-01-01T00:00:00+00:00"}],
        "pair": {"left": 1, "right": "x"},
        "key": "01ff",
        "set": ["a"],
    }


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize("data", [[{"error": "\x1b[2J\u202egone[red]x"}], {"error": "\x1b[2J\u202egone[red]x"}])
def test_no_cell_commands_the_terminal(capsys: pytest.CaptureFixture[str], data: Any, output: str) -> None:
    emit(data, output=output)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "u202egone[red]x" in out


def test_clean_keeps_lines_and_letters() -> None:
    assert clean("é日\n\tx") == "é日\n\tx"
    assert clean("a\rb\x9b\u200f") == "a\\rb\\x9b\\u200f"
