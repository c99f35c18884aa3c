"""What people say about tiers and routes while everything runs; workers read it within seconds."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from backbeat.operate.actions import do
from shared.db import rates
from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import storable
from shared.llm.routes import Route, Routes

_SQL = load("routes", "backbeat.operate")
Body = dict[str, Any]


async def current(db: Database, base: Routes) -> Routes:
    """The routes file with what Postgres says over it. Raises ConfigError where the two do not fit."""
    return base.over(await rates.said(db))


async def change(db: Database, base: Routes, scope: str, key: str, new: Mapping[str, Any], by: str) -> bool:
    """Say more about a tier or a route; keys that are None are taken back. False when nothing was said and nothing is.

    Raises ConfigError, changing nothing, when the outcome would be no proper routes.
    """
    said = await rates.said(db)
    before: Body = next((row["body"] for row in said if (row["scope"], row["key"]) == (scope, key)), {})
    after = {name: value for name, value in {**before, **new}.items() if value is not None}
    others = [row for row in said if (row["scope"], row["key"]) != (scope, key)]
    base.over([*others, {"scope": scope, "key": key, "body": after}] if after else others)
    if before == after:
        return False
    params = {"scope": scope, "key": key, "body": storable(after) if after else None, "by": by}
    await do(db, _SQL["set"], params)
    return True


async def unblock(db: Database, route: str) -> None:
    """Let calls take a route again that a vendor, or its own fault, has shut."""
    await do(db, _SQL["unblock"], {"route": route})


async def held_routes(db: Database) -> dict[str, str]:
    """The routes that no call may take, with the reasons."""
    return {row["key"]: row["reason"] for row in await db.rows(_SQL["held"])}


async def listing(db: Database, base: Routes) -> list[dict[str, Any]]:
    """A row for each route of each tier, best first: what it is, what it may, and what is left of that this minute."""
    routes, held = await current(db, base), await held_routes(db)
    standing = {row["route"]: row for row in await db.rows(_SQL["standing"])}
    used = {row["route"]: row for row in await db.rows(_SQL["last_minute"])}
    rows = []
    for tier, served in routes.tiers.items():
        canary, percent = routes.canaries.get(tier, (None, 0))
        for one in (*served, *([canary] if canary else [])):
            share = f"{percent} %" if one is canary else None
            at, took = standing.get(one.name, {}), used.get(one.name, {})
            rows.append({"tier": tier, "route": one.name, "canary": share, **_shown(one, held, at, took)})
    return rows


def _shown(one: Route, held: Mapping[str, str], at: Mapping[str, Any], took: Mapping[str, Any]) -> dict[str, Any]:
    told = at.get("told") or [None, None, None]
    limits = [min(filter(None, pair), default=None) for pair in zip((one.rpm, one.itpm, one.otpm), told, strict=True)]
    used = [took.get(name) or 0 for name in ("requests", "input", "output")]
    left = [None if limit is None else max(int(limit) - int(was), 0) for limit, was in zip(limits, used, strict=True)]
    blocked: datetime | None = at.get("blocked_until")
    return {
        "provider": one.provider,
        "model": one.model,
        "window": one.window,
        "max_output": one.max_output,
        "bounded": one.bounded,
        "limits": dict(zip(("rpm", "itpm", "otpm"), (one.rpm, one.itpm, one.otpm), strict=True))
        | {"max_in_flight": one.max_in_flight},
        "left": dict(zip(("rpm", "itpm", "otpm"), left, strict=True)),
        "in_flight": took.get("in_flight") or 0,
        "rate": round(at.get("rate") or 1.0, 2),
        "blocked_until": blocked,
        "blocked_by": at.get("blocked_by") if blocked else None,
        "held": one.name in held,
        "reason": held.get(one.name),
        "sunset": one.sunset.isoformat() if one.sunset else None,
    }
