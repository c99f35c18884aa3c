"""The rates that all processes share, and what people say about routes while they run."""

from typing import Any

from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import storable

_SQL = load("rates")
Row = dict[str, Any]


async def admit(db: Database, worker: str, route: Any, news: Row, asks: list[Row]) -> list[Row]:
    """Ask for the moments of calls on a `Route`; news, asks and verdicts are those of `backbeat.admit`."""
    limits = {"limits": [route.rpm, route.itpm, route.otpm], "most": route.max_in_flight}
    said = {"worker": worker, "route": route.name, "news": storable(news), "asks": storable(asks)}
    return await db.rows(_SQL["admit"], limits | said)


async def block(db: Database, route: str, seconds: float, why: str, *, shrink: bool) -> bool:
    """Let nobody send on a route for a while; `shrink` slows it down after that. False when the same had shut it."""
    said = {"route": route, "seconds": seconds, "why": why, "shrink": shrink}
    return bool((await db.row(_SQL["block"], said))["first"])


async def said(db: Database) -> list[Row]:
    """What stands in Postgres about tiers and routes: overrides, pauses, blocks and how long, limits told."""
    return await db.rows(_SQL["said"])
