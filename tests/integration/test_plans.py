"""The plans of the hot statements on a deep backlog: each reads tasks by an index, none walks them."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support import every_postgres, tasks
from tests.support.databases import Database

# A quarter of the short backlog lies in windows; of a smaller one, to read all of it may be the better plan.
ROWS = 1_000_000 if os.environ.get("BACKBEAT_SOAK") else 200_000
LARGE = re.compile(r"Seq Scan on (simple_tasks|finished_tasks\w*)")
BILLED = re.compile(r"Seq Scan on (simple_tasks|finished_tasks\w*|model_calls|budgets)")
BACKLOG = (Path(__file__).parents[1] / "support" / "backlog.sql").read_text()
BILLS = """
INSERT INTO backbeat.model_calls (
    owner, call_key, seq, owner_kind, status, request_hash, tenant, workflow, version, day, route, tier, provider,
    model, reserved_usd, reserved_tokens, likely_tokens, charged, price_version, cost_usd, uncached,
    cache_read, cache_write, output, opened_at, closed_at)
SELECT backbeat.uuid7(), 'answer', 1, 'task', 'done', 'h', 'default', 'alpha', 1, now(), 'r', 'small', 'p', 'm',
       0.01, 2000, 2000, '{}', 'p', 0.004, 1000, 0, 0, 200, now(), now() FROM generate_series(1, %(rows)s);
INSERT INTO backbeat.budgets (scope, key, day)
SELECT 'task', backbeat.uuid7()::text, '-infinity' FROM generate_series(1, %(rows)s);
ANALYZE backbeat.model_calls; ANALYZE backbeat.budgets;
UPDATE backbeat.workflows SET max_usd = 1 WHERE name = 'alpha'"""


class Explained:
    """A session that tells the plan of every statement inside the functions it calls."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self.plans: list[str] = []
        connection.add_notice_handler(lambda notice: self.plans.append(notice.message_primary or ""))
        connection.execute("LOAD 'auto_explain'")
        for name, value in {"log_min_duration": "0", "log_nested_statements": "on", "log_level": "notice"}.items():
            connection.execute(f"SET auto_explain.{name} = {value}".encode())

    def walks(self, query: str, params: Sequence[Any] | None = None, large: re.Pattern[str] = LARGE) -> list[str]:
        """The statements that read a large table from end to end while `query` ran."""
        self.plans.clear()
        self.connection.execute(query.encode(), params).fetchall()
        assert self.plans, "no plan was told"
        return [plan for plan in self.plans if large.search(plan)]


@pytest.fixture
def explained(database: Database) -> Iterator[Explained]:
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        screen = tasks.definition("screen", tier="rules") | {"bulk": 500, "history": "failures"}
        owner.execute("SELECT backbeat.register_worker('w', 'cron', %s)", [Jsonb([tasks.definition("alpha"), screen])])
        _load(owner, BACKLOG)
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        yield Explained(connection)


def _load(owner: psycopg.Connection, script: str) -> None:
    for statement in script.split(";\n"):
        if statement.strip():
            owner.execute(statement.replace("%(rows)s", str(ROWS)).encode())


@every_postgres
@pytest.mark.timeout(600)
def test_no_hot_statement_walks_a_deep_backlog(explained: Explained) -> None:
    walk = explained.walks("SELECT count(*) FROM backbeat.simple_tasks WHERE payload = '1'")
    assert walk != [], "the guard sees none"
    _no_call_walks_over_the_bills_of_others(explained)
    _no_task_is_looked_for_in_all(explained)


def _no_task_is_looked_for_in_all(explained: Explained) -> None:
    sql = explained.connection.execute
    claim = "SELECT id, lease FROM backbeat.claim('w', ARRAY['alpha@1'], 100, 60)"
    assert explained.walks(claim) == []
    taken = sql(claim.encode()).fetchall()
    assert len(taken) == 100
    ends = [{"id": str(task), "lease": lease, "outcome": "succeed", "result": 1} for task, lease in taken]
    assert explained.walks("SELECT * FROM backbeat.settle(%s)", [Jsonb(ends)]) == []

    claim = "SELECT id, lease FROM backbeat.claim_bulk('w', ARRAY['screen@1'], 500, 60)"
    assert explained.walks(claim) == []
    taken = sql(claim.encode()).fetchall()
    assert len(taken) == 500
    ends = [{"id": str(task), "lease": lease, "outcome": "succeed", "result": 1} for task, lease in taken]
    assert explained.walks("SELECT id FROM backbeat.turn(%s, 'w', ARRAY['screen@1'], 500, 60)", [Jsonb(ends)]) == []

    ids, leases = [task for task, _ in taken], [lease for _, lease in taken]
    assert explained.walks("SELECT * FROM backbeat.heartbeat('w', %s, %s, 60)", [ids, leases]) == []
    assert explained.walks("SELECT * FROM backbeat.reap(100)") == []
    assert explained.walks("SELECT * FROM backbeat.sweep(500)") == []
    sql(b"SELECT backbeat.pause('workflow', 'alpha', 'a test', 'tester')")
    assert explained.walks("SELECT * FROM backbeat.sweep(500)") == []
    assert sql(b"SELECT count(*) FROM backbeat.simple_tasks WHERE status = 'held'").fetchall()[0][0] >= 500
    body = json.dumps({"n": 1})
    assert explained.walks("SELECT * FROM backbeat.enqueue('alpha', 1, ARRAY[%s::jsonb])", [body]) == []


def _no_call_walks_over_the_bills_of_others(explained: Explained) -> None:
    _load(explained.connection, BILLS)
    taken = explained.connection.execute(
        b"SELECT id, lease FROM backbeat.claim('w', ARRAY['alpha@1'], 100, 60)"
    ).fetchall()
    keys = ("request_hash", "route", "tier", "provider", "model", "price_version")
    asks = [
        {"owner": str(task), "lease": lease, "call_key": "answer", "reserved_usd": "0.01", "reserved_tokens": 2000}
        | {"likely_usd": "0.01", "likely_tokens": 2000}
        | dict.fromkeys(keys, "x")
        for task, lease in taken
    ]
    usage = {"uncached": 1000, "cache_read": 0, "cache_write": 0, "output": 200, "cost_usd": "0.004", "response": {}}
    answers = [{"owner": str(task), "call_key": "answer", "seq": 1, "status": "done"} | usage for task, _ in taken]
    ends = [{"id": str(task), "lease": lease, "outcome": "succeed", "result": 1} for task, lease in taken]

    def walks(query: str, rows: list[dict[str, Any]]) -> list[str]:
        return explained.walks(query, [Jsonb(rows)], BILLED)

    assert walks("SELECT verdict FROM backbeat.open_calls('w', %s)", asks[:10]) == []
    assert walks("SELECT verdict FROM backbeat.open_calls('w', %s)", asks[10:]) == []
    assert walks("SELECT * FROM backbeat.close_calls(%s)", answers) == []
    found = "SELECT status FROM backbeat.model_calls WHERE owner = %s"
    assert explained.walks(found, [taken[0][0]], BILLED) == []
    assert explained.connection.execute(found.encode(), [taken[0][0]]).fetchall() == [("done",)]
    assert walks("SELECT * FROM backbeat.settle(%s)", ends) == []
