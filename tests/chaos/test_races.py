"""Ticks side by side: one execution a task, a poison task that harms nobody else, two releases at once."""

import signal
from random import Random

import psycopg
import pytest

from tests.chaos.conftest import SOAK, soaking
from tests.chaos.support import books
from tests.chaos.support.rig import Rig, wait_for_leases
from tests.support import tasks
from tests.support.signals import until

NEVER = ("before-ship", 1000)  # it dies of nothing, and has its spans on disk before it goes on
FIRST, SECOND = "tests.chaos.support.first", "tests.chaos.support.second"


@pytest.mark.parametrize("ticks", [2, 10] if SOAK else [10])
def test_many_ticks_and_one_task_are_one_execution(rig: Rig, ticks: int) -> None:
    for n in range(soaking(1, 10)):
        ids = rig.enqueue("single", [{"n": n}])
        with psycopg.connect(rig.database.owner_url) as starter:
            # The first thing a claim reads: all of them wait here, and then go at once.
            starter.execute("LOCK TABLE backbeat.switches")
            started = [rig.tick("--budget", "120s") for _ in range(ticks)]
            until(lambda: tasks.waiting(rig.database) == ticks, within=60, what="ticks about to claim")
        for tick in started:
            tick.ends_well(within=90)
        assert len(rig.requests()) == n + 1
    assert rig.database.sql("SELECT attempts FROM backbeat.finished_tasks WHERE id = %s", ids) == [(1,)]
    books.calls_paid_once(rig)


def test_a_poison_task_dies_of_its_attempts_and_takes_no_neighbour_with_it(rig: Rig, seed: int) -> None:
    """All are claimed by one process again and again, until those that were with the dead have one attempt left."""
    order = Random(seed).sample(["poison", *["single"] * 6], 7)
    ids = [(name, *rig.enqueue(name, [{"n": n}])) for n, name in enumerate(order)]
    deaths = 0
    while rig.live():
        deaths += rig.tick("--lease", "3s", doom=NEVER).wait() == -signal.SIGKILL
        wait_for_leases(rig.database)
    assert deaths == 3
    ended = dict(rig.database.sql("SELECT id, status FROM backbeat.finished_tasks"))
    assert [ended[task] for _, task in ids] == ["dead" if name == "poison" else "succeeded" for name, _ in ids]
    assert rig.database.sql("SELECT workflow, error_class, attempts FROM backbeat.dead_letters") == [
        ("poison", "worker_lost", 3)
    ]
    books.calls_paid_once(rig)
    books.spans_are_whole(rig)


def test_releases_side_by_side_claim_only_what_they_have_loaded(rig: Rig) -> None:
    rig.register(FIRST, SECOND)
    for version in (1, 2):
        payloads = "ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series(1, 4) n)"
        rig.database.sql(f"SELECT backbeat.enqueue('job', {version}, {payloads})")
    with rig.beat(modules=[FIRST]), rig.beat(modules=[SECOND]):
        rig.is_drained()
    ran = rig.database.sql(
        "SELECT t.version, w.loaded[1], count(*) FROM backbeat.finished_tasks t"
        " JOIN backbeat.workers w ON w.id = t.history -> 0 ->> 'worker' GROUP BY 1, 2 ORDER BY 1"
    )
    assert ran == [(1, "job@1", 4), (2, "job@2", 4)]


def test_a_version_that_nobody_has_loaded_is_held_until_somebody_has(rig: Rig) -> None:
    rig.register(FIRST, SECOND)
    rig.database.sql("SELECT backbeat.enqueue('job', 2, ARRAY['{\"n\": 1}'::jsonb])")
    rig.tick(modules=[FIRST]).ends_well()
    held = "SELECT status, hold_reason, hold_key, attempts FROM backbeat.simple_tasks"
    assert rig.database.sql(held) == [("held", "version", "job@2", 0)]
    rig.tick(modules=[SECOND]).ends_well()
    assert rig.database.sql("SELECT status, attempts FROM backbeat.tasks") == [("succeeded", 1)]
