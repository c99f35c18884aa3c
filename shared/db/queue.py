"""Tasks: claim, heartbeat, settle, reap. Postgres decides; this only asks. How they come in: `backbeat.producer`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from shared import clock
from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import storable
from shared.domain.outcome import Dead, Escalate, FanOut, Hold, Outcome, Release, Retry, Snooze, Succeed
from shared.errors import SchemaError, UnavailableError
from shared.ids import digest

_SQL = load("queue")
MOST_SWEEPS = 50  # in one go, while a window is full of rows whose version nobody has loaded


class Task(NamedTuple):
    """A claimed row: what to do, and the lease that every later write must name. `alone`: with no other beside it.

    `first_id` is the task it was before it was requeued, or itself.
    """

    id: UUID
    tenant: str
    workflow: str
    version: int
    tier: str
    class_: str
    payload: Any
    attempts: int
    max_attempts: int
    alone: bool
    lease: int
    worker: str
    started_at: datetime
    origin_id: UUID
    first_id: UUID
    idempotency_key: bytes | None
    traceparent: str
    created_at: datetime
    source_at: datetime | None
    parent_id: UUID | None = None

    @property
    def name(self) -> str:
        """The definition that runs it, as `workers.loaded` spells it."""
        return f"{self.workflow}@{self.version}"

    @property
    def effect_scope(self) -> str:
        """What its effects are once for: the task, or, where equal payloads are one task, whichever task that is."""
        return str(self.first_id) if self.idempotency_key is None else digest(self.tenant, self.idempotency_key.hex())


_values = itemgetter(*Task._fields)  # made by the thousand, which a frozen dataclass takes many times as long for


async def register(db: Database, worker: str, kind: str, definitions: Sequence[Mapping[str, Any]]) -> int:
    """Say which definitions this process has loaded; returns how many rows that waited for them were released."""
    params = {"worker": worker, "kind": kind, "definitions": Jsonb(list(definitions))}
    return int((await db.row(_SQL["register_worker"], params))["released"])


async def start_tick(db: Database, worker: str) -> UUID:
    """Open the record of one tick and return its id."""
    tick: UUID = (await db.row(_SQL["start_tick"], {"worker": worker}))["id"]
    return tick


async def end_tick(db: Database, tick: UUID, claimed: int, settled: int) -> None:
    """Close the record of a tick."""
    await db.rows(_SQL["end_tick"], {"id": tick, "claimed": claimed, "settled": settled})


async def expired_leases(db: Database, limit: int = 100) -> list[dict[str, Any]]:
    """The runs that `reap` would take back now, as they stand."""
    return await db.rows(_SQL["expired_leases"], {"limit": limit})


async def reap(db: Database, limit: int = 100, leases: Sequence[int] | None = None) -> int:
    """Take back runs whose worker stopped renewing its lease, of `leases` only when given; returns how many."""
    return len(await db.rows(_SQL["reap"], {"limit": limit, "leases": None if leases is None else list(leases)}))


async def sweep(db: Database, limit: int = 5000, *, days: bool = True) -> Mapping[str, int]:
    """Move what time alone moves, `days` of history too; returns the counts due, expired, promoted, unloaded."""
    if days:
        await db.rows(_SQL["maintain_partitions"])
    total: Counter[str] = Counter()
    for _ in range(MOST_SWEEPS):
        moved = await db.row(_SQL["sweep"], {"limit": limit})
        total.update(moved)
        # Rows that nobody can run left their windows: others may be behind them.
        if not moved["unloaded"]:
            break
    return total


async def claim(
    db: Database,
    worker: str,
    loaded: Sequence[str],
    limit: int,
    lease_seconds: float,
    *,
    idle: bool = True,
    bulk: bool = False,
) -> list[Task]:
    """Take up to `limit` ready tasks of the named definitions, each under a new lease; `bulk` from the bulk lanes.

    Only a worker that is `idle` may get a task that must run alone; it then gets that one and claims nothing beside it.
    """
    params = {"worker": worker, "loaded": list(loaded), "limit": limit, "lease_seconds": lease_seconds, "idle": idle}
    return [Task._make(_values(row)) for row in await db.rows(_SQL["claim_bulk" if bulk else "claim"], params)]


async def turn(
    db: Database,
    ends: Sequence[tuple[Task, Outcome]],
    worker: str,
    loaded: Sequence[str],
    limit: int,
    lease_seconds: float,
) -> tuple[set[UUID], list[Task]]:
    """Settle bulk rows and take the next ones in one transaction; the ids that were refused, and the new tasks.

    What Postgres will not settle together is settled apart, and nothing is taken then; nor when somebody else is
    at the flows just now: ask `claim_bulk`, which waits.
    """
    params = {"worker": worker, "loaded": list(loaded), "limit": limit, "lease_seconds": lease_seconds}
    try:
        rows = await db.rows(_SQL["turn"], params | {"rows": _rows(ends)})
    except (UnavailableError, SchemaError):
        raise
    except Exception:
        return await settle(db, ends), []
    refused = {row["id"] for row in rows if row["lease"] is None}
    return refused, [Task._make(_values(row)) for row in rows if row["lease"] is not None]


async def heartbeat(db: Database, worker: str, tasks: Sequence[Task], lease_seconds: float) -> set[UUID]:
    """Prolong leases; returns the tasks that are somebody else's by now."""
    held = {"ids": [task.id for task in tasks], "leases": [task.lease for task in tasks]}
    params = held | {"worker": worker, "lease_seconds": lease_seconds}
    return {row["id"] for row in await db.rows(_SQL["heartbeat"], params)}


async def settle(db: Database, ends: Sequence[tuple[Task, Outcome]]) -> set[UUID]:
    """Record how attempts ended; returns the tasks whose lease was lost, of which nothing was written.

    An escalation is settled alone, and a batch that Postgres refuses is settled row by row, so that one bad
    outcome cannot undo the others; that one ends in the dead letters. Raises UnavailableError.
    """
    alone = [[end] for end in ends if isinstance(end[1], Escalate)]
    together = [end for end in ends if not isinstance(end[1], Escalate)]
    refused: set[UUID] = set()
    for batch in [together, *alone] if together else alone:
        try:
            refused |= await _settle(db, batch)
        except (UnavailableError, SchemaError):
            raise
        except Exception as error:
            # Refused by Postgres, or no JSON at all.
            if len(batch) > 1:
                for end in batch:
                    refused |= await settle(db, [end])
            else:
                refused |= await _settle(db, [(batch[0][0], Dead("not_storable", str(error)))])
    return refused


async def _settle(db: Database, batch: Sequence[tuple[Task, Outcome]]) -> set[UUID]:
    return {answer["id"] for answer in await db.rows(_SQL["settle"], {"rows": _rows(batch)})}


def _rows(batch: Sequence[tuple[Task, Outcome]]) -> Jsonb:
    return storable([{"id": str(task.id), "lease": task.lease, **_row(outcome)} for task, outcome in batch])


async def ready_tiers(db: Database) -> list[str]:
    """The tiers of which tasks are ready."""
    return [row["tier"] for row in await db.rows(_SQL["ready_tiers"])]


async def switches(db: Database) -> dict[str, str]:
    """The kill switches that are thrown, with their reasons."""
    return {row["name"]: row["reason"] for row in await db.rows(_SQL["switches"])}


def _moment(until: datetime) -> str:
    """A century is as good as never, and a year past 9999 fits into Postgres and into no Python that reads it."""
    never = clock.wall() + timedelta(days=36_500)
    return min(until if until.tzinfo else until.replace(tzinfo=UTC), never).isoformat()


def _row(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case Succeed(result):
            return {"outcome": "succeed", "result": result}
        case Retry(error_class, error, after):
            return {"outcome": "retry", "error_class": error_class, "error": error, "after": after}
        case Release(reason, after):
            return {"outcome": "release", "reason": reason, "error": reason, "after": after}
        case Snooze(until):
            return {"outcome": "snooze", "until": _moment(until)}
        case Hold(reason, key, until, why):
            return {"outcome": "hold", "reason": reason, "key": key, "until": until and _moment(until), "error": why}
        case Dead(error_class, error):
            return {"outcome": "dead", "error_class": error_class, "error": error}
        case FanOut(children, result):
            made = [{"workflow": c.workflow, "version": c.version, "payload": c.payload} for c in children]
            return {"outcome": "fan_out", "result": result, "children": made}
        case Escalate(workflow, body, result):
            return {"outcome": "escalate", "workflow": workflow, "input": body, "result": result}


async def register_definitions(db: Database, runtime: str, definitions: Sequence[Mapping[str, Any]]) -> None:
    """Make definitions known, so that tasks of them can be enqueued before any worker came."""
    await db.rows(_SQL["register_definitions"], {"runtime": runtime, "definitions": storable(list(definitions))})
