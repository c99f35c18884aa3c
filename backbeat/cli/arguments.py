"""Kinds of values that options take. Each function reads one, or raises click.BadParameter saying what it wants."""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from math import isnan
from typing import Any
from uuid import UUID

import click

from shared import clock

SHORTEST_ID = 8  # digits
MOST_ROWS = 2**31 - 1  # what a column of counts, versions or steps holds
MOST_TOKENS = 10**15
_LONGEST = timedelta(days=36_500)
_MOST = Decimal(10) ** 12  # dollars
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d{1,6}(?:\.\d+)?)([smhdw])")


class Number(click.FloatRange):
    """A number of a range; NaN, which click lets through, is of none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As a float."""
        found = super().convert(value, param, ctx)
        if isnan(found):
            self.fail(f"{value!r} is not a number", param, ctx)
        return found


class Id(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """The id of a task, request or token: whole, or its first digits (8 at least) where no other begins like that."""

    def __init__(self, kind: str, digits: int = 32) -> None:
        self.name = self._kind = kind
        self._digits = digits

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        """As the help shows it."""
        return (param.human_readable_name or "id").upper()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The whole id; asks Postgres when there are too few digits. A UUID, or text where it is none."""
        digits = str(value).replace("-", "").lower()
        if not SHORTEST_ID <= len(digits) <= self._digits or not set(digits) <= set("0123456789abcdef"):
            self.fail(f"{value!r} is no {self._kind} id, nor its first {SHORTEST_ID} or more digits", param, ctx)
        if len(digits) < self._digits:
            digits = complete(self._kind, digits).replace("-", "")
        return UUID(digits) if self._digits == 32 else digits


def complete(kind: str, prefix: str) -> str:
    """The one id that begins with these digits. Raises NotFoundError, InputError naming some of several."""
    from backbeat.cli.output import database, run_async
    from backbeat.operate import inspect
    from shared.config import load
    from shared.errors import InputError, NotFoundError

    async def ask() -> list[str]:
        async with database(load()) as db:
            return await inspect.ids(db, kind, prefix)

    found = run_async(ask())
    if not found:
        raise NotFoundError(f"there is no {kind} whose id begins with {prefix}", fix="Check it, or give the whole id")
    if len(found) > 1:
        more = ", …" if len(found) > 3 else ""
        raise InputError(f"{prefix} may be {', '.join(found[:3])}{more}", fix="Give more digits")
    return found[0]


def duration(text: str) -> timedelta:
    """90s, 10m, 12h, 7d, 2w."""
    match = _DURATION.fullmatch(text)
    if not match or not float(match[1]):
        raise click.BadParameter(f"{text!r} is no duration such as 90s, 10m, 12h or 7d")
    found = timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    if found > _LONGEST:
        raise click.BadParameter(f"{text!r} is more than a hundred years")
    return found


def moment(text: str) -> datetime:
    """ISO 8601 with a zone, or a duration from now: +10m."""
    if text.startswith("+"):
        return clock.wall() + duration(text[1:])
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise click.BadParameter(f"{text!r} names no time zone; add Z or +01:00")
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is no moment such as 2030-01-31T08:00:00Z or +10m") from None


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
    if not found.is_finite() or not 0 <= found <= _MOST:
        raise click.BadParameter(f"{text!r} is no amount such as 2.50")
    return found
