"""What options take, and what they refuse."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import click
import pytest

from backbeat.cli import arguments
from shared import clock


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5m", 90), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert arguments.duration(text) == timedelta(seconds=seconds)


def test_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    noon = datetime(2030, 1, 31, 12, tzinfo=UTC)
    monkeypatch.setattr(clock, "wall", lambda: noon)
    assert arguments.moment("+10m") == noon + timedelta(minutes=10)
    assert arguments.moment("2030-01-31T13:00:00+01:00") == noon
    assert arguments.moment("2030-01-31T12:00:00Z") == noon


def test_json_and_amounts() -> None:
    assert arguments.json_value('{"a": [1, null]}') == {"a": [1, None]}
    assert arguments.amount("2.50") == Decimal("2.50")


@pytest.mark.parametrize(
    ("reader", "text", "complaint"),
    [
        (arguments.duration, "10", "no duration"),
        (arguments.duration, "0s", "no duration"),
        (arguments.duration, "-5m", "no duration"),
        (arguments.duration, "9999999w", "no duration"),
        (arguments.duration, "999999w", "more than a hundred years"),
        (arguments.moment, "+99999w", "more than a hundred years"),
        (arguments.moment, "9999-12-31T23:00:00-10:00", "no moment"),
        (arguments.amount, "1e999999", "no amount"),
        (arguments.moment, "tomorrow", "no moment"),
        (arguments.moment, "2030-01-31T12:00:00", "names no time zone"),
        (arguments.moment, "+soon", "no duration"),
        (arguments.json_value, "{", "not JSON"),
        (arguments.json_value, "[" * 100_000, "not JSON"),
        (arguments.amount, "much", "no amount"),
        (arguments.amount, "-1", "no amount"),
        (arguments.amount, "inf", "no amount"),
        (arguments.amount, "nan", "no amount"),
    ],
)
def test_what_is_refused(reader: Callable[[str], Any], text: str, complaint: str) -> None:
    with pytest.raises(click.BadParameter, match=complaint):
        reader(text)
