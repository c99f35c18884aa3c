"""How fast tasks come in: 5,000 a transaction through COPY, from dictionaries in Python to committed rows.

The limit in the same interleaved run is a bare COPY of the same payloads into a table with a primary key and one index.
`plain` is a definition without idempotency, `keyed` one with; both leave rows that the fair windows draw from.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from statistics import median
from time import perf_counter, process_time
from typing import Any

import psycopg
from pydantic import BaseModel

from backbeat.producer.rows import Terms
from backbeat.producer.submit import ABREAST, PART, submit_many
from benchmarks.bench import Server, finish, say, server
from shared.db import pool
from shared.db.pool import Database
from shared.definitions import Definition
from shared.execution.payloads import Row
from shared.ids import canonical, key_of
from shared.telemetry.spans import NullTelemetry

ROUNDS, TASKS = 5, 50_000
TARGETS = {"plain": 60_000, "keyed": 40_000}  # tasks a second
BARE = """
    CREATE TABLE bench_bare (id bigint PRIMARY KEY, payload jsonb, status text);
    CREATE INDEX ON bench_bare (status, id);
    GRANT INSERT ON bench_bare TO backbeat_worker"""


async def _never(_context: Any, _given: Any) -> Any:
    raise AssertionError("what is enqueued here is not run")


DEFINITIONS = {
    name: Definition(name=name, version=1, input=BaseModel, output=BaseModel, tier=name, idempotency=keyed, run=_never)
    for name, keyed in (("bench_plain", False), ("bench_keyed", True))
}


async def plain(db: Database, payloads: list[Any]) -> None:
    """Without keys: the definition has none."""
    await _send(db, "bench_plain", ((canonical(payload), None) for payload in payloads))


async def keyed(db: Database, payloads: list[Any]) -> None:
    """With idempotency keys."""
    texts = map(canonical, payloads)
    await _send(db, "bench_keyed", ((text, key_of("bench_keyed", 1, text)) for text in texts))


async def _send(db: Database, name: str, rows: Iterable[Row]) -> None:
    terms = Terms(workflow=name, version=1)
    async for sent, new in submit_many(db, NullTelemetry(), DEFINITIONS[name], terms, rows):
        assert new == sent


async def bare(db: Database, payloads: list[Any]) -> None:
    """No queue: rows alone."""
    for n in range(0, len(payloads), PART):
        await _bare(db, payloads[n : n + PART])


async def _bare(db: Database, payloads: list[Any]) -> None:
    lines = "".join(f"{payload['n']}\t{json.dumps(payload)}\tpending\n" for payload in payloads)
    async with (
        db.pool.connection() as connection,
        connection.transaction(),
        connection.cursor() as cursor,
        cursor.copy("COPY bench_bare FROM STDIN") as copy,
    ):
        await copy.write(lines)


KINDS: dict[str, Callable[[Database, list[Any]], Awaitable[None]]] = {
    "bare": bare,
    "plain": plain,
    "keyed": keyed,
}


async def measure(at: Server) -> dict[str, list[float]]:
    """Tasks a second, and microseconds of CPU a task, a figure a round; the first fills caches and is left out."""
    found: dict[str, list[float]] = {f"{kind}_{unit}": [] for unit in ("per_s", "cpu_us") for kind in KINDS}
    async with await psycopg.AsyncConnection.connect(at.owner, autocommit=True) as owner:
        await owner.execute(BARE)
        async with pool.connect(at.worker, max_size=ABREAST) as db:
            for number in range(ROUNDS + 1):
                round_: dict[str, float] = {}
                for kind, send in KINDS.items():
                    first = number * TASKS
                    payloads = [
                        {"n": first + n, "text": "a ticket of some forty characters or so"} for n in range(TASKS)
                    ]
                    start, burnt = perf_counter(), at.cpu() + process_time()
                    await send(db, payloads)
                    round_[f"{kind}_per_s"] = round(TASKS / (perf_counter() - start))
                    round_[f"{kind}_cpu_us"] = round((at.cpu() + process_time() - burnt) * 1e6 / TASKS, 1)
                if number:
                    for name, value in round_.items():
                        found[name].append(value)
                say(round=number, **round_)
                await owner.execute("ANALYZE backbeat.simple_tasks")
    return found


def main() -> None:
    """Measure and print."""
    with server() as at:
        found = asyncio.run(measure(at))
    figures = {name: median(values) for name, values in found.items()}
    targets = [(f"{kind}_per_s", figures[f"{kind}_per_s"], ">=", target) for kind, target in TARGETS.items()]
    finish("enqueue", figures, targets)


if __name__ == "__main__":
    main()
