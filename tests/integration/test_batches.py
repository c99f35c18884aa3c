"""Calls by batch, over the vendors' own SDKs, with a provider that is simulated."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from backbeat.operate import actions
from shared import clock
from shared.db import calls, queue
from shared.domain.outcome import Hold, Succeed
from shared.domain.usage import Usage
from shared.execution.attempt import attempt
from shared.execution.context import Context
from shared.ids import span_id
from shared.llm import prices
from tests.support import batching, tasks
from tests.support.databases import Database
from tests.support.simulated import Service, service

NOTHING = (Decimal(), Decimal(), Decimal())
ODD = """{"fault": "invalid-json", "where": {"path": "^/batches", "call": "^bb"}, "times": 1}
{"fault": "400", "where": {"path": "^/batches", "call": "^bb"}, "times": 1}
"""


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Answers a batch as soon as it is looked at."""
    file = tmp_path_factory.mktemp("quick") / "calls.jsonl"
    with service("provider", file, "--latency", "0", "--batch-takes", "0") as running:
        yield running


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Never ends a batch by itself."""
    file = tmp_path_factory.mktemp("slow") / "calls.jsonl"
    with service("provider", file, "--latency", "0", "--batch-takes", "9999") as running:
        yield running


def submissions(provider: Service) -> list[list[str]]:
    """The custom ids of every batch that the provider took."""
    return [one["custom_ids"] for one in provider.ends(status=200) if "custom_ids" in one]


@pytest.mark.parametrize("vendor", batching.ROUTES)
async def test_a_batch_is_submitted_once_and_costs_half(database: Database, quick: Service, vendor: str) -> None:
    before = len(submissions(quick))
    async with batching.worker(database, quick, vendor) as worker:
        ids = await worker.add(3)
        held = database.sql("SELECT id, hold_reason, hold_key, attempts FROM backbeat.simple_tasks ORDER BY id")
        assert held == [(one, "batch", str(one), 0) for one in sorted(ids)]
        reserved, *_ = tasks.money(database)
        await worker.look()
        assert worker.batches() == [("submitted", 3, None)]
        assert tasks.money(database) == (reserved, *NOTHING[1:])
        await worker.look()
        assert worker.batches() == [("ended", 3, None)]
        assert len(submissions(quick)) == before + 1
        spans = {span.span_id: span for span in worker.spans.kept}
        assert [type(one) for one in await worker.run()] == [Succeed] * 3
    assert worker.calls() == [(1, "done", None, True)] * 3
    parts = ", ".join(Usage().as_dict())
    rows = database.sql(
        f"SELECT owner, model, provider, cost_usd, price_version, request, {parts} FROM backbeat.model_calls"
    )
    for owner, model, provider, cost, version, request, *usage in rows:
        price = batching.ROUTES[vendor].price
        full = prices.cost(provider, model, Usage(*usage), clock.wall(), cache=None, price=price)
        assert full.usd is not None
        assert (cost, version, request) == (full.usd / 2, f"{full.version}/batch", None)
        told = spans[span_id("call", owner, "answer", 1)].attributes
        assert (Decimal(told["backbeat.cost_usd"]), told["backbeat.validation"]) == (cost, "passed")
    assert reserved > sum(row[3] for row in rows) > 0
    assert tasks.money(database) == (Decimal(), sum(row[3] for row in rows), Decimal())


async def test_answers_that_are_wrong_or_missing_are_asked_for_alone(database: Database, tmp_path: Path) -> None:
    """One of three answers is no JSON, one entry is refused: both are asked again, outside of a batch."""
    plan = tmp_path / "plan.jsonl"
    plan.write_text(ODD)
    how = ["--latency", "0", "--batch-takes", "0", "--faults", str(plan)]
    with service("provider", tmp_path / "calls.jsonl", *how) as odd:
        async with batching.worker(database, odd) as worker:
            await worker.add(3)
            await worker.look()
            await worker.look()
            ended = Counter(worker.calls())
            assert ended == {
                (1, "done", None, True): 1,
                (1, "done", "invalid_output", True): 1,
                (1, "refused", "invalid_request_error", True): 1,
            }
            assert [type(one) for one in await worker.run()] == [Succeed] * 3
            alone = Counter(worker.calls()) - ended
            assert alone == {(1, "done", None, False): 1, (2, "done", None, False): 1}
            assert [type(one) for one in await worker.run()] == []
    ((valid,),) = database.sql("SELECT valid FROM backbeat.model_calls WHERE error_class = 'invalid_output'")
    assert valid is False
    assert tasks.money(database)[0] == 0


@pytest.mark.parametrize("vendor", ["anthropic", "openai"])
async def test_what_expires_is_asked_in_another_batch_and_then_alone(
    database: Database, tmp_path: Path, vendor: str
) -> None:
    how = ["--latency", "0", "--batch-takes", "0.4", "--batch-lives", "0.2"]
    with service("provider", tmp_path / "calls.jsonl", *how) as late:
        async with batching.worker(database, late, vendor) as worker:
            await worker.add(4)
            for n in (1, 2):
                await worker.look()
                await ended(worker, n)
                if n == 1:
                    first = [("done", None), ("done", None), ("refused", "batch_expired"), ("refused", "batch_expired")]
                    assert sorted((status, why) for _, status, why, _ in worker.calls()) == first
                await worker.run()
            await worker.run()
    assert [size for _, size, _ in worker.batches()] == [4, 2]
    assert worker.batches()[1][:2] == ("ended", 2)
    ways = Counter((status, by_batch) for _, status, _, by_batch in worker.calls())
    assert ways == {("done", True): 3, ("refused", True): 3, ("done", False): 1}
    assert database.value("SELECT count(*) FROM backbeat.finished_tasks WHERE status = 'succeeded'") == 4
    assert tasks.money(database)[0] == 0


async def ended(worker: batching.Worker, count: int) -> None:
    """Look until so many batches have ended."""
    while sum(status == "ended" for status, *_ in worker.batches()) < count:
        await worker.look()


@pytest.mark.parametrize("vendor", ["anthropic", "openai"])
async def test_a_person_cancels_a_batch(database: Database, slow: Service, vendor: str) -> None:
    async with batching.worker(database, slow, vendor) as worker:
        await worker.add(2)
        await worker.look()
        database.sql("UPDATE backbeat.llm_batches SET cancel = true")
        await ended(worker, 1)
        assert worker.calls() == [(1, "refused", "batch_cancelled", True)] * 2
        assert tasks.money(database) == NOTHING
        assert [type(one) for one in await worker.run()] == [Hold] * 2


async def test_no_batch_leaves_while_all_is_stopped(database: Database, quick: Service) -> None:
    before, people = len(submissions(quick)), tasks.Operator(database)
    async with batching.worker(database, quick) as worker:
        await worker.add(1)
        await actions.throw_switch(people, "all", "a test", "test")
        await worker.look()
        assert (worker.batches(), len(submissions(quick))) == ([], before)
        await actions.release_switch(people, "all")
        await worker.look()
        await actions.throw_switch(people, "all", "a test", "test")
        await worker.look()
    assert worker.batches() == [("ended", 1, None)]  # its answers are paid for, so they are fetched
    assert len(submissions(quick)) == before + 1


async def test_a_cancelled_task_frees_what_did_not_leave_and_pays_what_did(database: Database, quick: Service) -> None:
    async with batching.worker(database, quick) as worker:
        ids = await worker.add(2)
        reserved, *_ = tasks.money(database)
        await actions.cancel(tasks.Operator(database), ids[0], "a test")
        assert tasks.money(database) == (reserved, *NOTHING[1:])
        await worker.look()
        assert (worker.batches(), tasks.money(database)[0]) == ([("submitted", 1, None)], reserved / 2)
        await actions.cancel(tasks.Operator(database), ids[1], "a test")
        await worker.look()
    found = database.sql("SELECT owner, status, error_class, response FROM backbeat.model_calls")
    assert sorted(found) == sorted([(ids[0], "refused", "not_wanted", None), (ids[1], "done", None, None)])
    spent = database.value("SELECT cost_usd FROM backbeat.model_calls WHERE status = 'done'")
    assert tasks.money(database) == (Decimal(), spent, Decimal())


async def test_a_cap_holds_over_what_waits(database: Database, quick: Service) -> None:
    """Half the price is reserved, and stays so: twice as many calls fit under a cap as would alone, and no more."""
    async with batching.worker(database, quick) as worker:
        await worker.add(1)
        reserved, *_ = tasks.money(database)
        await actions.set_budget(tasks.Operator(database), "workflow", "alpha", 2 * reserved, None, "test")
        await tasks.add(worker.db, 2)
        await queue.sweep(worker.db)
        first, second = await tasks.take(worker.db, loaded=["alpha@1"])
        assert isinstance(await attempt(worker.env, first), Hold)
        assert tasks.money(database)[0] == 2 * reserved
        outcome = calls.open_call(worker.db, tasks.ask(second, usd=reserved))
        assert (await outcome).verdict == "snooze"


async def test_a_worker_that_dies_before_it_settles_loses_no_call(database: Database, quick: Service) -> None:
    async with batching.worker(database, quick) as worker:
        await tasks.add(worker.db)
        task = await tasks.take_one(worker.db)
        assert isinstance(await attempt(worker.env, task), Hold)
        database.sql("UPDATE backbeat.simple_tasks SET lease_until = backbeat.clock() - interval '1 s'")
        await queue.reap(worker.db, 10, [task.lease])
        await worker.look()
        assert await worker.run() == [Hold("batch", str(task.id))]
        await worker.look()
        assert [type(one) for one in await worker.run()] == [Succeed]
    assert worker.calls() == [(1, "done", None, True)]


async def test_answers_may_come_before_the_hold(database: Database, quick: Service) -> None:
    """A slow worker settles its hold after the batch has ended: nothing else would ever lift that."""
    async with batching.worker(database, quick) as worker:
        await tasks.add(worker.db)
        task = await tasks.take_one(worker.db)
        outcome = await attempt(worker.env, task)
        assert isinstance(outcome, Hold)
        await worker.look()
        await worker.look()
        assert await tasks.settle(worker.db, task, outcome)
        assert [type(one) for one in await worker.run()] == [Succeed]


async def test_calls_of_one_task_share_a_batch(database: Database, quick: Service) -> None:
    """It goes on when all of them are answered, and the next one waits for the next batch."""

    async def run(ctx: Context, item: batching.Item) -> batching.Answer:
        first: Any = [ctx.llm(str(n), output=batching.Answer, prompt=f"{n}", tier="small") for n in range(3)]
        said = [(await one).summary for one in [*map(asyncio.ensure_future, first)]]
        return await ctx.llm("last", output=batching.Answer, prompt=" ".join(said), tier="small")

    async with batching.worker(database, quick, run=run) as worker:
        await worker.add(1)
        for _ in range(2):
            await worker.look()
            await worker.look()
            outcomes = await worker.run()
    assert [type(one) for one in outcomes] == [Succeed]
    assert [size for _, size, _ in worker.batches()] == [3, 1]


@pytest.mark.parametrize(
    ("definition", "route", "vendor", "waits"),
    [
        (False, {"batch": True}, "openai", True),
        (False, {}, "openai", False),
        (True, {"capabilities": ("json_schema", "usage")}, "compatible", False),
    ],
)
async def test_who_says_that_calls_go_by_batch(
    database: Database, quick: Service, definition: bool, route: dict[str, Any], vendor: str, waits: bool
) -> None:
    async with batching.worker(database, quick, vendor, wished=definition, **route) as worker:
        await tasks.add(worker.db)
        assert isinstance((await worker.run())[0], Hold if waits else Succeed)
