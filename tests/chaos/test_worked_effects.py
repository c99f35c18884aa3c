"""kill -9 before, during and after the far write of each worked effect and with it on record: each is there once."""

import signal
from datetime import timedelta
from pathlib import Path

import pytest

from backbeat.operate import inspect
from backbeat.producer.submit import submit
from shared.db.pool import Database as Connection
from shared.definitions import load_definitions
from shared.telemetry.spans import NullTelemetry
from tests.chaos.conftest import OpenRig
from tests.chaos.support.rig import Rig, Tick
from tests.support.command import command
from tests.support.databases import Database
from tests.support.far_sides import FarSides, far_sides
from tests.support.signals import until

MODULES = ("examples.effects.mail", "examples.effects.charge", "examples.effects.chat")
TASKS: dict[str, dict[str, str]] = {
    "send_mail": {"to": "a@b.invalid", "subject": "s"},
    "charge_order": {"customer": "c"},
    "post_chat": {},
}
LATER = timedelta(minutes=2)  # past every lease and window


def _enqueue(rig: Rig, n: int) -> None:
    """One task of each kind."""
    registry = load_definitions(MODULES)

    async def add(db: Connection) -> None:
        for name, fixed in TASKS.items():
            body = {**fixed, **({"cents": n} if name == "charge_order" else {"text": f"no. {n}"})}
            await submit(db, NullTelemetry(), registry.newest(name), [body])

    rig.ask(add)


def _ticks(rig: Rig, doom: tuple[str, int] | None = None) -> list[Tick]:
    """A tick for each kind, side by side; each takes one task."""
    flags = ("--max-tasks", "1", "--lease", "110s")
    return [rig.tick(*flags, doom=doom, modules=[module]) for module in MODULES]


def _drain(rig: Rig) -> None:
    with rig.beat(modules=MODULES):
        rig.is_drained()


def _arrived(sides: FarSides) -> list[int]:
    return [len(sides.mails), len(sides.charges), len(sides.texts)]


def _has(sides: FarSides, mark: str) -> bool:
    """What a person sees who looks at the far side."""
    from examples.effects.mail import message_id

    return message_id(mark) in sides.mails or any(mark[:8] in text for text in sides.texts)


def _kill_on_arrival(during: list[Tick], sides: FarSides) -> None:
    """One after another: the first would give its far side up before the last has started."""
    waiting = [*zip(during, (sides.mails, sides.charges, sides.texts), strict=True)]

    def killed() -> bool:
        for one in [one for one in waiting if one[1]]:
            one[0].send(signal.SIGKILL)
            waiting.remove(one)
        return not waiting

    until(killed, within=60, what="far writes under way")


def test_a_kill_at_any_point_of_a_far_write_doubles_nothing(
    open_rig: OpenRig, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with far_sides() as (sides, environ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        rig = open_rig(database)

        sides.hold()
        _enqueue(rig, 1)
        during = _ticks(rig)
        _kill_on_arrival(during, sides)
        assert _arrived(sides) == [1, 1, 1]
        for tick in during:
            tick.is_killed()
        sides.answer()

        doomed = []
        for n, step in ((2, "before-far-write"), (3, "after-far-write"), (4, "after-done")):
            _enqueue(rig, n)
            doomed += _ticks(rig, (step, 1))
        for tick in doomed:
            tick.is_killed()
        assert _arrived(sides) == [3, 3, 3]
        statuses = "SELECT status, count(*) FROM backbeat.side_effects GROUP BY 1 ORDER BY 1"
        assert database.sql(statuses) == [("done", 3), ("intended", 9)]
        assert database.sql("SELECT count(*) FROM backbeat.finished_tasks") == [(0,)]

        database.advance(LATER)
        _drain(rig)
        # The charges looked for themselves; of the others nobody can know, and nothing was fired.
        assert _arrived(sides) == [3, 4, 3]
        unknown = rig.ask(lambda db: inspect.effects(db, "unknown"))
        assert sorted(one["kind"] for one in unknown) == ["chat"] * 3 + ["mail"] * 3

        database.advance(LATER)
        for one in unknown:
            seen = _has(sides, database.value("SELECT mark FROM backbeat.side_effects WHERE key = %s", [one["key"]]))
            outcome = '{"message_id": "seen"}' if one["kind"] == "mail" else '{"mark": "seen"}'
            word = ["--done", outcome] if seen else ["--absent", "--reason", "the far side has nothing"]
            command("backbeat", "effect", "resolve", one["key"], *word, home=tmp_path, environ=database.environ).fine()
        _drain(rig)

    assert _arrived(sides) == [4, 4, 4]
    assert [len(set(found)) for found in (sides.mails, sides.charges, sides.texts)] == [4, 4, 4]
    assert rig.live() == []
    assert database.sql("SELECT status, count(*) FROM backbeat.finished_tasks GROUP BY 1") == [("succeeded", 12)]
    assert database.sql(statuses) == [("done", 12)]
    audited = (
        "SELECT (detail ->> 'outcome' IS NOT NULL)::text, count(*) FROM backbeat.audit_log"
        " WHERE action = 'effect.resolved' GROUP BY 1"
    )
    assert sorted(database.sql(audited)) == [("false", 2), ("true", 4)]
