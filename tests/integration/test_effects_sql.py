"""The ledger of side effects: who may make the far write, who must look first, and what is believed afterwards."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from backbeat.operate import actions
from shared.db import effects, orchestrations, queue
from shared.db.effects import Intent, Verdict
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from shared.domain.outcome import Hold, Succeed
from shared.errors import SchemaError
from tests.support import every_postgres, tasks
from tests.support.databases import Database

pytestmark = every_postgres

WINDOW = 60.0  # seconds


async def _intent(db: Connection) -> Intent:
    """What a running task wants to happen."""
    await tasks.add(db)
    return _wish(await tasks.take_one(db))


def _wish(task: Task) -> Intent:
    return Intent("k", "note", {"a": 1}, "h", "task", task.id, task.lease, task.origin_id, task.traceparent)


async def _begin(db: Connection, intent: Intent) -> Verdict:
    return await effects.begin_effect(db, intent, WINDOW)


async def test_the_first_fires_and_the_others_wait_then_look_then_know(database: Database) -> None:
    async with tasks.worker(database) as db:
        intent = await _intent(db)
        assert (await _begin(db, intent)).verdict == "fire"
        waiting = await _begin(db, intent)
        assert (waiting.verdict, 0 < waiting.wait_seconds <= WINDOW) == ("wait", True)
        database.advance(timedelta(seconds=WINDOW))
        looking = await _begin(db, intent)
        assert (looking.verdict, (await _begin(db, intent)).verdict) == ("look", "wait")
        assert database.sql("SELECT status, fires FROM backbeat.side_effects") == [("unknown", 1)]
        assert await effects.finish_effect(db, "k", {"id": 7}, read_back=True)
        known = await _begin(db, intent)
        assert (known.verdict, known.outcome) == ("done", {"id": 7})
    assert database.sql("SELECT status, resolved_by, fires FROM backbeat.side_effects") == [("done", "read-back", 1)]


async def test_the_mark_is_a_secrets_and_stays_whoever_writes(database: Database) -> None:
    """What a read-back looks for on the far side: nobody who knows payload and key can put it there first."""
    async with tasks.worker(database) as db:
        intent = await _intent(db)
        first = await _begin(db, intent)
        (mark,) = database.sql("SELECT mark FROM backbeat.side_effects")[0]
        database.advance(timedelta(seconds=WINDOW))
        looking = await _begin(db, intent)
        assert await effects.refire_effect(db, "k", looking.token, 0.0, "nothing there")
        again = await _begin(db, intent)
        assert [first.mark, looking.mark, again.mark] == [mark] * 3
        # A ledger that lost the row looks for the same.
        database.sql("DELETE FROM backbeat.side_effects")
        assert (await _begin(db, intent)).mark == mark
        other = await _begin(db, replace(intent, key="l"))
        database.sql("DELETE FROM backbeat.side_effects")
        database.sql("UPDATE backbeat.ledger SET secret = gen_random_uuid()")
        elsewhere = await _begin(db, intent)
        with pytest.raises(SchemaError, match="permission denied for table ledger"):
            await db.rows("SELECT secret FROM backbeat.ledger")
    assert len({mark, other.mark, elsewhere.mark}) == 3
    assert {len(mark), len(other.mark)} == {32}


async def test_after_a_restore_what_may_have_been_done_is_looked_for(database: Database) -> None:
    """Of tasks that are older than the restore; what is open becomes unknown, and who began later just fires."""
    async with tasks.worker(database) as db:
        intent = await _intent(db)
        old, back, open_ = (replace(intent, key=f"{intent.owner}:{step}") for step in ("old", "back", "open"))
        given = await _begin(db, back)
        assert await effects.refire_effect(db, back.key, given.token, 0.0, "refused")
        assert (await _begin(db, open_)).verdict == "fire"

        database.advance(timedelta(seconds=1))
        assert await effects.note_restore(db, None, "olga", "a disk died")
        assert not await effects.note_restore(db, intent.owner, "(reconciler)", "older than that: nothing new")
        states = "SELECT status, fires FROM backbeat.side_effects ORDER BY key"
        assert database.sql(states) == [("unknown", 1), ("unknown", 1)]
        assert (await _begin(db, open_)).verdict == "wait", "its writer may still be at it"
        assert (await _begin(db, back)).verdict == "look"
        assert not await orchestrations.wrote_nothing(db, old.key)

        # Who cannot write, notes it; who can, looks.
        assert (await effects.begin_effect(db, old, None)).verdict == "noted"
        lost = await _begin(db, old)
        assert (lost.verdict, (await _begin(db, old)).verdict) == ("look", "wait")
        assert await effects.refire_effect(db, old.key, lost.token, WINDOW, "not there")
        never = await _begin(db, replace(old, key=f"{intent.owner}:never"))
        assert (never.verdict, never.mark != lost.mark) == ("look", True)
        assert await effects.finish_effect(db, f"{intent.owner}:never", {"id": 1}, read_back=True)

        database.advance(timedelta(seconds=WINDOW))
        await tasks.add(db)
        young = _wish(await tasks.take_one(db))
        assert (await _begin(db, replace(young, key=f"{young.owner}:young"))).verdict == "fire"
        assert await orchestrations.wrote_nothing(db, f"{young.owner}:other")
        # A second restore, which only this one has seen.
        assert await effects.note_restore(db, young.owner, "(reconciler)", "it ended unheard")
    told = "SELECT detail ->> 'by', detail ->> 'open' FROM backbeat.audit_log ORDER BY id"
    assert database.sql(told) == [("olga", "2"), ("(reconciler)", "2")]


async def test_after_a_restore_equal_payloads_share_what_was_lost_with_it(database: Database) -> None:
    """What a keyed task writes has a key that tells no age, and a twin that was lost may have written it."""
    async with tasks.worker(database) as db:
        verdicts = []
        for number, later in enumerate([timedelta(0), timedelta(hours=23), timedelta(hours=2)]):
            if number:
                database.advance(later)
            await tasks.submit(db, [{"n": number}], [bytes([number]) * 32])
            task = await tasks.take_one(db)
            if not number:
                database.advance(timedelta(seconds=1))
                assert await effects.note_restore(db, None, "olga", "a disk died")
            wish = replace(_wish(task), key=f"{task.effect_scope}:write")
            assert str(task.id) not in wish.key
            verdicts.append((await _begin(db, wish)).verdict)
    # Alive then; enqueued again by whoever found it gone; a day later nobody repeats what was lost.
    assert verdicts == ["look", "look", "fire"]


async def test_an_intent_without_leave_to_fire(database: Database) -> None:
    """Somebody who cannot write puts on record that it is wanted, and what stands in its way."""
    async with tasks.worker(database) as db:
        intent = await _intent(db)
        for _ in range(2):
            assert (await effects.begin_effect(db, intent, None)).verdict == "noted"
        await effects.note_effect(db, "k", "not\0loaded")
        noted = "SELECT status, fires, error FROM backbeat.side_effects"
        assert database.sql(noted) == [("intended", 0, "not\ufffdloaded")]
        assert (await _begin(db, intent)).verdict == "fire"
        assert database.sql(noted) == [("intended", 1, None)]
        assert (await effects.begin_effect(db, intent, None)).verdict == "wait"
        database.advance(timedelta(seconds=WINDOW))
        assert (await effects.begin_effect(db, intent, None)).verdict == "noted"
        assert (await _begin(db, intent)).verdict == "look"
        await effects.finish_effect(db, "k", {"id": 1})
        await effects.note_effect(db, "k", "too late")
        assert (await effects.begin_effect(db, intent, None)).outcome == {"id": 1}
    assert database.sql(noted) == [("done", 1, None)]


async def test_the_first_outcome_stands(database: Database) -> None:
    async with tasks.worker(database) as db:
        token = (await _begin(db, await _intent(db))).token
        assert await effects.finish_effect(db, "k", {"id": 1})
        assert not await effects.finish_effect(db, "k", {"id": 2})
        assert not await effects.refire_effect(db, "k", token, WINDOW, "too late")
    assert database.sql("SELECT status, outcome FROM backbeat.side_effects") == [("done", {"id": 1})]


async def test_only_who_looked_last_fires_again(database: Database) -> None:
    async with tasks.worker(database) as db:
        intent = await _intent(db)
        first = await _begin(db, intent)
        database.advance(timedelta(seconds=WINDOW))
        second = await _begin(db, intent)
        assert not await effects.refire_effect(db, "k", first.token, WINDOW, "nothing there")
        assert await effects.refire_effect(db, "k", second.token, WINDOW, "nothing there")
        assert (await _begin(db, intent)).verdict == "wait"
    assert database.sql("SELECT status, fires FROM backbeat.side_effects") == [("intended", 2)]


async def test_what_the_far_side_refused_is_given_back_and_fired_again_by_one(database: Database) -> None:
    async with tasks.worker(database) as db:
        intent = await _intent(db)
        token = (await _begin(db, intent)).token
        assert await effects.refire_effect(db, "k", token, 0.0, "422")
        assert database.sql("SELECT status, error, fires FROM backbeat.side_effects") == [("intended", "422", 1)]
        assert (await _begin(db, replace(intent, request_hash="other"))).verdict == "conflict"
        await actions.throw_switch(tasks.Operator(database), "effects", "a leak", "alice")
        assert (await _begin(db, intent)).verdict == "stopped"
        await actions.release_switch(tasks.Operator(database), "effects")
        again = await _begin(db, intent)
        assert (again.verdict, again.token > token) == ("fire", True)
        assert (await _begin(db, intent)).verdict == "wait"


async def test_a_key_stands_for_one_request(database: Database) -> None:
    async with tasks.worker(database) as db:
        intent = await _intent(db)
        await _begin(db, intent)
        conflict = await _begin(db, replace(intent, request={"a": 2}, request_hash="other"))
    assert (conflict.verdict, conflict.detail) == ("conflict", "h")


async def test_a_zombie_begins_nothing_and_may_still_say_what_it_did(database: Database) -> None:
    async with tasks.worker(database) as db:
        intent = await _intent(db)
        await _begin(db, intent)
        database.advance(timedelta(seconds=61))
        await queue.reap(db)
        assert (await _begin(db, intent)).verdict == "fenced"
        assert (await _begin(db, replace(intent, key="other"))).verdict == "fenced"
        assert await effects.finish_effect(db, "k", {"id": 1})
    assert database.sql("SELECT key, status FROM backbeat.side_effects") == [("k", "done")]


async def test_no_approval_no_effect(database: Database) -> None:
    async with tasks.worker(database) as db:
        intent = replace(await _intent(db), approval=uuid4())
        assert (await _begin(db, intent)).verdict == "refused"
    assert database.sql("SELECT * FROM backbeat.side_effects") == []


@pytest.mark.parametrize("switch", ["all", "effects"])
async def test_a_switch_stops_new_effects_and_new_fires_but_not_knowledge(database: Database, switch: str) -> None:
    async with tasks.worker(database) as db:
        intent = await _intent(db)
        await _begin(db, intent)
        database.advance(timedelta(seconds=WINDOW))
        await actions.throw_switch(tasks.Operator(database), switch, "a leak", "alice")
        stopped = await _begin(db, replace(intent, key="new"))
        assert (stopped.verdict, stopped.detail) == ("stopped", "a leak")
        looking = await _begin(db, intent)
        assert looking.verdict == "look"
        assert not await effects.refire_effect(db, "k", looking.token, WINDOW, "nothing there")
        assert await effects.finish_effect(db, "k", {})
        assert (await _begin(db, intent)).verdict == "done"


async def test_two_who_begin_at_once_are_one_who_fires(database: Database) -> None:
    begin = "SELECT verdict FROM backbeat.begin_effect('k', 'task', %s, %s, 'note', '{}', 'h', %s, %s, NULL, 10)"
    async with tasks.worker(database) as db, await psycopg.AsyncConnection.connect(database.worker_url) as rival:
        intent = await _intent(db)
        params = [intent.owner, intent.lease, intent.origin, intent.traceparent]
        row = await (await rival.execute(begin, params)).fetchone()
        late = asyncio.create_task(_begin(db, intent))
        await tasks.somebody_waits(database)
        await rival.commit()
        assert (row, (await late).verdict) == (("fire",), "wait")


async def test_who_waits_for_a_persons_word_goes_on_by_firing_once_more(database: Database) -> None:
    """Nobody can look at this far side but a person, who says that it is certainly not there."""
    desk = tasks.Operator(database)
    async with tasks.worker(database) as db:
        await tasks.add(db)
        task = await tasks.take_one(db)
        await _begin(db, _wish(task))
        database.advance(timedelta(seconds=WINDOW))
        await _begin(db, _wish(task))
        await tasks.settle(db, task, Hold("effect", "k"))
        assert not await actions.resolve_effect(desk, "k", None, "somebody may be looking still", "alice")
        database.advance(timedelta(seconds=WINDOW))
        assert await actions.resolve_effect(desk, "k", None, "the mailbox is empty", "alice")
        await queue.sweep(db)
        again = await tasks.take_one(db)
        assert [(await _begin(db, _wish(again))).verdict for _ in range(2)] == ["fire", "wait"]
        assert await effects.finish_effect(db, "k", {})
        assert await tasks.settle(db, again, Succeed({}))
    assert database.sql("SELECT status, fires FROM backbeat.side_effects") == [("done", 2)]
