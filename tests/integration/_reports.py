"""Facts put straight into ClickHouse, and reports asked about them; one database a test process.

A test module takes the fixtures by name: `facts = _reports.facts`.
"""

import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from backbeat.clickhouse import session
from backbeat.migrate_clickhouse import clickhouse_up
from backbeat.reports.ask import Answer, Period, ask
from backbeat.reports.catalog import find
from tests.support.clickhouse import Server

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)  # a Monday
WEEK = Period(NOW - timedelta(days=7), NOW)
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llm_calls": {
        "Runtime": "cron", "Workflow": "review", "Version": "1", "Tenant": "acme", "Tier": "large", "TaskId": "task-1",
        "CallStatus": "done", "Validation": "passed", "Provider": "anthropic", "RequestModel": "opus", "Model": "opus",
        "DurationNs": 1_000_000_000, "InputTokens": 1000, "OutputTokens": 10, "CostUsd": "0.01", "Attempt": 1,
        "CacheReadTokens": 0, "CacheWriteTokens": 0,
    },
    "task_runs": {
        "Runtime": "cron", "Workflow": "review", "Version": "1", "Tenant": "acme", "Tier": "large", "TaskId": "task-1",
        "Outcome": "succeed", "Attempt": 1, "DurationNs": 1_000_000_000,
    },
}  # fmt: skip


class Facts:
    """A migrated database; `add` writes rows, `ask` asks a report about the week that ends at NOW."""

    def __init__(self, url: str, client: "Client") -> None:
        self.url, self.client = url, client

    def add(self, table: str, *rows: Mapping[str, Any], count: int = 1) -> None:
        """Rows of a table, each `count` times with an id of its own; what they leave out is usual, or empty."""
        made = [
            {"Timestamp": NOW - timedelta(days=1), "SpanId": uuid.uuid4().hex[:16], **_DEFAULTS.get(table, {}), **row}
            for row in rows
            for _ in range(count)
        ]
        names = list(dict.fromkeys(name for row in made for name in row))
        for named in {tuple(sorted(row)) for row in made}:
            data = [[row[name] for name in names if name in row] for row in made if tuple(sorted(row)) == named]
            self.client.insert(table, data, column_names=[name for name in names if name in named])

    def ask(self, name: str, *by: str, period: Period | None = None) -> Answer:
        """One report; about the period that it is usually asked about, or another."""
        found = find(name)
        return ask(self.client, found, period or Period(NOW - found.since, NOW), by)


@pytest.fixture(scope="module")
def reports_database(clickhouse_server: Server) -> Iterator[Facts]:
    """One for all tests of a module."""
    name = f"reports_{uuid.uuid4().hex}"
    clickhouse_up(clickhouse_server.url(name))
    with session(clickhouse_server.url(name)) as client:
        # The facts are of one day for ever, and would pass away by a merge.
        dated = (
            "SELECT name FROM system.tables WHERE database = currentDatabase() AND create_table_query LIKE '% TTL %'"
        )
        for (table,) in client.query(dated).result_rows:
            client.command(f"SYSTEM STOP TTL MERGES {table}")
        yield Facts(clickhouse_server.url(name), client)
    with session(clickhouse_server.url()) as client:
        client.command(f"DROP DATABASE {name}")


@pytest.fixture
def facts(reports_database: Facts) -> Facts:
    """The same, emptied."""
    client = reports_database.client
    tables = client.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree' "
        "AND name != 'schema_migrations' AND total_rows > 0"
    ).result_rows
    for (table,) in tables:
        client.command(f"TRUNCATE TABLE {table}")
    return reports_database
