"""kill -9 a tick at each labelled step; then healthy ticks drain what is left, and the books balance."""

import signal
import subprocess
import sys
from random import Random

import pytest

from tests.chaos.conftest import SOAK, soaking
from tests.chaos.support import books
from tests.chaos.support.rig import WORK, Rig
from tests.support.tree import ROOT

# How often each step is surely reached with three tasks of each kind: the occurrence that kills is drawn from that.
STEPS = {
    "after-claim": 1,
    "after-open": 9,
    "mid-call": 9,
    "after-answer": 9,
    "after-close": 9,
    "before-far-write": 3,
    "after-far-write": 3,
    "before-spool": 2,
    "before-settle": 2,
    "mid-settle": 2,
    "after-settle": 2,
    "before-ship": 1,
}


# One of each kind: nothing begun, a call under way, one answered, a write done, rows half settled, spans not kept.
SHORT = ("after-claim", "mid-call", "after-answer", "after-far-write", "mid-settle", "before-spool")


@pytest.mark.parametrize("step", STEPS if SOAK else SHORT)
def test_a_tick_killed_at_any_step_loses_and_repeats_nothing(rig: Rig, seed: int, step: str) -> None:
    dice = Random(f"{seed}:{step}")
    ids = []
    for campaign in range(soaking(1, 8)):
        items = [{"n": 3 * campaign + n, "text": f"of seed {dice.random()}"} for n in (1, 2, 3)]
        ids += [*rig.enqueue("single", items), *rig.enqueue("loop", items)]
        rig.tick(doom=(step, dice.randint(1, STEPS[step]))).is_killed()
        rig.drain()
    books.balance(rig, ids)
    books.spans_are_whole(rig)


ENQUEUER = """
import os, signal
from backbeat.cli.main import main
from shared.telemetry.recorder import SpoolTelemetry
SpoolTelemetry.flush = lambda _: os.kill(os.getpid(), signal.SIGKILL)
main(["task", "enqueue", "single", "--payload", '{"n": 1}'])
"""


def test_an_enqueuer_killed_between_commit_and_flush_is_still_in_the_trace(rig: Rig) -> None:
    done = subprocess.run([sys.executable, "-c", ENQUEUER], cwd=ROOT, env=rig.environ(WORK), capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(rig.spool.glob("*")) == []
    (task,) = [task for (task,) in rig.database.sql("SELECT id FROM backbeat.simple_tasks")]
    rig.drain()
    books.ended_once(rig, [task])
    books.spans_are_whole(rig)
