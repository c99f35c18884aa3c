"""kill -9 a tick that works on agents at each labelled step: every step happens once, and so does what it wrote."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from backbeat.producer.rows import Submission, enqueue
from tests.chaos.conftest import SOAK, OpenRig, soaking
from tests.chaos.support import books
from tests.chaos.support.rig import Rig
from tests.support.agents import DONE, NOTES, job, use
from tests.support.databases import Database
from tests.support.signals import until

WORK = "tests.support.agent_definitions"
STEPS = {
    "after-claim": 4,
    "after-open": 4,
    "mid-call": 4,
    "after-answer": 4,
    "after-close": 4,
    "before-far-write": 2,
    "after-far-write": 2,
    "before-settle": 4,
    "mid-settle": 4,
    "after-settle": 4,
}


SHORT = ("after-far-write", "mid-settle")  # where most is under way


@pytest.mark.parametrize("step", STEPS if SOAK else SHORT)
def test_a_tick_killed_at_any_step_repeats_none(
    open_rig: OpenRig, database: Database, tmp_path: Path, seed: int, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice, written = Random(f"{seed}:{step}"), tmp_path / "written"
    written.mkdir()
    monkeypatch.setenv(NOTES, str(written))
    rig = open_rig(database, latency="0.01-0.05")
    rig.register(WORK)
    for n in range(soaking(3, 12)):
        script = [use("look_up", word=f"w{n}"), use("note", text=f"note {n}"), {"action": "respond"}, DONE]
        _add(rig, "scripted", job(n, *script))
        _add(rig, "boss", {"n": 100 + n, "parts": 3})
    for _ in range(soaking(1, 4)):
        rig.tick(doom=(step, dice.randint(1, STEPS[step])), modules=[WORK]).is_killed()
    with rig.beat(modules=[WORK]):
        until(lambda: not rig.live(), within=60, what="a drained queue")

    assert rig.database.sql("SELECT error FROM backbeat.agents WHERE status <> 'done'") == []
    taken = rig.database.sql(
        "SELECT a.workflow, a.steps, count(*) FROM backbeat.agents a"
        " JOIN backbeat.agent_steps s ON s.agent_id = a.id GROUP BY a.id"
    )
    assert Counter(taken) == {("scripted", 4, 4): soaking(3, 12), ("boss", 2, 2): soaking(3, 12)}
    lines = Counter(path.read_text() for path in written.iterdir())
    wanted = {f"note {n}" for n in range(soaking(3, 12))} | {f"merged {100 + n}" for n in range(soaking(3, 12))}
    assert lines == dict.fromkeys(wanted, 1)
    assert rig.database.sql("SELECT DISTINCT children_left, failed FROM backbeat.joins") == [(0, 0)]
    books.calls_paid_once(rig)
    books.money_adds_up(rig)
    books.flows_are_empty(rig)


def _add(rig: Rig, name: str, payload: dict[str, object]) -> None:
    rig.ask(lambda db: enqueue(db, Submission(payloads=[payload], keys=[None], workflow=name, version=1)))
