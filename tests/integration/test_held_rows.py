"""What a reader's old snapshot keeps is not walked over: counted in pages that a claim reads, never in time."""

import os
from statistics import median
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tests.support import tasks
from tests.support.databases import Database

TENANTS, EACH = (2000, 50) if os.environ.get("BACKBEAT_SOAK") else (200, 60)
GONE = TENANTS * EACH // 2  # tasks; each leaves two dead rows behind
FILL = """
    SELECT count(*) FROM backbeat.enqueue('alpha', 1,
        ARRAY(SELECT jsonb_build_object('n', i) FROM generate_series(1, %s) i),
        p_keys => array_fill(NULL::bytea, ARRAY[%s::integer]), p_tenant => %s)"""


def test_a_claim_does_not_walk_over_what_a_reader_keeps(database: Database) -> None:
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        owner.execute("SELECT backbeat.register_worker('w', 'cron', %s)", [Jsonb([tasks.definition("alpha")])])
        owner.execute("INSERT INTO backbeat.tenants (id) SELECT 't' || n FROM generate_series(1, %s) n", [TENANTS])
        with owner.transaction():
            for n in range(1, TENANTS + 1):
                owner.execute(FILL, [EACH, EACH, f"t{n}"])
        owner.execute("ANALYZE backbeat.simple_tasks, backbeat.flows")
        before = _pages(owner)
        with psycopg.connect(database.owner_url) as reader:
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            reader.execute("SELECT count(*) FROM backbeat.tenants")
            for _ in range(GONE // 1000):
                _settle(owner, owner.execute(_claim(1000)).fetchall())
            owner.execute("SELECT FROM backbeat.sweep()")
            assert _pages(owner) <= 2 * before


def _claim(limit: int) -> bytes:
    return f"SELECT id, lease FROM backbeat.claim('w', ARRAY['alpha@1'], {limit}, 60)".encode()


def _pages(owner: psycopg.Connection) -> float:
    """Pages that a claim of a hundred reads: the median of five."""
    seen = []
    for _ in range(5):
        ((told,),) = owner.execute(b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + _claim(100)).fetchall()
        plan: dict[str, Any] = told[0]["Plan"]
        seen.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    return float(median(seen))


def _settle(owner: psycopg.Connection, taken: list[tuple[Any, ...]]) -> None:
    ends = [{"id": str(task), "lease": lease, "outcome": "succeed", "result": 1} for task, lease in taken]
    assert owner.execute("SELECT * FROM backbeat.settle(%s)", [Jsonb(ends)]).fetchall() == []


def test_a_row_that_came_late_from_behind_the_floor_is_found(database: Database) -> None:
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        owner.execute("SELECT backbeat.register_worker('w', 'cron', %s)", [Jsonb([tasks.definition("alpha")])])
        owner.execute(FILL, [4, 4, "default"])
        # As if others had gone on far while the transaction that placed these was open.
        owner.execute("UPDATE backbeat.virtual_time SET v = 100, floor = 100")
        assert len(owner.execute(_claim(1)).fetchall()) == 1
        last = "SELECT max(id::text)::uuid FROM backbeat.simple_tasks"
        owner.execute(f"UPDATE backbeat.simple_tasks SET vstart = 200 WHERE id = ({last})".encode())
        assert owner.execute(_claim(1)).fetchall()
        owner.execute("SELECT FROM backbeat.sweep()")
        assert owner.execute("SELECT min(floor) < 100 FROM backbeat.virtual_time").fetchall() == [(True,)]
        assert len(owner.execute(_claim(2)).fetchall()) == 2
