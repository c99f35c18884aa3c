"""A worker's session on a database of its own, timed: what the claim and month benchmarks ask the queue by."""

from collections.abc import Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from benchmarks.bench import Server, cpu
from shared.db.queries import load

_SQL = {**load("queue"), **load("calls")}
_KINDS = [
    {"name": "fair", "version": 1, "tier": "small", "max_attempts": 3, "idempotency": False},
    {"name": "many", "version": 1, "tier": "rules", "max_attempts": 3, "idempotency": False, "bulk": 1000},
]
_ENQUEUE = """
    SELECT count(*) FROM backbeat.enqueue(%s, 1, ARRAY(SELECT jsonb_build_object('n', i) FROM generate_series(1, %s) i),
                                          p_tenant => %s)"""
PART = 5000  # rows a transaction, as producers send them

Rows = list[dict[str, Any]]


class Session:
    """`fair` rows come one an attempt, `many` ones in bulk lanes; neither has idempotency keys."""

    def __init__(self, server: Server, name: str, kinds: Sequence[Mapping[str, Any]] = _KINDS) -> None:
        owner, worker = server.database(name)
        self.owner: psycopg.Connection = psycopg.connect(owner, autocommit=True)
        self.worker = psycopg.connect(worker, autocommit=True, prepare_threshold=None, row_factory=dict_row)
        self.seconds: dict[str, list[float]] = {}
        self._burnt: dict[str, float] = {}
        self._pid = self.worker.info.backend_pid
        self.ask("register_worker", worker="w", definitions=Jsonb(list(kinds)), kind="cron")

    def close(self) -> None:
        """End both connections."""
        self.owner.close()
        self.worker.close()

    def ask(self, query: str, **params: Any) -> Rows:
        """Run one of the queue's named queries and note how long it took."""
        burnt, start = cpu(self._pid), perf_counter()
        rows = self.worker.execute(_SQL[query], params).fetchall()
        self.seconds.setdefault(query, []).append(perf_counter() - start)
        self._burnt[query] = self._burnt.get(query, 0.0) + cpu(self._pid) - burnt
        return rows

    def claim(self, limit: int = 100, *, bulk: bool = False) -> Rows:
        """Take up to so many rows."""
        given = {"worker": "w", "loaded": ["fair@1", "many@1"], "limit": limit, "lease_seconds": 60.0, "idle": True}
        return self.ask("claim_bulk" if bulk else "claim", **given)

    def settle(self, rows: Rows) -> None:
        """All of them succeeded."""
        assert self.ask("settle", rows=self.ends(rows)) == []

    def ends(self, rows: Rows) -> Jsonb:
        """That all of them succeeded."""
        ends = [{"id": str(row["id"]), "lease": row["lease"], "outcome": "succeed", "result": 1} for row in rows]
        return Jsonb(ends)

    def sweep(self) -> None:
        """What a tick does before it claims."""
        self.ask("sweep", limit=5000)

    def enqueue(self, tenant: str, count: int, workflow: str = "fair") -> None:
        """So many rows, some thousand a transaction."""
        for done in range(0, count, PART):
            self.owner.execute(_ENQUEUE, [workflow, min(PART, count - done), tenant])

    def tenants(self, count: int, rows: int) -> None:
        """So many tenants, `tenant 1` and on, of so many rows each."""
        self.owner.execute(
            "INSERT INTO backbeat.tenants (id) SELECT 'tenant ' || n FROM generate_series(1, %s) n", [count]
        )
        with self.owner.transaction():
            for number in range(1, count + 1):
                self.enqueue(f"tenant {number}", rows)

    def analyse(self) -> None:
        """Bring the planner's statistics up to date, as autovacuum does within a minute."""
        self.owner.execute("ANALYZE backbeat.simple_tasks, backbeat.flows, backbeat.tenants, backbeat.virtual_time")

    def forget(self) -> None:
        """What was measured up to here was preparation."""
        self.seconds.clear()
        self._burnt.clear()

    def ms(self, query: str) -> float:
        """Median milliseconds at the client."""
        return round(median(self.seconds[query]) * 1e3, 3)

    def cpu_ms(self, query: str) -> float:
        """Mean milliseconds of the server's CPU."""
        return round(self._burnt[query] / len(self.seconds[query]) * 1e3, 3)
