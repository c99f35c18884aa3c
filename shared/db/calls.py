"""Model calls: reserve before the bytes leave, close before the answer is used."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import storable
from shared.db.together import Together
from shared.domain.usage import Usage

_SQL = load("calls")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a call is asked to be: who pays, where it goes, and the most it can cost (USD None: unknown price).

    `likely_usd` and `likely_tokens` are what a soft cap reserves; None: the most, too. `meets` is equal for calls that
    meet on the same hot budgets: those that come at the same time are asked in one statement.
    """

    owner: UUID
    lease: int | None
    key: str
    request_hash: str
    route: str
    tier: str
    provider: str
    model: str
    usd: Decimal | None
    tokens: int
    price_version: str
    likely_usd: Decimal | None = None
    likely_tokens: int | None = None
    meets: str = ""
    prefix: str | None = None
    cache: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Postgres' answer, of the kinds that `backbeat.open_calls` tells apart."""

    verdict: str
    seq: int
    response: Any
    detail: str
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Closing:
    """How a call ended: `done` with its bill, `refused` without one, or `lost`. `tools_called` is for its span."""

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
    tools_called: int = 0


class _Desk:
    """A process' way to its calls: what its coroutines ask at the same time goes in one statement.

    `name` is what leased blocks of hot budgets are known by.
    """

    def __init__(self, db: Database) -> None:
        self._db, self.name = db, uuid4().hex
        self.openings: defaultdict[str, Together] = defaultdict(lambda: Together(self._open))
        self.closings = Together(self._close)

    async def _open(self, asks: Sequence[Row]) -> dict[int, Row]:
        places = dict(enumerate(asks, 1))
        answers: dict[int, Row] = {}
        while places:
            asked = list(places)
            calls = storable([places[place] for place in asked])
            for row in await self._db.rows(_SQL["open_calls"], {"worker": self.name, "calls": calls}):
                if row["verdict"] != "again":
                    place = asked[row["n"] - 1]
                    answers[place] = row
                    del places[place]
        return answers

    async def _close(self, ends: Sequence[Row]) -> dict[int, bool]:
        return {row["n"]: True for row in await self._db.rows(_SQL["close_calls"], {"ends": storable(ends)})}


_DESKS: WeakKeyDictionary[Database, _Desk] = WeakKeyDictionary()


def _desk(db: Database) -> _Desk:
    return _DESKS.get(db) or _DESKS.setdefault(db, _Desk(db))


async def open_call(db: Database, ask: Reservation) -> Verdict:
    """Ask leave to send a call."""
    alike = ("lease", "request_hash", "route", "tier", "provider", "model", "price_version", "prefix", "cache")
    question = {name: getattr(ask, name) for name in alike} | {
        "owner": str(ask.owner),
        "call_key": ask.key,
        "reserved_usd": _exact(ask.usd),
        "reserved_tokens": ask.tokens,
        "likely_usd": _exact(ask.usd if ask.likely_usd is None else ask.likely_usd),
        "likely_tokens": ask.tokens if ask.likely_tokens is None else ask.likely_tokens,
    }
    row = await _desk(db).openings[ask.meets].ask(question)
    return Verdict(row["verdict"], row["seq"] or 0, row["response"], row["detail"] or "", row["until"])


async def close_call(db: Database, owner: UUID, key: str, seq: int, end: Closing) -> bool:
    """Write how a call ended; False when it was closed before."""
    usage = end.usage.as_dict() if end.usage else {}
    alike = ("status", "response", "valid", "stop", "model_answered", "response_id", "error_class", "error")
    told = {"owner": str(owner), "call_key": key, "seq": seq, "cost_usd": _exact(end.cost)}
    question = usage | told | {name: getattr(end, name) for name in alike}
    return bool(await _desk(db).closings.ask(question))


async def return_blocks(db: Database) -> None:
    """Give back what this process leased of hot budgets."""
    await db.rows(_SQL["return_blocks"], {"worker": _desk(db).name})


async def return_expired_blocks(db: Database) -> None:
    """Give back what dead processes leased of hot budgets; a living one leases anew."""
    await db.rows(_SQL["return_blocks"], {"worker": None})


async def calls_of_lease(db: Database, owner: UUID, lease: int | None) -> list[Row]:
    """The calls of one run, however they stand."""
    return await db.rows(_SQL["calls_of_lease"], {"owner": owner, "lease": lease})


async def route_p95(db: Database) -> dict[str, float]:
    """Seconds within which 95 % of each route's recent calls were answered."""
    return {row["route"]: row["seconds"] for row in await db.rows(_SQL["route_p95"])}


async def likely_shares(db: Database) -> dict[tuple[str, str], tuple[Decimal, Decimal]]:
    """The part of its reservation, in USD and in tokens, that 95 % of a (workflow, route)'s recent calls kept to.

    Learned from the last 1,000 answered calls of two days; absent while fewer than 20 of them are its own.
    """
    rows = await db.rows(_SQL["likely_shares"])
    return {(row["workflow"], row["route"]): (row["usd"], row["tokens"]) for row in rows}


async def beat(db: Database) -> float | None:
    """Seconds between the ticks that found work, of six hours; None where there were not two."""
    seconds: float | None = (await db.row(_SQL["beat"]))["seconds"]
    return seconds


async def last_prefixes(db: Database) -> list[Row]:
    """The prefixes that were sent last, each with its workflow, its model and its age in seconds."""
    return await db.rows(_SQL["last_prefixes"])


def _exact(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)
