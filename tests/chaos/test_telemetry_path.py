"""From ticks by way of Postgres into ClickHouse, and back from Postgres' own rows: to the last digit."""

import asyncio
import shutil
import zlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from backbeat.clickhouse import session
from backbeat.operate.rebuild import Rebuilt, rebuild
from shared.config import Config, load
from shared.db import telemetry as outbox
from shared.execution.telemetry import ship
from shared.telemetry.shipper import ShipReport
from shared.telemetry.spool import read_batch
from tests.chaos.conftest import OpenRig
from tests.chaos.support.rig import Rig
from tests.support.clickhouse import ask
from tests.support.databases import Database

FACTS = """
SELECT (SELECT count() FROM v_llm_calls), (SELECT sum(CostUsd) FROM v_llm_calls), (SELECT count() FROM v_task_runs),
    (SELECT sum(Calls + LostCalls) FROM v_llm_hourly), (SELECT sum(CostUsd) FROM v_llm_hourly)
"""
BOOKS = """
SELECT count(*)::integer, sum(cost_usd),
    (SELECT count(*) FROM backbeat.finished_tasks f, jsonb_array_elements(f.history) h)::integer
FROM backbeat.model_calls
"""


def config_of(rig: Rig, clickhouse: str) -> Config:
    return load({**rig.environ(), "BACKBEAT_CLICKHOUSE_URL": clickhouse})


def shipped(rig: Rig, clickhouse: str) -> ShipReport:
    return rig.ask(lambda db: ship(config_of(rig, clickhouse), db, 20))


def rebuilt(rig: Rig, clickhouse: str, *, dry_run: bool = False) -> Rebuilt:
    since = datetime.now(UTC) - timedelta(days=1)
    return rig.ask(lambda db: rebuild(db, config_of(rig, clickhouse), since, dry_run=dry_run))


def test_by_way_of_postgres_and_from_its_rows(
    open_rig: OpenRig, database: Database, clickhouse: str, tmp_path: Path
) -> None:
    rig = open_rig(database, settings={"BACKBEAT_TELEMETRY": "postgres"})
    items: list[dict[str, Any]] = [{"n": n, "text": "x"} for n in (1, 2, 3)]
    rig.enqueue("single", items)
    rig.enqueue("loop", items)
    rig.drain(within=120)
    assert list(rig.spool.glob("*.spool")) == []
    ((calls, cost, attempts),) = database.sql(BOOKS)
    assert calls >= 9
    assert attempts >= 6
    assert cost > 0

    # Leased by a shipper that dies: nobody else takes the batches until the lease is over, and none is gone.
    batches = rig.ask(outbox.lease)
    tokens = database.value("SELECT count(*) FROM backbeat.telemetry_outbox")
    assert 0 < len(batches) <= tokens
    assert rig.ask(outbox.lease) == []
    # Its insert had arrived, and the answer was lost.
    first = tmp_path / "first" / f"{batches[0]['id'].hex}.spool"
    first.parent.mkdir()
    first.write_bytes(batches[0]["file"])
    spans = read_batch(first).rows
    assert _ship_directory(first.parent, clickhouse).spans == spans
    database.sql("UPDATE backbeat.telemetry_outbox SET leased_until = NULL")
    damaged = "INSERT INTO backbeat.telemetry_outbox VALUES (backbeat.uuid7(), 1, %s)"
    database.sql(damaged, [zlib.compress(b'{"schema": 1}\nnonsense')])
    report = shipped(rig, clickhouse)
    assert (report.files, report.quarantined, report.remaining, report.error) == (tokens, 1, 0, "")
    refused = database.value("SELECT refused FROM backbeat.telemetry_outbox")
    assert refused == "the rows are not those of the header's checksum"
    ((told, told_cost, runs, _, _),) = ask(clickhouse, FACTS)
    assert (told, told_cost) == (calls, cost)
    assert runs >= attempts

    # What a worker told and the reaper told again stands twice in both tables, and once in the views.
    assert ask(clickhouse, "SELECT count() - uniqExact(SpanId) FROM otel_traces") >= [(0,)]
    first_time = rebuilt(rig, clickhouse)
    assert (first_time.calls, first_time.missing_calls, first_time.missing_attempts) == (calls, 0, 0)
    assert (first_time.attempts, first_time.waiting) == (attempts, 1)
    assert ask(clickhouse, FACTS) == [(calls, cost, runs, calls, cost)]

    with session(clickhouse) as client:
        for table in ("otel_traces", "llm_calls", "task_runs"):
            client.command(f"TRUNCATE TABLE {table}")
    assert rebuilt(rig, clickhouse, dry_run=True).missing_calls == calls
    assert ask(clickhouse, "SELECT count() FROM llm_calls") == [(0,)]
    again = rebuilt(rig, clickhouse)
    assert (again.missing_calls, again.missing_attempts, again.hours >= 1) == (calls, attempts, True)
    assert ask(clickhouse, FACTS) == [(calls, cost, attempts, calls, cost)]
    assert rebuilt(rig, clickhouse) == Rebuilt(calls, 0, attempts, 0, 0, 1)
    # A span that arrives after all is one with what Postgres told.
    copy = shutil.copytree(first.parent, tmp_path / "late")
    late = copy / f"{'f' * 32}.spool"
    late.write_bytes(batches[0]["file"])
    assert _ship_directory(copy, clickhouse).spans == spans
    assert ask(clickhouse, FACTS)[0][:2] == (calls, cost)
    rebuilt(rig, clickhouse)
    assert ask(clickhouse, FACTS)[0][3:] == (calls, Decimal(cost))


def _ship_directory(directory: Path, clickhouse: str) -> ShipReport:
    return asyncio.run(ship(Config(spool_dir=directory, clickhouse_url=clickhouse), None, 20))
