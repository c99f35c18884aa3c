"""What the queue's state machine works with: tenants, definitions, outcomes, and how it looks at the tables."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from shared.db.queries import load
from tests.support import tasks
from tests.support.queue_model import Row, Span, later

QUERIES = (
    load("queue")
    | load("producers", "backbeat.producer")
    | load("calls")
    | load("dead", "backbeat.operate")
    | load("actions", "backbeat.operate")
)
WINDOW = 64
CAPS = {"capped": 3}
TENANTS = ["default", "acme", *CAPS]
CLASSES = ["urgent", "high", "normal", "low"]
DEFINITIONS = [
    tasks.definition("alpha"),
    tasks.definition("beta", tier="large", attempts=2),
    tasks.definition("screen", tier="rules") | {"bulk": 50, "history": "failures"},
    tasks.definition("tally", tier="large", attempts=1) | {"bulk": 9, "history": "none"},
]
WORKFLOWS = {one["name"]: one["max_attempts"] for one in DEFINITIONS}
WORKERS = {"A": [f"{name}@1" for name in WORKFLOWS], "B": ["alpha@1", "screen@1"]}
SNAPSHOT = """
    SELECT id, tenant, workflow, tier, class, status, attempts, releases, alone, lease, lease_until, worker,
           hold_reason, hold_key,
           CASE WHEN status IN ('delayed', 'held') THEN run_after END AS run_after, expires_at, parent_id
    FROM backbeat.simple_tasks ORDER BY id"""
ENDED = """
    SELECT f.id, f.status, d.id IS NOT NULL AS letter, d.payload IS NOT NULL AS open
    FROM backbeat.finished_tasks f FULL JOIN backbeat.dead_letters d USING (id)"""
ORPHANS = """
    SELECT count(*) FROM backbeat.model_calls c
    WHERE c.status = 'open' AND NOT EXISTS (
        SELECT FROM backbeat.simple_tasks t WHERE t.status = 'running' AND (t.id, t.lease) = (c.owner, c.lease))"""
LEASES = """
    SELECT count(*) FROM (
        SELECT history FROM backbeat.simple_tasks UNION ALL SELECT history FROM backbeat.finished_tasks) t
    WHERE jsonb_array_length(history) <> (SELECT count(DISTINCT e -> 'lease') FROM jsonb_array_elements(history) e)"""
UNTOUCHED = ["simple_tasks", "finished_tasks", "flows", "dead_letters", "estimates", "budgets", "model_calls"]
ENDS: list[dict[str, Any]] = [
    {"outcome": "succeed", "result": {"ok": True}},
    {"outcome": "dead", "error_class": "oops", "error": "no"},
    {"outcome": "retry", "error_class": "oops", "error": "again"},
    {"outcome": "retry", "error_class": "oops", "error": "again", "after": 45.0},
    {"outcome": "release", "reason": "busy"},
    {"outcome": "release", "reason": "busy", "after": 45.0},
    {"outcome": "release", "reason": "out_of_time"},
    {"outcome": "snooze", "in": 45.0},
    {"outcome": "snooze", "in": -1.0},
    {"outcome": "hold", "reason": "route", "key": "r", "in": 45.0},
    {"outcome": "hold", "reason": "route", "key": "r"},
    {"outcome": "hold", "reason": "budget", "key": "workflow/alpha"},
    {
        "outcome": "fan_out",
        "children": [{"workflow": name, "version": 1, "payload": {}} for name in ("beta", "screen")],
    },
    {"outcome": "escalate", "workflow": "approve_effect", "input": {}},
]

FIRST = [
    *[("alpha", "default", "normal"), ("beta", "acme", "normal"), ("screen", "acme", "low")],
    *[("screen", "capped", "high"), ("screen", "capped", "normal")],
]
PEOPLE = [
    *[
        ("pause_or_not", *what)
        for what in (("tenant", "acme"), ("tenant", "capped"), ("workflow", "alpha"), ("workflow", "screen"))
    ],
    *[("raise_budget", "alpha"), ("route_is_back",), ("stop_or_not",), ("register", "A"), ("register", "B")],
]
FLOWS = "SELECT tenant, tier, class, ready, running FROM backbeat.flows"
CLOCKS = "SELECT tier, v FROM backbeat.virtual_time"


class Session:
    """One connection in one transaction: `now` stands still in it, but for jumps."""

    db: psycopg.Connection[Row]
    base: datetime
    shift = timedelta()

    @property
    def now(self) -> datetime:
        """`backbeat.now()`: stands still, but for jumps."""
        return self.base + self.shift

    @property
    def clock(self) -> datetime:
        """`backbeat.clock()`."""
        return datetime.now(UTC) + self.shift

    def _since(self, before: datetime, seconds: float) -> Span:
        return later(before, seconds), later(self.clock, seconds)

    def _advance(self, seconds: float) -> None:
        self.shift += timedelta(seconds=seconds)
        self._run("UPDATE backbeat.test_clock SET shift = %(shift)s", shift=self.shift)

    def _run(self, query: Any, **params: Any) -> list[Row]:
        cursor = self.db.execute(query, params or None)
        return cursor.fetchall() if cursor.description else []

    def _dated(self, end: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in end.items() if k != "in"} | (
            {"until": later(self.now, end["in"]).isoformat()} if "in" in end else {}
        )

    def _fingerprint(self) -> dict[str, str]:
        query = " UNION ALL ".join(
            f"SELECT '{table}' AS name, md5(string_agg(t::text, ',' ORDER BY t::text)) FROM backbeat.{table} t"
            for table in UNTOUCHED
        )
        return {row["name"]: row["md5"] for row in self._run(query)}
