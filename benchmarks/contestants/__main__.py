"""`python -m benchmarks.contestants NAME enqueue|drain URL COUNT`: does it, and prints its seconds and its own CPU."""

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

CHUNK = 1000
Step = Callable[[str, int], Awaitable[None]]


def _payloads(count: int) -> list[list[bytes]]:
    return [[b'{"n": %d}' % n for n in range(low, min(low + CHUNK, count))] for low in range(0, count, CHUNK)]


def _ours(workflow: str, *, keyed: bool) -> dict[str, Step]:
    import psycopg

    from backbeat.producer import rows as producers
    from benchmarks.contestants import work
    from cron_worker.limits import Limits
    from cron_worker.tick import tick
    from shared.config import Config
    from shared.db import pool, queue
    from shared.ids import idempotency_key

    async def enqueue(url: str, count: int) -> None:
        async with pool.connect(url) as db:
            await queue.register_definitions(db, "cron", [getattr(work, workflow).row])
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            terms = producers.Terms(workflow=workflow, version=1)
            for chunk in _payloads(count):
                keys = [idempotency_key(workflow, 1, json.loads(body)) if keyed else None for body in chunk]
                await producers.enqueue_many(connection, terms, zip(chunk, keys, strict=True))

    importlib.import_module("cron_worker.round")  # which a tick loads when there is work

    async def drain(url: str, _count: int) -> None:
        config = Config(database_url=url, definitions=("benchmarks.contestants.work",), telemetry="off")
        await tick(config, Limits(budget=300, concurrency=64))

    return {"enqueue": enqueue, "drain": drain}


def _raw() -> dict[str, Step]:
    """What psycopg and Postgres can do at all: COPY in, then claims and completions of 500 in one statement, fenced."""
    import psycopg

    table = """
        CREATE TABLE IF NOT EXISTS jobs (
            id bigserial PRIMARY KEY, payload jsonb, status text DEFAULT 'ready', lease bigint, attempts int DEFAULT 0,
            result jsonb) WITH (fillfactor = 70); CREATE SEQUENCE IF NOT EXISTS leases;
        CREATE INDEX IF NOT EXISTS ready ON jobs (id) WHERE status = 'ready'"""
    turn = """
        WITH gone AS (
            UPDATE jobs j SET status = 'done', result = '{"ok": true}'
            FROM unnest(%s::bigint[], %s::bigint[]) AS d(id, lease)
            WHERE j.id = d.id AND j.lease = d.lease AND j.id = ANY (%s))
        UPDATE jobs SET status = 'running', lease = nextval('leases'), attempts = attempts + 1
        WHERE id = ANY (ARRAY(
            SELECT id FROM jobs WHERE status = 'ready' ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED))
        RETURNING id, lease, payload"""

    async def enqueue(url: str, count: int) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(table.encode())
            for chunk in _payloads(count):
                with connection.cursor() as cursor, cursor.copy("COPY jobs (payload) FROM STDIN") as copy:
                    copy.write(b"\n".join(chunk) + b"\n")

    async def drain(url: str, _count: int) -> None:
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
            rows: list[Any] = [(0, 0, None)]
            while rows:
                ids, leases = [row[0] for row in rows], [row[1] for row in rows]
                rows = connection.execute(turn.encode(), [ids, leases, ids]).fetchall()

    return {"enqueue": enqueue, "drain": drain}


def _pgqueuer() -> dict[str, Step]:
    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.models import Job
    from pgqueuer.queries import Queries
    from pgqueuer.types import QueueExecutionMode

    async def enqueue(url: str, count: int) -> None:
        connection = await asyncpg.connect(url)
        queries = Queries(AsyncpgDriver(connection))
        if not await queries.schema_is_installed():
            await queries.install()
            await queries.optimize_autovacuum()
        for chunk in _payloads(count):
            await queries.enqueue(["noop"] * len(chunk), list(chunk), [0] * len(chunk))
        await connection.close()

    async def drain(url: str, _count: int) -> None:
        pgq = PgQueuer(AsyncpgDriver(await asyncpg.connect(url)))

        @pgq.entrypoint("noop")
        async def noop(job: Job) -> None:
            """Nothing."""

        await pgq.run(batch_size=500, mode=QueueExecutionMode.drain, dequeue_timeout=timedelta(seconds=1))

    return {"enqueue": enqueue, "drain": drain}


def _procrastinate() -> dict[str, Step]:
    import procrastinate

    def app(url: str) -> tuple[procrastinate.App, Any]:
        made = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, max_size=20))

        @made.task(name="noop")
        async def noop(n: int) -> None:
            """Nothing."""

        return made, noop

    async def enqueue(url: str, count: int) -> None:
        made, noop = app(url)
        async with made.open_async():
            if not await made.check_connection_async():
                await made.schema_manager.apply_schema_async()
            for low in range(0, count, CHUNK):
                await noop.batch_defer_async(*({"n": n} for n in range(low, min(low + CHUNK, count))))

    async def drain(url: str, _count: int) -> None:
        made, _ = app(url)
        async with made.open_async():
            options: Any = {"wait": False, "concurrency": 5, "delete_jobs": "always", "listen_notify": False}
            await asyncio.gather(*(made.run_worker_async(install_signal_handlers=False, **options) for _ in range(4)))

    return {"enqueue": enqueue, "drain": drain}


CONTESTANTS: dict[str, Callable[[], dict[str, Step]]] = {
    "ours": lambda: _ours("noop_bulk", keyed=False),
    "ours_keyed": lambda: _ours("noop_keyed", keyed=True),
    "ours_full": lambda: _ours("noop_full", keyed=True),
    "raw": _raw,
    "pgqueuer": _pgqueuer,
    "procrastinate": _procrastinate,
}


def main() -> None:
    """Run one step of one contestant."""
    name, step, url, count = sys.argv[1:5]
    work = CONTESTANTS[name]()[step]
    started, cpu = time.perf_counter(), time.process_time()
    asyncio.run(work(url, int(count)))  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
