"""Model calls: reserve before the bytes leave, close before the answer is used."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import clean, storable
from shared.domain.usage import Usage

_SQL = load("calls")


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a call is asked to be: who pays, where it goes, and the most it can cost (USD None: unknown price)."""

    owner: UUID
    lease: int
    key: str
    request_hash: str
    route: str
    tier: str
    provider: str
    model: str
    usd: Decimal | None
    tokens: int
    price_version: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Postgres' answer: open, memo, held, snooze, unpriced, stopped or fenced (see `backbeat.open_call`)."""

    verdict: str
    seq: int
    response: Any
    detail: str
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Closing:
    """How a call ended: `done` with its bill, `refused` without one, or `lost`."""

    status: str
    usage: Usage | None = None
    cost: Decimal | None = None
    response: Any = None
    valid: bool | None = None
    stop: str | None = None
    model_answered: str | None = None
    response_id: str | None = None
    price_version: str | None = None
    error_class: str | None = None
    error: str | None = None


async def open_call(db: Database, ask: Reservation) -> Verdict:
    """Ask leave to send a call."""
    row = await db.row(
        _SQL["open_call"],
        {
            "owner": ask.owner,
            "lease": ask.lease,
            "key": ask.key,
            "request_hash": ask.request_hash,
            "route": ask.route,
            "tier": ask.tier,
            "provider": ask.provider,
            "model": ask.model,
            "reserve_usd": ask.usd,
            "reserve_tokens": ask.tokens,
            "price_version": ask.price_version,
        },
    )
    return Verdict(row["verdict"], row["seq"] or 0, row["response"], row["detail"] or "", row["until"])


async def close_call(db: Database, owner: UUID, key: str, seq: int, end: Closing) -> bool:
    """Write how a call ended; False when it was closed before."""
    row = await db.row(
        _SQL["close_call"],
        {
            "owner": owner,
            "key": key,
            "seq": seq,
            "status": end.status,
            "usage": storable(end.usage.as_dict()) if end.usage else None,
            "cost": end.cost,
            "response": None if end.response is None else storable(end.response),
            "valid": end.valid,
            "stop": end.stop,
            "model_answered": clean(end.model_answered),
            "response_id": clean(end.response_id),
            "error_class": end.error_class,
            "error": clean(end.error),
        },
    )
    return bool(row["written"])


async def calls_of_lease(db: Database, owner: UUID, lease: int) -> list[dict[str, Any]]:
    """The calls of one run, however they stand."""
    return await db.rows(_SQL["calls_of_lease"], {"owner": owner, "lease": lease})


async def route_p95(db: Database) -> dict[str, float]:
    """Seconds within which 95 % of each route's recent calls were answered."""
    return {row["route"]: row["seconds"] for row in await db.rows(_SQL["route_p95"])}
