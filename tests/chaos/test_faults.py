"""What the provider does to a call, and what becomes of the call and of its task's attempts."""

from dataclasses import dataclass
from datetime import timedelta

from tests.chaos.conftest import OpenRig
from tests.chaos.support import books
from tests.chaos.support.rig import Rig
from tests.support.databases import Database


@dataclass(frozen=True)
class Fate:
    """The rows of the task's calls in order, the attempts that counted, and how the task ended."""

    calls: tuple[str, ...]
    attempts: int = 1
    ended: str = "succeeded"


REFUSED, LOST, INVALID, ANSWERED = "refused", "lost", "done, invalid", "done"
FATES = {
    "429;retry-after=0.2": Fate((REFUSED, ANSWERED)),
    "503": Fate((REFUSED, ANSWERED)),
    "529": Fate((REFUSED, ANSWERED)),
    "disconnect-before": Fate((LOST, ANSWERED), attempts=2),
    "disconnect-after": Fate((LOST, ANSWERED), attempts=2),
    "disconnect-mid": Fate((LOST, ANSWERED), attempts=2),
    "502;after=1": Fate((LOST, ANSWERED), attempts=2),
    "500": Fate((REFUSED, ANSWERED), attempts=2),
    "truncated": Fate((INVALID, ANSWERED)),
    "invalid-json": Fate((INVALID, ANSWERED)),
    "wrong-schema": Fate((INVALID, ANSWERED)),
    "length": Fate((INVALID, ANSWERED)),
    "refusal": Fate((INVALID,), ended="dead"),
    "400": Fate((REFUSED,), ended="dead"),
}


def _fate(rig: Rig, task: object) -> Fate:
    rows = [row for row in books.calls(rig) if row["owner"] == task]
    rows.sort(key=lambda row: (row["call_key"], row["seq"]))
    calls = tuple(INVALID if row["valid"] is False else row["status"] for row in rows)
    ((ended, attempts),) = rig.database.sql("SELECT status, attempts FROM backbeat.tasks WHERE id = %s", [task])
    return Fate(calls, attempts, ended)


def test_each_fault_has_its_class(rig: Rig) -> None:
    tasks = rig.enqueue("single", [{"n": n} for n in range(len(FATES))])
    plan = [
        {"fault": fault, "times": 1, "where": {"call": str(task)}} for fault, task in zip(FATES, tasks, strict=True)
    ]
    rig.restart_provider(faults=plan)
    rig.drain()
    assert {fault: _fate(rig, task) for fault, task in zip(FATES, tasks, strict=True)} == FATES
    books.flows_are_empty(rig)


def test_an_answer_that_stays_invalid_is_asked_for_again_by_the_next_attempt(
    open_rig: OpenRig, database: Database
) -> None:
    rig = open_rig(database, faults=[{"fault": "invalid-json", "times": 2}])
    (task,) = rig.enqueue("single", [{"n": 1}])
    rig.drain()
    assert _fate(rig, task) == Fate((INVALID, INVALID, ANSWERED), attempts=2)


def test_a_route_that_refuses_its_key_costs_one_task_and_holds_the_others(
    open_rig: OpenRig, database: Database
) -> None:
    rig = open_rig(database, faults=[{"fault": "401", "times": 1}])
    (refused,) = rig.enqueue("single", [{"n": 1}])
    rig.drain()
    assert _fate(rig, refused) == Fate((REFUSED,), attempts=1, ended="dead")
    (task,) = rig.enqueue("single", [{"n": 2}])
    rig.tick().ends_well()
    held = "SELECT status, hold_reason, hold_key, attempts FROM backbeat.simple_tasks"
    assert rig.database.sql(held) == [("held", "route", "claude-haiku-4-5", 0)]
    rig.database.advance(timedelta(minutes=16))
    rig.tick().ends_well()
    assert _fate(rig, task) == Fate((ANSWERED,))


def test_a_vendor_that_wants_a_long_pause_gets_it_without_an_attempt(open_rig: OpenRig, database: Database) -> None:
    rig = open_rig(database, faults=[{"fault": "429;retry-after=600", "times": 1}])
    (task,) = rig.enqueue("single", [{"n": 1}])
    rig.tick().ends_well()
    assert _fate(rig, task) == Fate((REFUSED,), attempts=0, ended="delayed")
    rig.database.advance(timedelta(seconds=600))
    rig.tick().ends_well()
    assert _fate(rig, task) == Fate((REFUSED, ANSWERED))


def test_a_call_that_outlasts_its_tick_is_lost_and_counts(open_rig: OpenRig, database: Database) -> None:
    rig = open_rig(database, latency="50")
    (task,) = rig.enqueue("single", [{"n": 1}])
    rig.tick("--budget", "20s", "--grace", "100ms").ends_well()
    assert _fate(rig, task) == Fate((LOST,), attempts=1, ended="ready")
    books.money_adds_up(rig)
    rig.restart_provider(latency="0")
    rig.drain()
    assert _fate(rig, task) == Fate((LOST, ANSWERED), attempts=2)
    books.spans_are_whole(rig)
