"""Whether what waits for people and for Temporal gets on: messages, runs, and effects that were approved."""

from collections.abc import Mapping
from typing import Any

from shared.db.pool import Database
from shared.db.queries import load

_SQL = load("health_approvals", "backbeat.operate")
LATE_SECONDS = 60.0  # for what takes milliseconds where workers and Temporal are there


async def findings(db: Database) -> list[tuple[str, str, bool, str]]:
    """What is looked at, what was found, whether it is wrong, and what to do then."""
    late = await db.row(_SQL["late"], {"seconds": LATE_SECONDS})
    return [_messages(late), _workers(late), _effects(late)]


def _messages(late: Mapping[str, Any]) -> tuple[str, str, bool, str]:
    if late["unheard"] is None:
        return "messages to Temporal", "none is late", False, ""
    found = f"the oldest waits for {late['unheard_for'] / 60:,.0f} min: {late['unheard']}"
    return "messages to Temporal", found, True, "`backbeat workflow show` that ID; `temporal-worker run` must be there"


def _workers(late: Mapping[str, Any]) -> tuple[str, str, bool, str]:
    found = f"{late['open']} runs are open, {late['workers']} workers are there"
    absent = bool(late["open"]) and not late["workers"]
    return "Temporal workers", found, absent, "Nobody goes on with them: start `temporal-worker run`"


def _effects(late: Mapping[str, Any]) -> tuple[str, str, bool, str]:
    if not late["unbegun"]:
        return "approved effects", "all have begun", False, ""
    oldest = f"the oldest, due for {late['unbegun_for'] / 60:,.0f} min: {late['oldest']}"
    found = f"{late['unbegun']} have not begun; {oldest}"
    return "approved effects", found, True, "`backbeat workflow show` that ID says what it waits for"
