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

ROWS = 1_000_000 if os.environ.get("BACKBEAT_SOAK") else 100_000
LARGE = re.compile(r"Seq Scan on (simple_tasks|finished_tasks\w*)")
BACKLOG = (Path(__file__).parents[1] / "support" / "backlog.sql").read_text()


class Explained:
    """A session that tells the plan of every statement inside the functions it calls."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self.plans: list[str] = []
        connection.add_notice_handler(lambda notice: self.plans.append(notice.message_primary or ""))
        connection.execute("LOAD 'auto_explain'")
        for name, value in {"log_min_duration": "0", "log_nested_statements": "on", "log_level": "notice"}.items():
            connection.execute(f"SET auto_explain.{name} = {value}".encode())

    def walks(self, query: str, params: Sequence[Any] | None = None) -> list[str]:
        """The statements that read a large table from end to end while `query` ran."""
        self.plans.clear()
        self.connection.execute(query.encode(), params).fetchall()
        assert self.plans, "no plan was told"
        return [plan for plan in self.plans if LARGE.search(plan)]


@pytest.fixture
def explained(database: Database) -> Iterator[Explained]:
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        screen = tasks.definition("screen", tier="rules") | {"bulk": 500, "history": "failures"}
        owner.execute("SELECT backbeat.register_worker('w', 'cron', %s)", [Jsonb([tasks.definition("alpha"), screen])])
        for statement in BACKLOG.split(";\n"):
            if statement.strip():
                owner.execute(statement.replace("%(rows)s", str(ROWS)).encode())
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        yield Explained(connection)


@every_postgres
@pytest.mark.timeout(600)
def test_no_hot_statement_walks_a_deep_backlog(explained: Explained) -> None:
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
    body = json.dumps({"n": 1})
    assert explained.walks("SELECT * FROM backbeat.enqueue('alpha', 1, ARRAY[%s::jsonb])", [body]) == []


def test_the_guard_sees_a_walk(explained: Explained) -> None:
    assert explained.walks("SELECT count(*) FROM backbeat.simple_tasks WHERE payload = '1'") != []
