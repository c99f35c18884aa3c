"""The queue against a model of it: any calls in any order by two workers, and a clock that jumps."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.support.databases import Database
from tests.support.queue_cases import (
    CAPS,
    CLASSES,
    CLOCKS,
    DEFINITIONS,
    ENDED,
    ENDS,
    FIRST,
    FLOWS,
    LEASES,
    ORPHANS,
    PEOPLE,
    QUERIES,
    SNAPSHOT,
    TENANTS,
    WINDOW,
    WORKERS,
    WORKFLOWS,
    Session,
)
from tests.support.queue_model import Model, Row, Task, later

SOAK = os.environ.get("BACKBEAT_SOAK") == "1"
EXAMPLES, STEPS = (2000, 60) if SOAK else (40, 30)
_picks = st.lists(st.integers(0, 30), min_size=1, max_size=4, unique=True)
_ends = st.lists(st.sampled_from(ENDS), min_size=4, max_size=4)
_worker = st.sampled_from(list(WORKERS))
_limit = st.sampled_from([1, 3, 100])
_lease = st.sampled_from([30.0, 300.0])
_some = st.sampled_from([1, 2, 5, 70])


class Queue(Session, RuleBasedStateMachine):
    """Each example is one transaction, so that nothing is left of it; leases go on, as in life."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(WORKFLOWS)
        self.grants: list[tuple[UUID, int, str]] = []
        self.clocks: dict[str, float] = {}
        self.unloaded: frozenset[str] = frozenset()
        self.calls = 0
        self.rows: list[Row] = []

    @initialize()
    def begin(self) -> None:
        self.db.rollback()
        self._run("SELECT setseed(0.5)")
        (self.base,) = (row["now"] for row in self._run("SELECT backbeat.now()"))
        self.register("A")
        for workflow, tenant, class_ in FIRST:
            self.enqueue(3, workflow, tenant, class_, 0, None, None)
        # Each example begins with a worker that stalled: its leases are stale, and some of its tasks are another's.
        self.check()
        self.claim("A", 100, 30.0, idle=True)
        self.check()
        self.claim_bulk("A", 100, 30.0)
        self._advance(31.0)
        self.reap()
        self.sweep()
        self.claim("B", 2, 300.0, idle=True)
        self.check()
        self.claim_bulk("B", 2, 300.0)

    # -- producers ----------------------------------------------------------------------------------------------------

    @rule(
        count=_some,
        workflow=st.sampled_from(list(WORKFLOWS)),
        tenant=st.sampled_from(TENANTS),
        class_=st.sampled_from(CLASSES),
        keyed=st.integers(0, 2),
        due=st.sampled_from([None, None, 45.0]),
        expires=st.sampled_from([None, None, 20.0, 400.0]),
    )
    def enqueue(
        self, count: int, workflow: str, tenant: str, class_: str, keyed: int, due: float | None, expires: float | None
    ) -> None:
        keys = [bytes([n % 5]) * 32 if keyed == 1 else None for n in range(count)]
        run_after = later(self.now, due) if due else None
        expires_at = later(self.now, expires) if expires else None
        params = {"workflow": workflow, "version": 1, "tenant": tenant, "class": class_}
        params |= {"run_after": run_after, "expires_at": expires_at}
        params |= dict.fromkeys(("traceparent", "origin", "parent"))
        known = {key: self.model.answers(tenant, key) for key in keys}
        fresh = [key for n, key in enumerate(keys) if key is None or (known[key] is None and key not in keys[:n])]
        if count > 5:
            ids = self._copy(params, keys)
        else:
            payloads = [Jsonb({"n": n}) for n in range(count)]
            rows = self._run(QUERIES["enqueue"], payloads=payloads, keys=keys, source_at=None, **params)
            assert [row["ord"] for row in rows] == list(range(1, count + 1))
            ids = [row["task_id"] for row in rows if row["created"]]
            by_key = known | dict(zip(fresh, ids, strict=True))
            assert keyed != 1 or [row["task_id"] for row in rows] == [by_key[key] or 0 for key in keys]
        for id_, key in zip(ids, fresh, strict=True):
            task = Task(id_, tenant, workflow, class_, WORKFLOWS[workflow], key, expires_at)
            self.model.add(task)
            task.wait((run_after, run_after) if run_after else None)

    def _copy(self, params: dict[str, Any], keys: Sequence[bytes | None]) -> list[UUID]:
        self._run(QUERIES["make_stage"])
        with self.db.cursor() as cursor, cursor.copy(QUERIES["fill_stage"]) as copy:
            for key in keys:
                copy.write_row(("{}", key))
        made = [row["task_id"] for row in self._run(QUERIES["enqueue_stage"], **params)]
        self._run(QUERIES["drop_stage"])
        return made

    # -- workers ------------------------------------------------------------------------------------------------------

    @rule(worker=_worker, limit=_limit, lease=_lease, idle=st.booleans())
    def claim(self, worker: str, limit: int, lease: float, idle: bool) -> None:
        ready = [row for row in self.rows if row["status"] == "ready" and self._may(row, worker)]
        rows = self._taken(self._run, QUERIES["claim"], worker, lease, limit=limit, idle=idle)
        alone = [row["id"] for row in ready if row["alone"]]
        if alone and idle:
            assert [row["id"] for row in rows] == alone[:1]
        else:
            assert len(rows) == min(limit, len(ready) - len(alone))
            assert not {row["id"] for row in rows} & set(alone)

    @rule(worker=_worker, limit=_limit, lease=_lease)
    def claim_bulk(self, worker: str, limit: int, lease: float) -> None:
        room = self._room()
        able = [r for r in self._bulk_rows(worker) if room.get(r["tenant"], 1) > 0]
        rows = self._taken(self._run, QUERIES["claim_bulk"], worker, lease, limit=limit, idle=True)
        alone = [row["id"] for row in able if row["alone"]]
        if alone:
            assert [row["id"] for row in rows] == alone[:1]
        elif any(row["tenant"] in CAPS for row in able):
            assert 0 < len(rows) <= limit
        else:
            assert len(rows) == min(limit, len(able))

    @precondition(lambda self: self.grants)
    @rule(picks=_picks, fresh=st.booleans(), worker=_worker, lease=_lease)
    def heartbeat(self, picks: list[int], fresh: bool, worker: str, lease: float) -> None:
        grants = self._grants(picks, fresh)
        before = self.clock
        params = {
            "ids": [id_ for id_, _, _ in grants],
            "leases": [given for _, given, _ in grants],
            "lease_seconds": lease,
        }
        gone = {row["id"] for row in self._run(QUERIES["heartbeat"], worker=worker, **params)}
        kept = {id_: task for id_, given, _ in grants if (task := self.model.holds(id_, given))}
        assert gone == {id_ for id_, _, _ in grants} - kept.keys()
        for task in kept.values():
            task.lease_until = self._since(before, lease)

    @precondition(lambda self: self.grants)
    @rule(picks=_picks, fresh=st.booleans(), ends=_ends)
    def settle(self, picks: list[int], fresh: bool, ends: list[dict[str, Any]]) -> None:
        self._settled(QUERIES["settle"], picks, fresh, ends)

    @precondition(lambda self: self.grants)
    @rule(picks=_picks, fresh=st.booleans(), ends=_ends)
    def settle_more(self, picks: list[int], fresh: bool, ends: list[dict[str, Any]]) -> None:
        self._settled(QUERIES["settle"], picks, fresh, ends)

    @precondition(lambda self: self.grants)
    @rule(picks=_picks, fresh=st.booleans(), ends=_ends, worker=_worker, limit=_limit, lease=_lease)
    def turn(
        self, picks: list[int], fresh: bool, ends: list[dict[str, Any]], worker: str, limit: int, lease: float
    ) -> None:
        self._settled(QUERIES["turn"], picks, fresh, ends, worker=worker, limit=limit, lease_seconds=lease)

    def _settled(self, query: Any, picks: list[int], fresh: bool, ends: list[dict[str, Any]], **claim: Any) -> None:
        given = list(zip(self._grants(picks, fresh), ends, strict=False))
        told = [(id_, lease, self._dated(end)) for (id_, lease, _), end in given]
        stale = not any(self.model.holds(id_, lease) for id_, lease, _ in told)
        print_before = self._fingerprint() if stale and not claim else None
        before = self.clock
        answers = self._run(
            query, rows=Jsonb([{"id": str(id_), "lease": lease, **end} for id_, lease, end in told]),
            **(claim | {"loaded": WORKERS[claim["worker"]]} if claim else {}),
        )  # fmt: skip
        if print_before:
            assert self._fingerprint() == print_before
        refused = {row["id"] for row in answers if row.get("lease") is None}
        after = self._since(before, 0.0)
        held = [(task, end) for id_, lease, end in told if (task := self.model.holds(id_, lease))]
        good = {task.id for task, _ in held}
        assert refused == {id_ for id_, lease, _ in told if id_ not in good}
        for task, end in held:
            self.model.settle(task, end, lambda seconds: (later(after[0], seconds), later(after[1], seconds)))
        self._born([task for task, end in held if end["outcome"] == "fan_out"])
        if claim:
            self._granted(
                [row for row in answers if row["lease"] is not None], claim["worker"], claim["lease_seconds"], before
            )

    def _born(self, parents: Sequence[Task]) -> None:
        """The children of tasks that fanned out are as their parents said."""
        query = (
            "SELECT id, tenant, workflow, class, parent_id FROM backbeat.simple_tasks WHERE parent_id = ANY (%(ids)s)"
        )
        rows = self._run(query, ids=[task.id for task in parents]) if parents else []
        assert len(rows) == 2 * len(parents)
        by_id = {task.id: task for task in parents}
        for row in rows:
            parent = by_id[row["parent_id"]]
            assert (row["tenant"], row["class"]) == (parent.tenant, parent.class_)
            self.model.add(Task(row["id"], parent.tenant, row["workflow"], parent.class_, WORKFLOWS[row["workflow"]]))

    @precondition(lambda self: self.grants)
    @rule(picks=_picks, fresh=st.booleans(), ends=st.booleans(), tokens=st.sampled_from([10, 5000]))
    def call(self, picks: list[int], fresh: bool, ends: bool, tokens: int) -> None:
        """A model call, which makes its task dear."""
        self.calls += 1
        for id_, lease, _ in self._grants(picks[:1], fresh):
            what: dict[str, Any] = dict.fromkeys(
                ("route", "tier", "provider", "model", "price_version", "request_hash"), "x"
            )
            what |= {"owner": str(id_), "lease": lease, "call_key": str(self.calls)}
            amounts = {"reserved_usd": "0.01", "likely_usd": "0.01", "reserved_tokens": 5000, "likely_tokens": 5000}
            (verdict,) = self._run(QUERIES["open_calls"], worker="w", calls=Jsonb([what | amounts]))
            held = self.model.holds(id_, lease)
            assert verdict["verdict"] == ("fenced" if held is None else "stopped" if self.model.stopped else "open")
            if ends and verdict["verdict"] == "open":
                used = {
                    "uncached": tokens,
                    "cache_read": 0,
                    "cache_write": 0,
                    "output": 0,
                    "reasoning": 0,
                    "cost_usd": "0.001",
                }
                assert self._run(QUERIES["close_calls"], ends=Jsonb([what | used | {"seq": 1, "status": "done"}]))

    # -- time and people ----------------------------------------------------------------------------------------------

    @rule()
    def reap(self) -> None:
        before = self.clock
        taken = self._run(QUERIES["reap"], limit=1000, leases=None)
        reaped = {row["task_id"]: row for row in taken}
        running = [task for task in self.model.live.values() if task.state == "running" and task.lease_until]
        certain = {task.id for task in running if task.lease_until and task.lease_until[0] < before}
        assert (
            certain
            <= reaped.keys()
            <= {task.id for task in running if task.lease_until and task.lease_until[0] < self.clock}
        )
        for id_, row in reaped.items():
            assert row["lease"] == self.model.live[id_].lease
            self.model.reap(self.model.live[id_])
            assert (row["status"] == "dead") == (id_ in self.model.ended)

    @rule()
    def sweep(self) -> None:
        query = "SELECT name FROM backbeat.workflows WHERE seen_at < backbeat.now() - interval '10 minutes'"
        self.unloaded = frozenset(row["name"] for row in self._run(query))
        (moved,) = self._run(QUERIES["sweep"], limit=5000)
        assert (moved["due"], moved["expired"]) == self.model.sweep(self.now)
        self.check()
        self.unloaded = frozenset()
        parked = [row for row in self.rows if row["tier"].startswith("bulk/") and row["status"] == "pending"]
        assert not [row for row in parked if ("workflow", row["workflow"]) in self.model.paused]
        if not moved["expired"] and not moved["unloaded"] and not self.model.paused:
            self._all_that_fits_is_ready()

    def _all_that_fits_is_ready(self) -> None:
        room, ready = self._room(), Counter(_flow(row) for row in self.rows if row["status"] == "ready")
        left = [row for row in self.rows if row["status"] == "pending" and not row["tier"].startswith("bulk/")]
        assert not [row for row in left if room.get(row["tenant"], 1) > 0 and ready[_flow(row)] < WINDOW]

    @rule(seconds=st.sampled_from([10.0, 31.0, 61.0, 700.0]))
    def advance(self, seconds: float) -> None:
        self._advance(seconds)

    @rule(pick=st.integers(0, 200), count=st.integers(1, 3))
    def cancel(self, pick: int, count: int) -> None:
        known = [*self.model.live, *self.model.ended]
        ids = list({known[(pick + n) % len(known)] for n in range(count)}) if known else [uuid4()]
        gone = self._run("SELECT backbeat.finish(%(ids)s, 'cancelled', 'cancelled', 'a test') AS id", ids=ids)
        assert {row["id"] for row in gone} == self.model.live.keys() & set(ids)
        for row in gone:
            self.model.end(self.model.live[row["id"]], "cancelled")

    @rule(what=st.sampled_from(PEOPLE))
    def people(self, what: tuple[str, ...]) -> None:
        getattr(self, what[0])(*what[1:])

    def pause_or_not(self, scope: str, key: str) -> None:
        if (scope, key) in self.model.paused:
            return self._unpause(scope, key)
        self.model.paused.add((scope, key))
        (row,) = self._run("SELECT backbeat.pause(%(scope)s, %(key)s, 'a test', 'test') AS n", scope=scope, key=key)
        assert row["n"] == len([one for one in self.rows if one["status"] == "ready" and one[scope] == key])
        return None

    def _unpause(self, scope: str, key: str) -> None:
        self.model.paused.remove((scope, key))
        assert self._run("SELECT backbeat.unpause(%(scope)s, %(key)s, 'test') AS done", scope=scope, key=key) == [
            {"done": True}
        ]
        self.model.release("paused", [key])

    def stop_or_not(self) -> None:
        self.model.stopped = not self.model.stopped
        query = QUERIES["throw_switch" if self.model.stopped else "release_switch"]
        self._run(query, name="all", reason="a test", by="test")

    def raise_budget(self, workflow: str) -> None:
        (row,) = self._run(
            QUERIES["set_budget"], scope="workflow", key=workflow, usd=1000, tokens=None, by="test", soft=False
        )
        assert row["released"] == self.model.release("budget", [f"workflow/{workflow}"])
        self.model.caps[f"workflow/{workflow}"] = self.model.step

    def route_is_back(self) -> None:
        (row,) = self._run("SELECT backbeat.release_held('route', 'r') AS n")
        assert row["n"] == self.model.release("route", ["r"])

    def register(self, worker: str) -> None:
        loaded = [one for one in DEFINITIONS if f"{one['name']}@1" in WORKERS[worker]]
        (row,) = self._run(QUERIES["register_worker"], worker=worker, kind="cron", definitions=Jsonb(loaded))
        assert row["released"] == self.model.release("version", WORKERS[worker])

    @precondition(lambda self: self.model.ended)
    @rule(picks=_picks, newest=st.booleans(), seconds=st.sampled_from([0.0, 60.0]))
    def requeue(self, picks: list[int], newest: bool, seconds: float) -> None:
        known = sorted(self.model.letters) or list(self.model.ended)
        ids = {known[pick % len(known)] for pick in picks}
        due = self.model.requeued(ids)
        rows = self._run(
            QUERIES["requeue"],
            ids=list(ids),
            newest=newest,
            start=self.now,
            seconds=seconds,
            by="test",
            reason="a test",
        )
        made = {row["id"]: row["task_id"] for row in rows}
        assert made.keys() == set(due)
        for n, letter in enumerate(due):
            old = self.model.letters.pop(letter)
            task = Task(made[letter], old.tenant, old.workflow, old.class_, old.most, old.key)
            at = later(self.now, n * seconds)
            self.model.add(task)
            task.wait((at, at) if n * seconds else None)

    # -- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def check(self) -> None:
        self.model.step += 1
        with self.db.pipeline():
            cursors = [self.db.execute(query.encode()) for query in (SNAPSHOT, ENDED, ORPHANS, LEASES, FLOWS, CLOCKS)]
            self.rows, ended, orphans, twice, flows, clocks = (cursor.fetchall() for cursor in cursors)
        self.model.read(self.rows, self.unloaded)
        assert {row["id"]: row["status"] for row in ended} == self.model.ended
        assert {row["id"] for row in ended if row["letter"]} == {row["id"] for row in ended if row["status"] == "dead"}
        assert {row["id"] for row in ended if row["open"]} == self.model.letters.keys()
        assert (orphans, twice) == ([{"count": 0}], [{"count": 0}])
        counted = {
            status: Counter(_flow(row) for row in self.rows if row["status"] == status)
            for status in ("ready", "running")
        }
        assert {status: {_flow(f): f[status] for f in flows if f[status]} for status in counted} == counted
        assert max(counted["ready"].values(), default=0) <= WINDOW
        assert min(self._room().values()) >= 0
        read = {row["tier"]: row["v"] for row in clocks}
        assert all(read[tier] >= v for tier, v in self.clocks.items())
        self.clocks = read

    def teardown(self) -> None:
        """People let go of everything, time passes, and workers come: every task has ended, once."""
        if not hasattr(self, "base"):
            return
        try:
            self._drain()
        finally:
            self.db.rollback()

    def _drain(self) -> None:
        for scope, key in list(self.model.paused):
            self._unpause(scope, key)
        if self.model.stopped:
            self.stop_or_not()
        for _ in range(25):
            for reason, key in {task.hold for task in self.model.live.values() if task.hold}:
                self._run("SELECT backbeat.release_held(%(reason)s, %(key)s)", reason=reason, key=key)
                self.model.release(reason, [key])
            self._advance(1000.0)
            self.register("A")
            self.reap()
            self.sweep()
            for claim in (self.claim, self.claim_bulk):
                self._all_succeed(claim)
            if not self.model.live:
                return
        raise AssertionError(f"{len(self.model.live)} tasks do not end: {list(self.model.live.values())[:3]}")

    def _all_succeed(self, claim: Any) -> None:
        while True:
            claim("A", 100, 300.0, *([True] if claim == self.claim else []))
            running = sum(task.state == "running" for task in self.model.live.values())
            if not running:
                return
            self._settled(QUERIES["settle"], list(range(running)), True, ENDS[:1] * running)
            self.check()

    # -- how it is done -----------------------------------------------------------------------------------------------

    def _taken(self, run: Any, query: Any, worker: str, lease: float, **params: Any) -> list[Row]:
        before = self.clock
        rows: list[Row] = run(query, worker=worker, loaded=WORKERS[worker], lease_seconds=lease, **params)
        self._granted(rows, worker, lease, before)
        return rows

    def _granted(self, rows: Iterable[Row], worker: str, lease: float, before: datetime) -> None:
        until = self._since(before, lease)
        for row in rows:
            assert f"{row['workflow']}@1" in WORKERS[worker]
            self.model.start(row, worker, until)
            self.grants.append((row["id"], row["lease"], worker))
        self.model.newest_lease = max([self.model.newest_lease, *(lease for _, lease, _ in self.grants)])

    def _grants(self, picks: list[int], fresh: bool) -> list[tuple[UUID, int, str]]:
        """Leases that were given, the newest first; `fresh`: of good ones, else of those whose task another has."""
        good = [grant for grant in self.grants if self.model.holds(grant[0], grant[1])]
        busy = {id_ for id_, _, _ in good}
        wanted = good if fresh else [grant for grant in self.grants if grant[0] in busy and grant not in good]
        known = (wanted or self.grants)[::-1]
        return list(dict.fromkeys(known[pick % len(known)] for pick in picks))

    def _may(self, row: Row, worker: str) -> bool:
        return f"{row['workflow']}@1" in WORKERS[worker] and self.model.may_start(row["tenant"], row["workflow"])

    def _bulk_rows(self, worker: str) -> list[Row]:
        return [
            row
            for row in self.rows
            if row["status"] == "pending" and row["tier"].startswith("bulk/") and self._may(row, worker)
        ]

    def _room(self) -> dict[str, int]:
        used = Counter(row["tenant"] for row in self.rows if row["status"] in {"ready", "running"})
        return {tenant: cap - used[tenant] for tenant, cap in CAPS.items()}


def _flow(row: Row) -> tuple[str, str, str]:
    return row["tenant"], row["tier"], row["class"]


@pytest.mark.timeout(3600 if SOAK else 180)
def test_any_calls_in_any_order(database: Database) -> None:
    database.sql("INSERT INTO backbeat.tenants (id, weight, max_running) VALUES ('acme', 3, NULL), ('capped', 1, 3)")
    options = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        database=None,
    )
    with psycopg.connect(database.owner_url, row_factory=dict_row) as connection:

        class Connected(Queue):
            db = connection

        run_state_machine_as_test(Connected, settings=options)
