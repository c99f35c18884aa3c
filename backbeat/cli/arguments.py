"""Kinds of values that options take. Each function reads one, or raises click.BadParameter saying what it wants."""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from shared import clock

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d{1,6}(?:\.\d+)?)([smhdw])")


def duration(text: str) -> timedelta:
    """90s, 10m, 12h, 7d, 2w."""
    match = _DURATION.fullmatch(text)
    if not match or not float(match[1]):
        raise click.BadParameter(f"{text!r} is no duration such as 90s, 10m, 12h or 7d")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def moment(text: str) -> datetime:
    """ISO 8601 with a zone, or a duration from now: +10m."""
    if text.startswith("+"):
        return clock.wall() + duration(text[1:])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no moment such as 2030-01-31T08:00:00Z or +10m") from None
    if found.tzinfo is None:
        raise click.BadParameter(f"{text!r} names no time zone; add Z or +01:00")
    return found.astimezone(UTC)


def json_value(text: str) -> Any:
    """One JSON value."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"this is not JSON: {error}") from None


def amount(text: str) -> Decimal:
    """2.50, exact."""
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("nan")
    if not found.is_finite() or found < 0:
        raise click.BadParameter(f"{text!r} is no amount such as 2.50")
    return found
