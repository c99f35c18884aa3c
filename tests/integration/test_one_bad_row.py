"""No row, author or far side can stop a tick, clog a lane, or make an effect happen twice."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel, field_validator

from backbeat.operate import actions
from shared.config import Config
from shared.db import queue
from shared.db.effects import Intent, begin_effect, finish_effect, refire_effect
from shared.db.pool import Database as Connection
from shared.definitions import Definition, Effect, Registry
from shared.domain.outcome import Dead, Hold, Release, Retry, Snooze, Succeed
from shared.domain.usage import Usage
from shared.errors import ConfigError, DefinitionError
from shared.execution import call
from shared.execution.ask import Ask
from shared.execution.attempt import attempt
from shared.execution.effects import perform_effect
from shared.execution.environment import Environment
from shared.execution.interrupt import Interrupt
from shared.ids import payload_hash
from shared.llm.protocol import Reply
from shared.llm.routes import Route, Routes
from shared.llm.structured import OutputInvalidError
from shared.telemetry.spans import NullTelemetry
from tests.support import tasks
from tests.support.databases import Database

KEY = hashlib.sha256(b"one").digest()
PARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


class Numbered(BaseModel):
    n: int


def environment(
    db: Connection, *, run: Callable[[Any, Any], Awaitable[Any]] | None = None, effect: Effect | None = None
) -> Environment:
    async def nothing(_ctx: Any, value: Numbered) -> Numbered:
        return value

    alpha = Definition(name="alpha", version=1, input=Numbered, output=Numbered, tier="small", run=run or nothing)
    registry = Registry({"alpha@1": alpha}, {effect.kind: effect} if effect else {})
    return Environment(Config(), db, registry, Routes({}, "test"), NullTelemetry())


async def test_a_malformed_trace_context_is_not_stored(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db, traceparent="garbage")
        task = await tasks.take_one(db)
        assert len(task.traceparent) == 55
        with pytest.raises(psycopg.errors.CheckViolation):
            database.sql("UPDATE backbeat.simple_tasks SET traceparent = '00--ab-01'")


async def test_a_task_older_than_the_open_days_still_ends(database: Database) -> None:
    async with tasks.worker(database) as db:
        database.sql("DROP TABLE IF EXISTS backbeat.finished_tasks_default")
        database.advance(timedelta(days=40))
        await tasks.add(db)
        database.advance(timedelta(days=40))
        await queue.register(db, "first", "cron", [tasks.definition("alpha")])
        await queue.sweep(db)
        task = await tasks.take_one(db)
        assert await tasks.settle(db, task, Succeed({}))


async def test_a_reader_of_the_history_holds_up_no_new_day(database: Database) -> None:
    async with tasks.worker(database) as db:
        database.sql("DROP TABLE IF EXISTS backbeat.finished_tasks_default")
        with psycopg.connect(database.owner_url) as reader:
            reader.execute("SELECT count(*) FROM backbeat.finished_tasks")
            database.advance(timedelta(days=1))
            async with asyncio.timeout(30):
                await queue.sweep(db)
        assert database.value("SELECT backbeat.maintain_partitions()") == 0


@pytest.mark.parametrize("escape", [SystemExit(3), KeyError("x")])
async def test_what_an_author_raises_ends_one_attempt(database: Database, escape: BaseException) -> None:
    async def run(_ctx: Any, _value: Numbered) -> Numbered:
        raise escape

    async with tasks.worker(database) as db:
        await tasks.add(db)
        outcome = await attempt(environment(db, run=run), await tasks.take_one(db))
        assert isinstance(outcome, Retry)
        assert outcome.error_class == type(escape).__name__


async def test_a_refusal_inside_a_task_group_is_the_attempts_outcome(database: Database) -> None:
    async def refuse() -> None:
        raise Interrupt(Release("stopped"))

    async def run(_ctx: Any, value: Numbered) -> Numbered:
        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())
        return value

    async with tasks.worker(database) as db:
        await tasks.add(db)
        assert await attempt(environment(db, run=run), await tasks.take_one(db)) == Release("stopped")


class Touchy(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def fail(cls, _value: int) -> int:
        raise KeyError("an author's mistake")


async def test_an_answer_is_billed_whatever_its_reader_raises(database: Database) -> None:
    class Simulated:
        async def send(self, _request: Any) -> Reply:
            return Reply('{"n": 1}', Usage(uncached=10, output=5), "end", "claude-haiku-4-5", "sim_1")

        async def aclose(self) -> None:
            return None

    route = Route("r", "anthropic", "claude-haiku-4-5", 200_000, 1000, bounded=True)
    async with tasks.worker(database) as db:
        await tasks.add(db)
        task, env = await tasks.take_one(db), environment(db)
        seq = await tasks.opened(db, task)
        slot: Any = Simulated()
        with pytest.raises(OutputInvalidError, match="KeyError"):
            await call._send(env, task, Ask(key="answer", output=Touchy, prompt="?", tier="small"), route, slot, seq)
    assert database.sql("SELECT status, valid, output FROM backbeat.model_calls") == [("done", False, 5)]


async def test_a_worker_that_slept_through_its_window_does_not_fire(database: Database) -> None:
    fired: list[str] = []

    async def perform(_request: dict[str, Any], key: str) -> dict[str, Any]:
        fired.append(key)
        return {}

    effect = Effect(kind="note", perform=perform, read_back=None, timeout=0.0, settle=0.2)
    async with tasks.worker(database) as db:
        await tasks.add(db)
        outcome = await perform_effect(environment(db, effect=effect), _intent(await tasks.take_one(db)))
    assert outcome.status == "wait"
    assert fired == []


async def test_the_window_outlasts_the_far_side(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        intent = _intent(await tasks.take_one(db))
        fire = await begin_effect(db, intent, 60.0)
        assert fire.verdict == "fire"
        assert (await begin_effect(db, intent, 60.0)).verdict == "wait"
        desk = tasks.Operator(database)
        assert not await actions.resolve_effect(desk, intent.key, None, "gone", "ann"), "a writer may be at it"
        assert await refire_effect(db, intent.key, fire.token, 0.0, "refused")
        assert (await begin_effect(db, intent, 60.0)).verdict == "fire"


async def test_an_heir_of_a_dead_task_does_not_post_again(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.submit(db, [{"n": 1}], [KEY])
        first = await tasks.take_one(db)
        await tasks.settle(db, first, Dead("x", "y"))
        await tasks.submit(db, [{"n": 1}], [KEY])
        heir = await tasks.take_one(db)
        assert heir.id != first.id
        assert heir.effect_scope == first.effect_scope
        await tasks.settle(db, heir, Dead("x", "y"))
        await tasks.add(db, 2)
        one, two = await tasks.take(db)
        assert one.effect_scope != two.effect_scope


async def test_rows_follow_their_own_tier_when_a_definition_changes_it(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        await queue.register(db, "first", "cron", [tasks.definition("alpha", tier="large")])
        assert len(await tasks.take(db)) == 1


async def test_rows_nobody_can_run_do_not_clog_the_window(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db, 200)
        await tasks.add(db, 1, workflow="beta")
        database.advance(timedelta(minutes=11))
        await queue.register(db, "second", "cron", [tasks.definition("beta")])
        assert (await queue.sweep(db))["unloaded"] == 200
        assert [task.workflow for task in await tasks.take(db)] == ["beta"]


async def test_a_cap_on_a_tenant_counts_all_its_flows(database: Database) -> None:
    database.sql("UPDATE backbeat.tenants SET max_running = 3")
    async with tasks.worker(database) as db:
        await tasks.add(db, 5, class_="high")
        await tasks.add(db, 5, class_="low")
        await queue.sweep(db)
        assert len(await tasks.take(db)) == 3


async def test_a_workflow_of_the_other_runtime_is_no_task(database: Database) -> None:
    async with tasks.worker(database) as db:
        await queue.register(db, "t", "temporal", [tasks.definition("approve_effect", tier="-")])
        with pytest.raises(Exception, match="no task approve_effect"):
            await tasks.add(db, workflow="approve_effect")


async def test_a_vendor_that_stays_away_is_asked_ever_more_rarely(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        pauses = []
        for _ in range(20):
            await queue.sweep(db)
            task = await tasks.take_one(db)
            await tasks.settle(db, task, Release("overloaded"))
            wait = database.value("SELECT run_after - backbeat.now() FROM backbeat.simple_tasks")
            pauses.append(wait)
            database.advance(wait + timedelta(seconds=1))
        assert sum(pauses, timedelta()) > timedelta(hours=2)
        assert max(pauses) <= timedelta(seconds=901)


async def test_a_task_that_runs_out_of_time_or_sleeps_is_never_out_of_patience(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        for _ in range(15):
            await tasks.settle(db, await tasks.take_one(db), Release("out_of_time"))
            await tasks.settle(db, await tasks.take_one(db), Snooze(datetime.now(UTC) - timedelta(seconds=1)))
            await queue.sweep(db)
        ((releases, entries),) = database.sql("SELECT releases, jsonb_array_length(history) FROM backbeat.simple_tasks")
        assert (releases, entries) == (0, 15)


def _intent(task: queue.Task) -> Intent:
    request = {"text": "hello"}
    return Intent(
        key=f"{task.id}:note",
        kind="note",
        request=request,
        request_hash=payload_hash(request),
        owner_kind="task",
        owner=task.id,
        lease=task.lease,
        origin=task.origin_id,
        traceparent=PARENT,
    )


async def test_an_outcome_that_is_no_json_dies_alone(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db, 2)
        bad, good = await tasks.take(db)
        assert await queue.settle(db, [(bad, Succeed(object())), (good, Succeed({}))]) == set()
    ended = database.sql("SELECT status, error_class FROM backbeat.finished_tasks ORDER BY status")
    assert ended == [("dead", "not_storable"), ("succeeded", None)]


async def test_a_cancellation_nobody_asked_for_is_a_failed_attempt(database: Database) -> None:
    async def run(_ctx: Any, _value: Numbered) -> Numbered:
        raise asyncio.CancelledError

    async with tasks.worker(database) as db:
        await tasks.add(db)
        outcome = await attempt(environment(db, run=run), await tasks.take_one(db))
        assert isinstance(outcome, Retry)
        assert outcome.error_class == "CancelledError"


async def test_what_stands_in_an_effects_way_is_on_record(database: Database) -> None:
    """Not loaded here, or a setting that is missing: it is tried again for ever, and a person must see why."""

    async def fail(_request: dict[str, Any], _mark: str) -> dict[str, Any]:
        raise ConfigError("GITHUB_URL is not set", fix="Set it")

    effect = Effect(kind="note", perform=fail, read_back=fail, timeout=30.0, settle=1.0)
    said = "SELECT status, fires, error FROM backbeat.side_effects"
    async with tasks.worker(database) as db:
        await tasks.add(db)
        intent = _intent(await tasks.take_one(db))
        with pytest.raises(DefinitionError, match="no loaded module defines the effect 'note'"):
            await perform_effect(environment(db), intent)
        assert database.sql(said) == [("intended", 0, "no loaded module defines the effect 'note'. Loaded: none")]
        for status, error in (
            ("intended", "ConfigError: GITHUB_URL is not set. Set it"),
            ("unknown", "read-back: ConfigError: GITHUB_URL is not set. Set it"),
        ):
            assert (await perform_effect(environment(db, effect=effect), intent)).status == "wait"
            assert database.sql(said) == [(status, 1, error)]
            database.advance(timedelta(seconds=32))


async def test_an_effect_that_is_done_needs_nobody_who_has_it_loaded(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)
        intent = _intent(await tasks.take_one(db))
        await begin_effect(db, intent, 60.0)
        await finish_effect(db, intent.key, {"id": 3})
        assert (await perform_effect(environment(db), intent)).outcome == {"id": 3}


async def test_a_pause_past_the_calendar_is_a_long_one(database: Database) -> None:
    """A year past 9999 fits into Postgres and into no Python: every later `task list` would fail."""
    async with tasks.worker(database) as db:
        await tasks.add(db)
        until = datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))
        for outcome in (Snooze(until), Hold("budget", "workflow/alpha", until)):
            await tasks.settle(db, await tasks.take_one(db), outcome)
            await tasks.add(db)
    for (run_after,) in database.sql("SELECT run_after FROM backbeat.simple_tasks WHERE status <> 'ready'"):
        assert timedelta(days=365) < run_after - datetime.now(UTC) < timedelta(days=366 * 100)
