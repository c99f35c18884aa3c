"""Thirty days of A_DAY tasks (default 200,000) on the test clock: size, bloat and CPU, flat once retention has begun.

Each hour a share of the day's keyed tasks comes in and a worker drains them through the functions that ticks call; ten
of a batch make a model call under a budget of their own. Three times an hour it does what every tick does: sweep, open
days ahead, remove what is older than a week. Autovacuum looks every second, which is still rarer for a task than it
would be in a month that lasts a month. A fixed piece of SQL each hour is the yardstick of a busy machine's CPU seconds.
The picture is var/month.svg.
"""

import os
import sys
from pathlib import Path
from statistics import mean
from time import perf_counter, process_time
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from benchmarks.bench import Server, Target, cpu, finish, say, server
from benchmarks.plot import svg
from benchmarks.session import Rows, Session

A_DAY = int(os.environ.get("A_DAY", "200000"))
DAYS, HORIZON, HOURS, BATCH, CALLS = 30, 7, 24, 1000, 10
CLOCK = (Path(__file__).parents[1] / "tests" / "support" / "test_schema.sql").read_bytes()
PICTURE = Path("var") / "month.svg"
KIND = {"name": "screened", "version": 1, "tier": "rules", "max_attempts": 3, "bulk": BATCH, "max_usd": "0.05"}
LIVE = ("simple_tasks", "idempotency", "model_calls", "budgets", "flows", "virtual_time", "workers", "ticks")
YARD = "SELECT count(DISTINCT sha256(int8send(i))) FROM generate_series(1, 20000) i"
ENQUEUE = """
    SELECT count(*) FROM backbeat.enqueue('screened', 1, ARRAY(
        SELECT jsonb_build_object('n', i, 'amount', i %% 977, 'country', 'NL', 'merchant', 'shop ' || i %% 5000)
        FROM generate_series(%s::integer, %s::integer) i))"""
SIZES = """
    SELECT pg_database_size(current_database()) / 1e6,
           (SELECT sum(pg_total_relation_size('backbeat.' || name)) FROM unnest(%s::text[]) AS name) / 1e6,
           (SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE schemaname = 'backbeat'),
           (SELECT count(*) FROM pg_inherits WHERE inhparent = 'backbeat.finished_tasks'::regclass),
           (SELECT count(*) FROM backbeat.simple_tasks)"""


class Month:
    """A database whose clock is moved, and its one worker."""

    def __init__(self, at: Server) -> None:
        self._at = at
        with psycopg.connect(at.admin, autocommit=True) as admin:
            for setting in ("autovacuum_naptime = '1s'", "max_wal_size = '4GB'"):
                admin.execute(f"ALTER SYSTEM SET {setting}".encode())
            admin.execute("SELECT pg_reload_conf()")
        self._queue = Session(at, "month", [KIND])
        self._queue.owner.execute(CLOCK)
        self._queue.owner.execute("UPDATE backbeat.retention SET days = %s", [HORIZON])
        self._sent, self._yard = 0, 0.0

    def day(self) -> dict[str, float]:
        """One day, and how things stand at its end."""
        burnt, started, before = self._at.cpu() + process_time(), perf_counter(), self._sent
        self._yard = 0.0
        for hour in range(1, HOURS + 1):
            for tick in range(3):
                self._enqueue((hour * 3 - 2 + tick) * A_DAY // (3 * HOURS) - (self._sent - before))
                self._tick()
            self._queue.owner.execute("UPDATE backbeat.test_clock SET shift = shift + '1 hour'")
            self._measure()
        seconds, burnt = perf_counter() - started, self._at.cpu() + process_time() - burnt - self._yard
        ((size, live, dead, days, left),) = self._queue.owner.execute(SIZES, [list(LIVE)]).fetchall()
        assert left == 0, f"{left} tasks are left over"
        return {
            "database_mb": float(size),
            "live_tables_mb": float(live),
            "dead_tuples": int(dead or 0),
            "cpu_us_per_task": burnt * 1e6 / (self._sent - before),
            "yard_us": self._yard * 1e6 / HOURS,
            "yards_per_1000_tasks": burnt / (self._sent - before) * 1000 / (self._yard / HOURS),
            "partitions": days,
            "seconds": seconds,
        }

    def _measure(self) -> None:
        backend = self._queue.owner.info.backend_pid
        before = cpu(backend)
        self._queue.owner.execute(YARD)
        self._yard += cpu(backend) - before

    def _enqueue(self, count: int) -> None:
        for first in range(self._sent + 1, self._sent + count + 1, 5000):
            last = min(first + 4999, self._sent + count)
            self._queue.owner.execute(ENQUEUE, [first, last])
        self._sent += count

    def _tick(self) -> None:
        queue = self._queue
        (record,) = queue.ask("start_tick", worker="w")
        queue.ask("register_worker", worker="w", definitions=Jsonb([KIND]), kind="cron")
        queue.ask("maintain_partitions")
        queue.sweep()
        given = {"worker": "w", "loaded": ["screened@1"], "limit": BATCH, "lease_seconds": 60.0}
        rows = queue.ask("claim_bulk", **given, idle=True)
        while rows:
            self._calls(rows[:CALLS])
            rows = queue.ask("turn", rows=queue.ends(rows), **given)
            assert all(row["lease"] for row in rows), "a settlement was refused"
            rows = rows or queue.ask("claim_bulk", **given, idle=True)
        queue.ask("end_tick", id=record["id"], claimed=0, settled=0)

    def _calls(self, rows: Rows) -> None:
        asks = [
            {
                "owner": str(row["id"]),
                "lease": row["lease"],
                "call_key": "judge",
                "request_hash": "h",
                "route": "r",
                "tier": "small",
                "provider": "simulated",
                "model": "m",
                "reserved_usd": "0.01",
                "reserved_tokens": 2000,
                "likely_usd": "0.01",
                "likely_tokens": 2000,
                "price_version": "p",
            }
            for row in rows
        ]
        usage = {"uncached": 900, "cache_read": 0, "cache_write": 0, "output": 60, "reasoning": 0, "cost_usd": "0.001"}
        for answer in self._queue.ask("open_calls", worker="w", calls=Jsonb(asks)):
            assert answer["verdict"] == "open", answer
        ends = [
            {
                "owner": ask["owner"],
                "call_key": "judge",
                "seq": 1,
                "status": "done",
                "response": {"fraud": False},
                **usage,
            }
            for ask in asks
        ]
        assert len(self._queue.ask("close_calls", ends=Jsonb(ends))) == len(ends)


def main() -> None:
    """Measure, draw and print."""
    days: list[dict[str, float]] = []
    with server() as at:
        month = Month(at)
        for number in range(1, DAYS + 1):
            days.append(month.day())
            say(day=number, **days[-1])
            print(f"day {number} of {DAYS}: {days[-1]['seconds']:.0f} s", file=sys.stderr, flush=True)
    figures, targets = _verdict(days)
    panels = {
        "database, MB": "database_mb",
        "live tables and their indexes, MB": "live_tables_mb",
        "dead tuples": "dead_tuples",
        "CPU of client and server a task, microseconds": "cpu_us_per_task",
        "CPU of a thousand tasks, in yardsticks": "yards_per_1000_tasks",
    }
    PICTURE.parent.mkdir(exist_ok=True)
    told = f"from here on days leave: they are kept for {HORIZON}"
    drawn = {name: [day[key] for day in days] for name, key in panels.items()}
    PICTURE.write_text(svg(f"{A_DAY:,} tasks a day for {DAYS} days", drawn, HORIZON + 1, told), encoding="utf-8")
    finish("month", figures, targets)


def _verdict(days: list[dict[str, float]]) -> tuple[dict[str, Any], list[Target]]:
    """The last week beside the first whole week in which days leave."""
    figures: dict[str, Any] = {"tasks_a_day": A_DAY, "days": DAYS, "kept_days": HORIZON}
    targets: list[Target] = []
    first, last = days[HORIZON + 1 : HORIZON + 8], days[-7:]
    for key in ("database_mb", "live_tables_mb", "dead_tuples", "cpu_us_per_task", "yard_us", "yards_per_1000_tasks"):
        early, late = mean(day[key] for day in first), mean(day[key] for day in last)
        figures[key] = [round(early, 1), round(late, 1)]
        ratio = round(late / early, 3) if early else 1.0
        # How many rows wait for their vacuum at midnight is chance; whether they leave room behind shows in the sizes.
        if key in ("database_mb", "live_tables_mb", "yards_per_1000_tasks"):
            targets.append((f"{key}_ratio", ratio, "<=", 1.1))
    return figures, targets


if __name__ == "__main__":
    main()
