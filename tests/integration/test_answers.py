"""What becomes of answers that do not fit, and of prompts that do not; the vendor alone is scripted."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from backbeat import in_pieces
from backbeat.operate import actions
from shared.config import Config, ProviderConfig
from shared.db import queue
from shared.db.pool import Database as Connection
from shared.definitions import Definition, Registry
from shared.domain.outcome import Dead, Retry, Snooze, Succeed
from shared.domain.usage import Usage
from shared.execution.attempt import attempt
from shared.execution.context import Context
from shared.execution.environment import Environment
from shared.llm.protocol import Reply, Request, Stop
from shared.llm.routes import Route, Routes
from shared.telemetry.spans import NullTelemetry
from tests.support import tasks
from tests.support.databases import Database

GOOD, BAD = '{"n": 7}', '{"n": "seven"}'
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 5}}, "required": ["n"]}
IMPOSSIBLE = {**SCHEMA, "properties": {"n": {"type": "integer", "minimum": 5, "maximum": 1}}}


class Given(BaseModel):
    n: int


class Answer(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _odd(cls, n: int) -> int:
        if n == 1000:
            raise RuntimeError("a validator's own bug")
        if n % 2 == 0:
            raise ValueError("n is even")
        return n


class TooLongError(Exception):
    """A vendor's 400."""

    status_code, code, response = 400, "context_length_exceeded", None


class Vendor:
    """Answers by a function of the request; a text is whole, a tuple is (text, stop)."""

    def __init__(self, answers: Callable[[Request], str | tuple[str, Stop] | Exception]) -> None:
        self.answers = answers
        self.sent: list[Request] = []
        self.counted = 0

    async def send(self, request: Request) -> Reply:
        self.sent.append(request)
        said = self.answers(request)
        if isinstance(said, Exception):
            raise said
        text, stop = said if isinstance(said, tuple) else (said, "end")
        return Reply(text, Usage(uncached=100, output=10), stop, request.model, "sim_1")

    async def aclose(self) -> None:
        pass

    @property
    def models(self) -> list[str]:
        return [request.model for request in self.sent]


class Counter(Vendor):
    """Counts four bytes a token."""

    async def count(self, request: Request) -> int | None:
        self.counted += 1
        return len(request.prompt) // 4


def said(*answers: Any) -> Vendor:
    """A vendor that says these one after the other, and the last for ever."""
    left = list(answers)
    return Vendor(lambda _: left.pop(0) if len(left) > 1 else left[0])


def route(tier: str, window: int = 200_000, name: str = "") -> Route:
    models = {"small": "claude-haiku-4-5", "medium": "claude-sonnet-4-6", "large": "claude-opus-4-7"}
    return Route(name or tier, "anthropic", models[tier], window, 8_000, True)


TIERS = {tier: (route(tier),) for tier in ("small", "medium", "large")}


async def _attempt(
    db: Connection,
    vendor: Vendor,
    *,
    output: Any = Answer,
    tiers: Mapping[str, tuple[Route, ...]] = TIERS,
    prompt: str = "How many?",
    settled: bool = True,
    first: Callable[[], object] = str,
    **options: Any,
) -> Any:
    async def run(ctx: Context, _value: Given) -> Any:
        first()
        asked: Any = {"prompt": prompt, "tier": "small", "max_output_tokens": 20, **options}
        ask = partial(in_pieces, ctx) if asked.pop("overflow", "") == "chunk" else ctx.llm
        answer: Any = await ask(asked.pop("key", "key"), output=output, **asked)
        return answer if output is not None else Given(n=len(answer))

    made = Given if output is None else output
    definition = Definition(name="alpha", version=1, input=Given, output=made, tier="small", run=run)
    config = Config(providers={"anthropic": ProviderConfig("anthropic", api_key="k", simulated=True)})
    env = Environment(config, db, Registry({"alpha@1": definition}, {}), Routes(tiers, "a test"), NullTelemetry())
    env._providers["anthropic"] = vendor
    if not await db.rows("SELECT 1 FROM backbeat.simple_tasks"):
        await tasks.add(db)
    task = await tasks.take_one(db)
    outcome = await attempt(env, task)
    assert outcome is not None
    if settled:
        await tasks.settle(db, task, outcome)
    return outcome


async def test_an_invalid_answer_goes_back_once_and_then_a_tier_up(database: Database) -> None:
    vendor = said(BAD, BAD, GOOD)
    async with tasks.worker(database) as db:
        assert await _attempt(db, vendor) == Succeed({"n": 7})
    assert vendor.models == ["claude-haiku-4-5", "claude-haiku-4-5", "claude-sonnet-4-6"]
    first, again, higher = vendor.sent
    assert again.prompt.startswith(first.prompt)
    assert (again.system, again.schema) == (first.system, first.schema)
    assert "n: Input should be a valid integer" in again.prompt
    assert higher.prompt == first.prompt


@pytest.mark.parametrize(
    ("answers", "options", "models"),
    [
        ([BAD, GOOD], {}, 2),
        ([BAD, BAD], {"escalate": False}, 2),
        ([BAD], {"tier": "large"}, 2),
        ([BAD], {}, 3),
        (['{"n": 1000}', GOOD], {}, 2),
        (['{"n": 4}', GOOD], {}, 2),
        (["", GOOD], {}, 2),
        (['{"n": 3}', BAD, GOOD], {"output": SCHEMA}, 3),
        (['{"n": NaN}', GOOD], {"output": SCHEMA}, 2),
        ([("", "length")], {}, 2),
        ([("", "length"), GOOD], {}, 2),
        ([("", "length"), BAD, GOOD], {}, 3),
        ([("", "length")], {"max_output_tokens": 8_000}, 1),
        ([("", "refusal")], {}, 1),
        ([("", "unknown")], {}, 1),
        ([(GOOD, "context")], {}, 1),
        ([BAD, ("", "refusal")], {}, 2),
    ],
)
async def test_every_answer_is_billed_whatever_it_is_worth(
    database: Database, answers: list[Any], options: dict[str, Any], models: int
) -> None:
    vendor = said(*answers)
    async with tasks.worker(database) as db:
        outcome = await _attempt(db, vendor, settled=False, **options)
        assert isinstance(outcome, Succeed) is (answers[-1] == GOOD)
    assert len(vendor.sent) == models
    query = "SELECT count(*), bool_and(cost_usd > 0 AND output = 10 AND status = 'done') FROM backbeat.model_calls"
    assert database.sql(query) == [(models, True)]
    reserved, paid, presumed = tasks.money(database)
    assert not reserved
    assert not presumed
    assert paid > 0


async def test_an_answer_that_was_cut_gets_four_times_the_room_once(database: Database) -> None:
    vendor = said(('{"n": ', "length"))
    async with tasks.worker(database) as db:
        outcome = await _attempt(db, vendor, max_output_tokens=3_000, settled=False)
        assert [request.max_output_tokens for request in vendor.sent] == [3_000, 8_000]
        assert outcome == Dead(
            "output_truncated",
            "call 'key': claude-haiku-4-5 was cut off at 8000 output tokens: ask for less at once, or raise "
            "max_output_tokens",
        )
        await _abandoned(database, db)
        vendor.answers = lambda _: GOOD
        assert await _attempt(db, vendor, max_output_tokens=3_000) == Succeed({"n": 7})
    # That it is cut at 3000 is on record: an attempt after a crash pays for the longer one alone.
    assert [request.max_output_tokens for request in vendor.sent] == [3_000, 8_000, 8_000]


async def test_a_schema_that_nothing_fits_ends_dead_within_its_budget(database: Database) -> None:
    vendor = said('{"n": 7}')
    async with tasks.worker(database) as db:
        outcomes: list[Any] = []
        while not outcomes or database.sql("SELECT 1 FROM backbeat.simple_tasks"):
            outcomes.append(await _attempt(db, vendor, output=IMPOSSIBLE))
            database.sql("UPDATE backbeat.simple_tasks SET run_after = now() - interval '1 s' RETURNING 1")
            await db.rows("SELECT backbeat.sweep()")
    assert all(isinstance(one, Retry) and one.error_class == "invalid_output" for one in outcomes)
    assert "call 'key': The answer does not fit its schema: n: the value is greater than" in outcomes[0].error
    # What was answered is not asked again: each later attempt pays for the last rung alone.
    assert vendor.models == ["claude-haiku-4-5"] * 2 + ["claude-sonnet-4-6"] * 3
    assert database.sql("SELECT error_class, attempts FROM backbeat.dead_letters") == [("invalid_output", 3)]


async def _abandoned(database: Database, db: Connection) -> None:
    """Its worker died after the call and before it settled."""
    database.sql("UPDATE backbeat.simple_tasks SET lease_until = now() - interval '1 s'")
    await queue.reap(db)
    await db.rows("SELECT backbeat.sweep()")


async def test_what_a_release_asks_otherwise_is_paid_anew_within_the_cap(database: Database) -> None:
    """Attempts of one task under three releases of its code: another key, then the same key with another question."""
    vendor = said(GOOD)
    async with tasks.worker(database) as db:
        await actions.set_budget(tasks.Operator(database), "task", "alpha", None, 1_000, "test")
        assert await _attempt(db, vendor, key="old", settled=False) == Succeed({"n": 7})
        await _abandoned(database, db)
        assert await _attempt(db, vendor, key="new", settled=False) == Succeed({"n": 7})
        await _abandoned(database, db)
        outcome = await _attempt(db, vendor, key="new", prompt="How many are there?" + " " * 250)
    assert isinstance(outcome, Dead)
    assert outcome.error_class == "over_task_budget"
    assert "220 tokens are spent" in outcome.error
    assert "and call new may take" in outcome.error
    paid = "SELECT call_key, seq, status, cost_usd > 0 FROM backbeat.model_calls ORDER BY opened_at"
    assert database.sql(paid) == [("old", 1, "done", True), ("new", 1, "done", True)], "and all of it is on record"
    assert len(vendor.sent) == 2


async def test_a_tier_that_is_not_there_is_said_and_costs_nothing(database: Database) -> None:
    vendor = said(GOOD)
    async with tasks.worker(database) as db:
        outcome = await _attempt(db, vendor, tier="tiny")
    assert outcome == Dead("unknown_tier", "no tier is called 'tiny': use one of small, medium, large")
    assert (vendor.sent, database.sql("SELECT 1 FROM backbeat.model_calls")) == ([], [])


async def test_a_cap_stops_the_climb(database: Database) -> None:
    async with tasks.worker(database) as db:
        await actions.set_budget(tasks.Operator(database), "task", "alpha", None, 800, "test")
        vendor = said(BAD)
        outcome = await _attempt(db, vendor)
    assert isinstance(outcome, Dead)
    assert outcome.error_class == "over_task_budget"
    assert len(vendor.sent) < 3


async def test_text_needs_no_schema(database: Database) -> None:
    vendor = said("four")
    async with tasks.worker(database) as db:
        assert await _attempt(db, vendor, output=None) == Succeed({"n": 4})
    assert vendor.sent[0].schema is None


LONG = "one two three four\n" * 1_000  # 19,000 bytes; 4,750 tokens for whoever counts


def windows(*sizes: int) -> dict[str, tuple[Route, ...]]:
    return {"small": tuple(route("small", size, f"w{size}") for size in sizes)}


async def test_a_longer_window_of_the_tier_is_taken_without_asking_the_shorter(database: Database) -> None:
    vendor = Counter(lambda _: GOOD)
    async with tasks.worker(database) as db:
        assert await _attempt(db, vendor, tiers=windows(4_000, 6_000), prompt=LONG, settled=False) == Succeed({"n": 7})
    assert database.sql("SELECT route FROM backbeat.model_calls") == [("w6000",)]
    assert vendor.counted == 1


async def test_what_surely_fits_is_not_counted(database: Database) -> None:
    vendor = Counter(lambda _: GOOD)
    async with tasks.worker(database) as db:
        await _attempt(db, vendor, tiers=windows(20_100), prompt=LONG)
        assert vendor.counted == 0


async def test_who_stops_everything_stops_the_counting_too(database: Database) -> None:
    vendor = Counter(lambda _: GOOD)
    stop = partial(database.sql, "SELECT backbeat.throw_switch('all', 'a test', 'me')")
    async with tasks.worker(database) as db:
        outcome = await _attempt(db, vendor, tiers=windows(4_000, 6_000), prompt=LONG, first=stop)
    assert isinstance(outcome, Snooze)
    assert (vendor.counted, vendor.sent) == (0, [])


@pytest.mark.parametrize("raised", [False, True], ids=["stop", "status"])
async def test_where_nobody_counts_the_vendor_says_so(database: Database, raised: bool) -> None:
    refusal: Any = TooLongError("too long") if raised else (GOOD, "context")
    vendor = said(refusal, GOOD)
    async with tasks.worker(database) as db:
        assert await _attempt(db, vendor, tiers=windows(4_000, 6_000), prompt=LONG, settled=False) == Succeed({"n": 7})
    query = "SELECT route, status FROM backbeat.model_calls ORDER BY seq"
    assert database.sql(query) == [("w4000", "refused" if raised else "done"), ("w6000", "done")]


@pytest.mark.parametrize(
    ("vendor", "size"), [(Counter(lambda _: GOOD), "4750 tokens"), (said(TooLongError("no")), "too many tokens")]
)
async def test_what_no_window_holds_is_dead_and_says_the_sizes(database: Database, vendor: Vendor, size: str) -> None:
    async with tasks.worker(database) as db:
        outcome = await _attempt(db, vendor, tiers=windows(2_000, 3_000), prompt=LONG)
    assert isinstance(outcome, Dead)
    assert outcome.error_class == "context_overflow"
    assert f"call 'key' has {size} and 20 of output, for a window of 3000, the longest of tier 'small'" in outcome.error
    assert "allow overflow='chunk'" in outcome.error


def _fits(request: Request) -> str | Exception:
    return "x" * 10 if len(request.prompt) // 4 < 2_980 else TooLongError("too long")


@pytest.mark.parametrize("counts", [True, False])
async def test_a_long_prompt_in_pieces(database: Database, counts: bool) -> None:
    numbered = "".join(f"line {n}\n" for n in range(2_000))
    vendor = (Counter if counts else Vendor)(_fits)
    async with tasks.worker(database) as db:
        settings: Any = {"tiers": windows(3_000), "prompt": numbered, "overflow": "chunk", "output": None}
        assert await _attempt(db, vendor, **settings) == Succeed({"n": 10})
    *parts, merge = [one.prompt for one in vendor.sent if one.prompt != numbered]
    assert len(parts) > 1
    assert {n for n in range(2_000) if any(f"line {n}\n" in part for part in parts)} == set(range(2_000))
    assert parts[0].startswith(f"This is part 1 of {len(parts)} of a longer text")
    assert all(f"Part {n}: xxxxxxxxxx" in merge for n in range(1, len(parts) + 1))


async def test_pieces_that_were_answered_are_not_paid_again(database: Database) -> None:
    left = iter([False, False, True])
    vendor = Counter(lambda _: ConnectionResetError() if next(left, False) else GOOD)
    async with tasks.worker(database) as db:
        settings: Any = {"tiers": windows(2_000), "prompt": LONG, "overflow": "chunk"}
        first = await _attempt(db, vendor, **settings)
        assert isinstance(first, Retry)
        sent = len(vendor.sent)
        await db.rows("SELECT backbeat.sweep()")
        assert await _attempt(db, vendor, **settings) == Succeed({"n": 7})
    prompts = [one.prompt for one in vendor.sent]
    assert prompts[0] not in prompts[sent:]
    assert prompts[2] == prompts[sent]


async def test_too_many_pieces_are_dead(database: Database) -> None:
    vendor = Counter(lambda _: GOOD)
    async with tasks.worker(database) as db:
        outcome = await _attempt(db, vendor, tiers=windows(2_000), prompt=LONG * 40, overflow="chunk")
    assert isinstance(outcome, Dead)
    assert "pieces are not 2 to 32" in outcome.error
    assert not vendor.sent


async def test_a_count_that_fails_stops_nobody(database: Database) -> None:
    class Broken(Vendor):
        async def count(self, request: Request) -> int | None:
            raise RuntimeError("no count today")

    async with tasks.worker(database) as db:
        assert await _attempt(db, Broken(lambda _: GOOD), tiers=windows(4_000), prompt=LONG) == Succeed({"n": 7})
