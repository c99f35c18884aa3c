"""What the queue should hold: a model of its tasks, moved by the same calls, without windows and clocks of flows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

FREE_RELEASES = 20
Span = tuple[datetime, datetime]
Row = dict[str, Any]
End = dict[str, Any]


@dataclass
class Task:
    """A live task. `waiting` is pending or ready; a moment that Postgres took lies in a span until it is read."""

    id: UUID
    tenant: str
    workflow: str
    class_: str
    most: int
    key: bytes | None = None
    expires_at: datetime | None = None
    state: str = "waiting"
    run_after: Span | None = None
    attempts: int = 0
    releases: int = 0
    alone: bool = False
    hold: tuple[str, str] | None = None
    lease: int | None = None
    lease_until: Span | None = None
    worker: str | None = None
    started: int = 0

    def wait(self, until: Span | None = None) -> None:
        """To the queue, or aside until a moment."""
        self.state, self.run_after, self.hold = "delayed" if until else "waiting", until, None
        self.lease_until = self.worker = None

    def park(self, reason: str, key: str, until: Span | None = None) -> None:
        """Aside until somebody lifts the reason."""
        self.wait(until)
        self.state, self.hold = "held", (reason, key)

    def agrees(self, row: Row) -> bool:
        """Whether Postgres says the same; moments it chose are taken over from it."""
        state = "waiting" if row["status"] in {"pending", "ready"} else row["status"]
        hold = (row["hold_reason"], row["hold_key"]) if state == "held" else None
        same = (state, hold, row["attempts"], row["releases"], row["alone"], row["worker"], row["expires_at"]) == (
            *(self.state, self.hold, self.attempts, self.releases, self.alone, self.worker, self.expires_at),
        ) and (state != "running" or row["lease"] == self.lease)
        for name in ("run_after", "lease_until"):
            span, read = getattr(self, name), row[name]
            same = same and (span is None) == (read is None) and (span is None or span[0] <= read <= span[1])
            setattr(self, name, read and (read, read))
        return same


@dataclass
class Model:
    """All tasks there ever were: `live`, or `ended` with a status; `letters` are the dead ones that nobody resolved."""

    most: Mapping[str, int]
    live: dict[UUID, Task] = field(default_factory=dict)
    ended: dict[UUID, str] = field(default_factory=dict)
    letters: dict[UUID, Task] = field(default_factory=dict)
    keys: dict[tuple[str, bytes], UUID] = field(default_factory=dict)
    paused: set[tuple[str, str]] = field(default_factory=set)
    stopped: bool = False
    caps: dict[str, int] = field(default_factory=dict)
    step: int = 0
    newest_lease: int = 0

    def add(self, task: Task) -> None:
        """A task that is new."""
        assert task.id not in self.live
        assert task.id not in self.ended
        self.live[task.id] = task
        if task.key is not None:
            self.keys[task.tenant, task.key] = task.id

    def answers(self, tenant: str, key: bytes | None) -> UUID | None:
        """The task that an enqueue with this key answers with; None: it makes one."""
        found = None if key is None else self.keys.get((tenant, key))
        given_up = found is not None and self.ended.get(found) in {"dead", "cancelled", "expired"}
        return None if given_up else found

    def end(self, task: Task, status: str) -> None:
        """It leaves the queue, once."""
        del self.live[task.id]
        self.ended[task.id] = status
        if status == "dead":
            self.letters[task.id] = task

    def may_start(self, tenant: str, workflow: str) -> bool:
        """Whether nothing of what people decided forbids it."""
        return not (self.stopped or ("tenant", tenant) in self.paused or ("workflow", workflow) in self.paused)

    def start(self, row: Row, worker: str, lease_until: Span) -> None:
        """A claim gave this row to a worker."""
        task = self.live[row["id"]]
        assert task.state == "waiting"
        assert self.may_start(task.tenant, task.workflow)
        assert row["lease"] > self.newest_lease, "a lease was given twice"
        task.state, task.worker, task.lease, task.lease_until = "running", worker, row["lease"], lease_until
        task.attempts, task.started = task.attempts + 1, self.step
        assert row["attempts"] == task.attempts <= task.most

    def holds(self, id_: UUID, lease: int) -> Task | None:
        """The task, where the lease is good."""
        task = self.live.get(id_)
        return task if task and task.state == "running" and task.lease == lease else None

    def settle(self, task: Task, end: End, around: Callable[[float], Span]) -> None:
        """An attempt that holds its lease ended so; `around` bounds the moment so many seconds after the settlement."""
        outcome, after = end["outcome"], end.get("after") or 0.0
        patience = outcome == "release" and end["reason"] != "out_of_time"
        if outcome in {"succeed", "fan_out", "escalate", "dead"}:
            return self.end(task, {"dead": "dead", "escalate": "escalated"}.get(outcome, "succeeded"))
        if (outcome == "retry" and task.attempts >= task.most) or (patience and task.releases >= FREE_RELEASES):
            return self.end(task, "dead")
        task.attempts -= outcome != "retry"
        until = datetime.fromisoformat(end["until"]) if end.get("until") else None
        if outcome == "hold" and not self._lifted_since(task, end):
            return task.park(end["reason"], end["key"], (until, until) if until else None)
        if patience:
            after = max(after, min(2**task.releases - 1, 900))
            task.releases += 1
        if outcome == "snooze" and until and until > around(0.0)[0]:
            return task.wait((until, until))
        return task.wait(around(after) if after else None)

    def _lifted_since(self, task: Task, end: End) -> bool:
        return bool(end["reason"] == "budget" and self.caps.get(end["key"], -1) > task.started)

    def reap(self, task: Task) -> None:
        """Its lease ran out."""
        if task.attempts >= task.most:
            return self.end(task, "dead")
        task.alone = task.attempts + 1 >= task.most
        return task.wait()

    def release(self, reason: str, keys: Iterable[str]) -> int:
        """Holds are lifted; how many."""
        held = [task for task in self.live.values() if task.hold in {(reason, key) for key in keys}]
        for task in held:
            task.wait()
        return len(held)

    def sweep(self, now: datetime) -> tuple[int, int]:
        """What time alone moves: how many were due, how many expired."""
        due = [
            task
            for task in self.live.values()
            if task.state != "running" and task.run_after and task.run_after[0] <= now
        ]
        for task in due:
            task.wait()
        late = [t for t in self.live.values() if t.state != "running" and t.expires_at and t.expires_at <= now]
        for task in late:
            self.end(task, "expired")
        return len(due), len(late)

    def requeued(self, letters: Iterable[UUID]) -> list[UUID]:
        """Which of these letters become tasks: of one key the last, and only if no other task has the key."""
        last = {(t.tenant, t.key or t.id): id_ for id_ in sorted(letters) if (t := self.letters.get(id_))}
        return sorted(
            id_
            for id_ in last.values()
            if (key := self.letters[id_].key) is None or self.keys[self.letters[id_].tenant, key] == id_
        )

    def read(self, rows: Sequence[Row], unloaded: frozenset[str]) -> None:
        """Compare with Postgres. It may park what waits, where its workflow is paused or, at a sweep, `unloaded`."""
        assert {row["id"] for row in rows} == self.live.keys()
        for row in rows:
            task, why = self.live[row["id"]], row["hold_reason"]
            if task.state == "waiting" and row["status"] == "held":
                if why == "paused" and ("workflow", task.workflow) in self.paused:
                    task.park(why, task.workflow)
                elif why == "version" and task.workflow in unloaded:
                    task.park(why, f"{task.workflow}@1")
            assert task.agrees(row), (task, row)


def later(moment: datetime, seconds: float) -> datetime:
    """So many seconds after it."""
    return moment + timedelta(seconds=seconds)
