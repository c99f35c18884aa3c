"""What a claim costs where it is hard: many tenants, a paused owner of most rows, a burst, a long history, dead rows.

Every claim is the named query of `shared.db.queue` on the workers' login, seen from the client, rows fetched; what it
is compared with runs in turn with it. HISTORY finished rows and a burst of BURST rows are made (a million each by
default); ONLY=deep,paused,burst,history,held chooses.
"""

import os
from collections import Counter
from typing import Any

import psycopg

from benchmarks.bench import Server, Target, finish, say, server
from benchmarks.session import Session

ROUNDS = int(os.environ.get("ROUNDS", "60"))
HISTORY = int(os.environ.get("HISTORY", "1000000"))
BURST = int(os.environ.get("BURST", "1000000"))
ONLY = os.environ.get("ONLY", "")
TENANTS, EACH, HOG = 2000, 50, 95_000
DAYS, PART = 60, 250_000
DEAD = 100_000

FINISHED = """
    INSERT INTO backbeat.finished_tasks (
        id, tenant, workflow, version, tier, class, status, payload, result, attempts, history, origin_id,
        idempotency_key, traceparent, created_at, finished_at)
    SELECT u.id, 'tenant ' || (1 + n %% 2000), 'fair', 1, 'small', 'normal', 'succeeded', '{"n": 1}', '1', 1,
           '[{"lease": 1, "worker": "w", "outcome": "succeed", "started_at": "2026-01-01", "ended_at": "2026-01-01"}]',
           u.id, sha256(uuid_send(u.id)), '00-' || repeat('a', 32) || '-' || repeat('b', 16) || '-01', u.at, u.at
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n, LATERAL (
        SELECT backbeat.uuid7(m.at) AS id, m.at
        FROM (SELECT backbeat.now() - n * interval '1 day' * %(days)s / %(all)s AS at) m OFFSET 0) u"""
A_DAY = """
    CREATE TABLE IF NOT EXISTS backbeat.finished_tasks_{day:%Y%m%d} PARTITION OF backbeat.finished_tasks
    FOR VALUES FROM ('{first}') TO ('{last}')"""


def deep(at: Server) -> tuple[dict[str, Any], list[Target]]:
    """100,000 rows of 2,000 tenants, all within their windows."""
    queue = Session(at, "deep")
    queue.tenants(TENANTS, EACH)
    queue.analyse()
    queue.forget()
    served: Counter[str] = Counter()
    for number in range(max(ROUNDS, 2 * TENANTS // 100)):
        rows = queue.claim()
        # 40 claims of 100 are two rows of each tenant, where all cost the same.
        if number < 2 * TENANTS // 100:
            served.update(row["tenant"] for row in rows)
        queue.settle(rows)
    figures: dict[str, Any] = {
        "claim_ms": queue.ms("claim"),
        "claim_cpu_ms": queue.cpu_ms("claim"),
        "settle_ms": queue.ms("settle"),
        "tenants_served_by_40_claims": len(served),
        "rows_of_the_least_and_most_served": [min(served.values()), max(served.values())],
    }
    queue.close()
    limits: list[Target] = [
        ("claim_ms", figures["claim_ms"], "<=", 3.0),
        ("tenants_served", len(served), ">=", TENANTS),
    ]
    return figures, limits


def paused(at: Server) -> tuple[dict[str, Any], list[Target]]:
    """The same rows twice, in one of them beside 95,000 of a tenant that is paused."""
    alone, beside = Session(at, "alone"), Session(at, "beside")
    for queue in (alone, beside):
        queue.tenants(TENANTS, 10)
    beside.owner.execute("INSERT INTO backbeat.tenants (id) VALUES ('hog')")
    beside.enqueue("hog", HOG)
    beside.owner.execute("SELECT backbeat.pause('tenant', 'hog', 'benchmark', 'me')")
    _in_turn(alone, beside)
    figures: dict[str, Any] = {
        "claim_ms": [alone.ms("claim"), beside.ms("claim")],
        "claim_cpu_ms": [alone.cpu_ms("claim"), beside.cpu_ms("claim")],
        "sweep_ms": [alone.ms("sweep"), beside.ms("sweep")],
        "ratio": round(beside.ms("claim") / alone.ms("claim"), 3),
    }
    for queue in (alone, beside):
        queue.close()
    return figures, [("paused_ratio", figures["ratio"], "<=", 1.1)]


def _in_turn(*queues: Session) -> None:
    """Rounds of sweep, claim and settle on each."""
    for queue in queues:
        queue.analyse()
        queue.settle(queue.claim())
        queue.forget()
    for _ in range(ROUNDS):
        for queue in queues:
            queue.sweep()
            queue.settle(queue.claim())


def burst(at: Server) -> tuple[dict[str, Any], list[Target]]:
    """A million rows of one tenant; then, twenty times, one of another, and the ticks until it is claimed."""
    queue = Session(at, "burst")
    queue.tenants(20, 0)
    queue.owner.execute("INSERT INTO backbeat.tenants (id) VALUES ('crowd')")
    figures: dict[str, Any] = {}
    limits: list[Target] = []
    for workflow, bulk, size in (("fair", False, 100), ("many", True, 1000)):
        queue.enqueue("crowd", BURST, workflow)
        queue.analyse()
        queue.settle(queue.claim(size, bulk=bulk))
        queue.forget()
        waited = []
        for number in range(1, 21):
            queue.enqueue(f"tenant {number}", 1, workflow)
            waited.append(_ticks_until(queue, f"tenant {number}", size, bulk=bulk))
        name = "claim_bulk" if bulk else "claim"
        figures |= {
            f"{workflow}_ticks": max(waited),
            f"{workflow}_{name}_of_{size}_ms": queue.ms(name),
            f"{workflow}_sweep_ms": queue.ms("sweep"),
        }
        limits.append((f"burst_{workflow}_ticks", max(waited), "<=", 1))
    queue.close()
    return figures, limits


def _ticks_until(queue: Session, tenant: str, size: int, *, bulk: bool) -> int:
    for tick in range(1, 100):
        queue.sweep()
        rows = queue.claim(size, bulk=bulk)
        queue.settle(rows)
        if any(row["tenant"] == tenant for row in rows):
            return tick
    raise SystemExit(f"{tenant} is not served within 100 ticks")


def history(at: Server) -> tuple[dict[str, Any], list[Target]]:
    """The same backlog on an empty history and on a long one, spread over its days."""
    empty, full = Session(at, "short"), Session(at, "long")
    with psycopg.connect(full.owner.info.dsn, password=full.owner.info.password, autocommit=True) as owner:
        owner.execute("SET synchronous_commit = off")
        for back in range(1, DAYS + 2):
            _open_day(owner, back)
        for first in range(0, HISTORY, PART):
            last = min(first + PART, HISTORY) - 1
            owner.execute(FINISHED, {"first": first, "last": last, "days": DAYS, "all": HISTORY})
            say(step="history", rows=last + 1)
        owner.execute("VACUUM ANALYZE backbeat.finished_tasks")
    for queue in (empty, full):
        queue.tenants(TENANTS, 10)
    _in_turn(empty, full)
    ((size,),) = full.owner.execute("SELECT pg_database_size(current_database())").fetchall()
    figures: dict[str, Any] = {
        "rows": HISTORY,
        "database_gb": round(size / 1e9, 2),
        "claim_ms": [empty.ms("claim"), full.ms("claim")],
        "claim_cpu_ms": [empty.cpu_ms("claim"), full.cpu_ms("claim")],
        "settle_ms": [empty.ms("settle"), full.ms("settle")],
        "ratio": round(full.ms("claim") / empty.ms("claim"), 3),
    }
    for queue in (empty, full):
        queue.close()
    at.drop("long")
    return figures, [("history_ratio", figures["ratio"], "<=", 1.2)]


def _open_day(owner: psycopg.Connection, back: int) -> None:
    today = "date_trunc('day', now(), 'UTC')"
    ((day, first, last),) = owner.execute(
        f"""
        SELECT ({today} AT TIME ZONE 'UTC')::date - {back}, backbeat.uuid7_floor({today} - interval '{back} days'),
               backbeat.uuid7_floor({today} - interval '{back - 1} days')""".encode()
    ).fetchall()
    owner.execute(A_DAY.format(day=day, first=first, last=last).encode())


def held(at: Server) -> tuple[dict[str, Any], list[Target]]:
    """A reader whose snapshot keeps every dead row, while others come and go."""
    queue = Session(at, "held")
    queue.tenants(TENANTS, EACH)
    queue.analyse()
    queue.settle(queue.claim())
    queue.forget()
    for _ in range(ROUNDS):
        queue.settle(queue.claim())
    before, before_cpu = queue.ms("claim"), queue.cpu_ms("claim")
    with psycopg.connect(queue.owner.info.dsn, password=queue.owner.info.password) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM backbeat.tenants")
        # A row leaves two dead versions behind: one when it is claimed, one when it is settled.
        for _ in range(DEAD // 2 // 1000):
            queue.settle(queue.claim(1000))
        queue.sweep()  # as a worker does every two seconds, which is more claims than these
        queue.forget()
        for _ in range(ROUNDS):
            queue.settle(queue.claim())
    figures: dict[str, Any] = {
        "claim_ms": [before, queue.ms("claim")],
        "claim_cpu_ms": [before_cpu, queue.cpu_ms("claim")],
        "ratio": round(queue.ms("claim") / before, 3),
    }
    queue.close()
    return figures, [("held_ratio", figures["ratio"], "<=", 2.0)]


def main() -> None:
    """Measure and print."""
    figures: dict[str, Any] = {}
    targets: list[Target] = []
    with server() as at:
        for case in (deep, paused, burst, history, held):
            if case.__name__ in (ONLY or case.__name__).split(","):
                figures[case.__name__], limits = case(at)
                targets += limits
                say(case=case.__name__, **figures[case.__name__])
    finish("claim", figures, targets)


if __name__ == "__main__":
    main()
