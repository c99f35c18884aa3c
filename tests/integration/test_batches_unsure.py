"""Batches whose submission or end nobody can be sure of: found again, submitted once, or left to a person."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from backbeat.operate import batches as people
from shared.domain.outcome import Succeed
from shared.errors import ConflictError, InputError, NotFoundError
from shared.llm.protocol import Request
from tests.support import batching, tasks
from tests.support.databases import Database
from tests.support.simulated import Service, service

Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a provider that does this to the first requests to submit a batch."""
    with ExitStack() as stack:

        def start(*faults: str, takes: float = 0) -> Service:
            lines: list[dict[str, Any]] = [{"fault": one, "where": {"call": "batch="}, "times": 1} for one in faults]
            (tmp_path / "plan").write_text("\n".join(map(json.dumps, lines)))
            how = ["--latency", "0", "--batch-takes", str(takes), "--faults", str(tmp_path / "plan")]
            return stack.enter_context(service("provider", tmp_path / "calls.jsonl", *how))

        yield start


def taken(provider: Service) -> int:
    """How many batches the provider took."""
    return sum("custom_ids" in one for one in provider.ends(status=200))


def asked(provider: Service) -> int:
    """How often it was asked to take one."""
    return sum((one["call"] or "").startswith("batch=") for one in provider.entries("start"))


@pytest.mark.parametrize("vendor", ["anthropic", "openai"])
@pytest.mark.parametrize(("fault", "times"), [("disconnect-after", 1), ("disconnect-before", 2), ("429", 2)])
async def test_an_answer_that_is_lost_is_looked_for(
    database: Database, start: Start, vendor: str, fault: str, times: int
) -> None:
    provider = start(fault)
    async with batching.worker(database, provider, vendor) as worker:
        await worker.add(2)
        await worker.look()
        ((status, size, note),) = worker.batches()
        assert (status, size, asked(provider)) == ("unsure", 2, 1)
        assert note
        reserved = tasks.money(database)
        await worker.look()
        assert (asked(provider), taken(provider), tasks.money(database)) == (times, 1, reserved)
        await worker.look()
        assert worker.batches() == [("ended", 2, None)]
        assert [type(one) for one in await worker.run()] == [Succeed] * 2
    assert worker.calls() == [(1, "done", None, True)] * 2


async def test_one_that_may_be_it_is_waited_for(database: Database, start: Start) -> None:
    """Anthropic tells a batch's custom ids at its end; until then one of the same size might be ours."""
    provider = start("disconnect-after", takes=6.0)
    async with batching.worker(database, provider) as worker:
        await worker.add(1)
        await worker.look()
        await worker.look()
        ((status, _, note),) = worker.batches()
        assert status == "unsure"
        assert "may be it, which its results would tell; it is in_progress" in note
        while worker.batches()[0][0] == "unsure":
            await asyncio.sleep(0.2)
            await worker.look()
    assert (asked(provider), taken(provider)) == (1, 1)


async def test_a_batch_of_somebody_else_is_not_taken_for_ours(database: Database, start: Start) -> None:
    """Of the same size and at the same time, by another house in the same workspace."""
    provider = start("disconnect-before")
    async with batching.worker(database, provider) as worker:
        await worker.add(1)
        await worker.look()
        vendor: Any = await worker.env.provider("anthropic")
        (call,) = database.sql("SELECT request FROM backbeat.model_calls")
        request = {key: value for key, value in call[0].items() if key != "price"}
        await vendor.batches.submit("other", {"other-1": Request(**request)})
        await worker.look()
        assert taken(provider) == 2
        await worker.look()
        assert worker.calls() == [(1, "done", None, True)]


async def test_a_batch_that_is_refused_as_a_whole_costs_nothing(database: Database, start: Start) -> None:
    """Twice: then each call goes alone, where its error has a meaning."""
    provider = start("400", "400")
    async with batching.worker(database, provider) as worker:
        await worker.add(2)
        await worker.look()
        assert worker.calls() == [(1, "refused", "batch_ended", True)] * 2
        await worker.run()
        await worker.look()
        assert [type(one) for one in await worker.run()] == [Succeed] * 2
    assert taken(provider) == 0
    assert tasks.money(database)[0] == 0


async def test_a_file_with_a_bad_line(database: Database, start: Start) -> None:
    """OpenAI checks a file as a whole: the bad line goes alone, the others come in another batch."""
    async with batching.worker(database, start(), "openai") as worker:
        await worker.add(3)
        bad = """UPDATE backbeat.model_calls SET request = jsonb_set(request, '{model}', '7')
            WHERE owner = (SELECT min(id::text)::uuid FROM backbeat.simple_tasks)"""
        database.sql(bad)
        await worker.look()
        await worker.look()
        await worker.look()
        whys = sorted(why for _, _, why, _ in worker.calls())
        assert whys == ["batch_failed", "batch_failed", "invalid_request"]
        await worker.run()
        await worker.look()
        assert worker.batches()[1] == ("submitted", 2, None)


async def test_a_person_says_what_became_of_it(database: Database, start: Start) -> None:
    provider, operator = start("disconnect-after", takes=9999), tasks.Operator(database)
    async with batching.worker(database, provider) as worker:
        await worker.add(1)
        await worker.look()
        await worker.look()
        ((tag,),) = database.sql("SELECT tag FROM backbeat.llm_batches")
        with pytest.raises(ConflictError, match="is unsure"):
            await people.resolve(operator, tag, "cancel", None, "test")
        (vendor_id,) = (one["batch"] for one in provider.ends(status=200) if "custom_ids" in one)
        assert await people.resolve(operator, tag[:10], "found", vendor_id, "test") == tag
        await worker.look()
        assert worker.batches() == [("submitted", 1, None)]
        with pytest.raises(ConflictError, match="is submitted"):
            await people.resolve(operator, tag, "lost", None, "test")
        with pytest.raises(NotFoundError):
            await people.resolve(operator, "bbnobody", "lost", None, "test")
        await people.resolve(operator, tag, "cancel", None, "test")
        assert worker.calls() == [(1, "open", None, True)]  # until the vendor has stopped
        while worker.batches()[0][0] != "ended":
            await worker.look()
        assert worker.calls() == [(1, "refused", "batch_cancelled", True)]
    said = database.sql("SELECT action, subject FROM backbeat.audit_log WHERE action LIKE 'batch.%' ORDER BY id")
    assert said == [("batch.submitted", tag), ("batch.cancel", tag)]


@pytest.mark.parametrize(("word", "after"), [("unsent", "refused"), ("lost", "lost")])
async def test_what_a_person_gives_up(database: Database, start: Start, word: str, after: str) -> None:
    """Unsent costs nothing; what is lost is presumed spent. Both are asked again; the vendor's batch is nobody's."""
    provider, operator = start("disconnect-after", takes=9999), tasks.Operator(database)
    async with batching.worker(database, provider) as worker:
        await worker.add(1)
        reserved, *_ = tasks.money(database)
        await worker.look()
        await worker.look()
        ((tag,),) = database.sql("SELECT tag FROM backbeat.llm_batches")
        await people.resolve(operator, tag, word, None, "test")
        assert [status for _, status, _, _ in worker.calls()] == [after]
        assert tasks.money(database)[2] == (reserved if word == "lost" else 0)
        await worker.run()
        await worker.look()
        assert worker.batches()[1][:2] == ("submitted", 1)
    assert taken(provider) == 2


async def test_a_batch_that_the_vendor_forgot(database: Database, start: Start) -> None:
    async with batching.worker(database, start()) as worker:
        await worker.add(1)
        await worker.look()
        reserved = tasks.money(database)
        database.sql("UPDATE backbeat.llm_batches SET vendor_id = 'gone'")
        await worker.look()
        ((status, _, note),) = worker.batches()
        assert (status, "No such batch" in note) == ("unsure", True)
        assert tasks.money(database) == reserved
        database.sql("UPDATE backbeat.llm_batches SET intended_at = intended_at - interval '2 days'")
        await worker.look()
        assert worker.batches()[0][0] == "unsure"


async def test_a_zombie_changes_nothing_but_tells_what_it_knows(database: Database, start: Start) -> None:
    """Its lease ran out while it submitted: its successor's word stands, and the vendor's id is kept."""
    async with batching.worker(database, start()) as worker:
        await worker.add(1)
        await worker.look()
        database.sql("UPDATE backbeat.llm_batches SET status = 'intended', vendor_id = NULL")
        ((tag, lease),) = database.sql("SELECT tag, lease FROM backbeat.llm_batches")
        mark = "SELECT backbeat.mark_batch(%s, %s, %s, %s, NULL, 0)"
        assert database.value(mark, [tag, lease - 1, "ended", None]) is False
        assert database.value(mark, [tag, lease - 1, "submitted", "theirs"]) is True
        assert database.value(mark, [tag, lease - 1, "submitted", "other"]) is False
    assert database.sql("SELECT status, vendor_id FROM backbeat.llm_batches") == [("submitted", "theirs")]


async def test_a_short_tag_is_no_name(database: Database) -> None:
    database.sql(
        "INSERT INTO backbeat.llm_batches (tag, route, provider, calls, status)"
        " SELECT 'bb0000000' || n, 'r', 'p', 1, 'unsure' FROM generate_series(1, 2) n"
    )
    with pytest.raises(InputError, match="any of 2"):
        await people.resolve(tasks.Operator(database), "bb000000", "lost", None, "test")
