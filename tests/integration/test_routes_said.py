"""What people say about routes reaches calls without a deploy; the next is taken when the first is shut."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from backbeat.operate import actions
from shared.config import Config, ProviderConfig
from shared.db import rates
from shared.db.pool import Database as Connection
from shared.definitions import Definition, Registry
from shared.domain.outcome import Dead, Hold, Release, Succeed
from shared.execution import routing
from shared.execution.attempt import attempt
from shared.execution.context import Context
from shared.execution.environment import Environment
from shared.execution.interrupt import Interrupt
from shared.llm.protocol import Reply, Request
from shared.llm.routes import Routes, load_routes
from shared.telemetry.spans import NullTelemetry
from tests.integration.test_model_call import Answer, Vendor
from tests.support import tasks
from tests.support.command import Done, command
from tests.support.databases import Database
from tests.support.simulated import service

FILE = """
[tiers]
small = ["one", "two"]
[routes.one]
provider = "anthropic"
model = "claude-haiku-4-5"
window = 200_000
max_output = 8_000
bounded = true
[routes.two]
provider = "anthropic"
model = "claude-haiku-5-5"
window = 200_000
max_output = 8_000
bounded = true
"""
Run = Callable[..., Done]


class LimitedError(Exception):
    """As a vendor's SDK raises it."""

    status_code = 429

    def __init__(self, seconds: str) -> None:
        super().__init__("slow down")
        self.response = type("Response", (), {"headers": {"retry-after": seconds}})


class Refusing(Vendor):
    """Refuses calls of one model; `models` are those it was asked for."""

    def __init__(self, model: str, error: Exception) -> None:
        super().__init__()
        self._model, self._error, self.models = model, error, list[str]()

    async def send(self, request: Request) -> Reply:
        self.models.append(request.model)
        if request.model == self._model:
            raise self._error
        return await super().send(request)


class AtOnce(Vendor):
    """Refuses all calls with one status, when so many of them are under way."""

    def __init__(self, status: int, calls: int) -> None:
        super().__init__()
        self._refusal = type("StatusError", (Exception,), {"status_code": status})("the key is not valid")
        self._all = asyncio.Barrier(calls)

    async def send(self, request: Request) -> Reply:
        self.sent += 1
        await self._all.wait()
        raise self._refusal


class Moody(Vendor):
    """Names these limits beside its answers; refuses what it is asked next when it is `cross`."""

    def __init__(self, **limits: str) -> None:
        super().__init__()
        self._limits, self.cross = {f"anthropic-ratelimit-{name}-limit": value for name, value in limits.items()}, False

    async def send(self, request: Request) -> Reply:
        if self.cross:
            self.cross = False
            raise LimitedError("0.001")
        return replace(await super().send(request), limits=self._limits)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "routes.toml"
    path.write_text(FILE)
    return path


@pytest.fixture
def run(database: Database, tmp_path: Path, file: Path) -> Run:
    environ = database.environ | {"BACKBEAT_ROUTES_FILE": str(file)}
    return lambda *arguments: command("backbeat", "route", *arguments, home=tmp_path, environ=environ)


def _environment(db: Connection, routes: Routes, vendor: Vendor) -> Environment:
    async def ask(ctx: Context, _value: Answer) -> Answer:
        return await ctx.llm("key", output=Answer, prompt="say", tier="small", max_output_tokens=20)

    definition = Definition(name="alpha", version=1, input=Answer, output=Answer, tier="small", run=ask)
    config = Config(providers={"anthropic": ProviderConfig("anthropic", api_key="k", simulated=True)})
    env = Environment(config, db, Registry({"alpha@1": definition}, {}), routes, NullTelemetry())
    env._providers["anthropic"] = vendor
    return env


async def _once(env: Environment) -> Any:
    await tasks.add(env.db)
    return await attempt(env, await tasks.take_one(env.db))


async def test_a_429_shuts_the_route_for_all_and_the_next_one_is_taken(database: Database, file: Path) -> None:
    vendor = Refusing("claude-haiku-4-5", LimitedError("30"))
    async with tasks.worker(database) as db:
        env = _environment(db, load_routes(file), vendor)
        assert await _once(env) == Succeed({"n": 1})
        assert await _once(_environment(db, load_routes(file), vendor)) == Succeed({"n": 2})
    assert vendor.models == ["claude-haiku-4-5", "claude-haiku-5-5", "claude-haiku-5-5"]
    ((route, why, shrink),) = database.sql("SELECT route, blocked_by, shrink FROM backbeat.llm_rate")
    assert (route, why, shrink) == ("one", "rate_limited", 0.7)


async def test_with_every_route_shut_a_task_is_released_free_and_asks_nobody(database: Database, file: Path) -> None:
    vendor = Refusing("", LimitedError("1"))
    async with tasks.worker(database) as db:
        began = time.monotonic()
        for name in ("one", "two"):
            await rates.block(db, name, 40.0, "rate_limited", shrink=False)
        env = _environment(db, load_routes(file), vendor)
        outcome = await _once(env)
        assert isinstance(outcome, Release)
        assert outcome.reason == "rate"
        assert 39 - (time.monotonic() - began) < (outcome.after or 0) <= 40
        assert env.routing.stalled("small")
        for name in ("one", "two"):
            await rates.block(db, name, 900.0, "authentication", shrink=False)
        outcome = await _once(_environment(db, load_routes(file), vendor))
        assert isinstance(outcome, Hold)
        assert (outcome.reason, outcome.key) == ("route", "one")
    assert vendor.models == []


@pytest.mark.parametrize(("status", "reason"), [(401, "authentication"), (403, "permission"), (404, "not_found")])
async def test_a_fault_of_the_route_is_one_dead_letter_and_holds_what_comes_after(
    database: Database, tmp_path: Path, run: Run, status: int, reason: str
) -> None:
    """Two processes, three calls of each under way when the vendor answers the first."""
    vendor, routes = AtOnce(status, 6), tmp_path / "routes.toml"
    routes.write_text(FILE.replace('small = ["one", "two"]', 'small = ["one"]'))
    async with tasks.worker(database, 8) as db:
        processes = [_environment(db, load_routes(routes), vendor) for _ in range(2)]
        await tasks.add(db, 7)
        *first, last = await tasks.take(db)
        ends = await asyncio.gather(*(attempt(processes[n % 2], task) for n, task in enumerate(first)))
        ends.append(await attempt(_environment(db, load_routes(routes), vendor), last))
        for task, end in zip([*first, last], ends, strict=True):
            assert end is not None
            await tasks.settle(db, task, end)
    assert vendor.sent == 6, "the last asked nobody"
    assert [end for end in ends if isinstance(end, Dead)] == [Dead(reason, f"claude-haiku-4-5: {reason}")]
    held = [end for end in ends if isinstance(end, Hold)]
    assert [(end.reason, end.key) for end in held] == [("route", "one")] * 6
    lines = command("backbeat", "task", "list", home=tmp_path, environ=database.environ).fine().out
    assert lines.count(f"route one: {reason}") == 6
    health = run("list").fine().out + command("backbeat", "status", home=tmp_path, environ=database.environ).out
    assert f"one: {reason}" in health


async def _released(env: Environment, vendor: Vendor) -> tuple[float, float]:
    """The seconds after which a second call may follow one that is sent now: at least, and at most."""
    route = await env.routing.choose("small", UUID(int=0), 1.0)
    wish = {"owner": str(UUID(int=0)), "call_key": "k", "request_hash": "h", "input": 1, "output": 1, "patience": 0.0}
    began = time.monotonic()
    assert await env.routing.desk(route, vendor).slot(wish) is not None
    while True:
        again = time.monotonic()
        try:
            assert await env.routing.desk(route, vendor).slot(wish) is not None
        except Interrupt as refused:
            match refused.outcome:
                case Release(_, after) if after is not None:
                    return after, after + time.monotonic() - began
                case other:
                    raise AssertionError(other) from None
        began = again  # the machine stood still for so long that it was free to go


async def test_limits_that_a_vendor_names_hold_in_every_process_though_the_route_names_none(
    database: Database, file: Path
) -> None:
    vendor = Moody(requests="6")
    async with tasks.worker(database) as db:
        env = _environment(db, load_routes(file), vendor)
        assert await _once(env) == Succeed({"n": 1})
        await env.aclose()
        assert database.sql("SELECT route, told[1] FROM backbeat.llm_rate") == [("one", 6)]
        least, most = await _released(_environment(db, load_routes(file), vendor), vendor)
        assert (most > 9, least <= 60 * 1.07 / 6) == (True, True)


async def test_a_429_on_a_route_without_limits_slows_it_to_less_than_what_it_was_then_gets_faster_again(
    database: Database, file: Path
) -> None:
    vendor, pace = Moody(), "SELECT pace FROM backbeat.llm_rate"
    async with tasks.worker(database) as db:
        env = _environment(db, load_routes(file), vendor)
        for _ in range(19):
            await _once(env)
        assert database.sql(pace) == [], "nobody complained"
        vendor.cross = True
        await _once(env)
        # The route's 19 that were answered and the one refused, in less than a minute, as far as it passed meanwhile.
        assert database.sql(pace) == [(pytest.approx(0.7 * 20, rel=0.01),)]
        database.advance(timedelta(seconds=10))  # past the moment of the call that was tried again
        least, slow = await _released(_environment(db, load_routes(file), vendor), vendor)
        interval = 60 * 1.07 / (0.7 * 20)
        assert (slow / interval > 0.7, least / interval <= 1) == (True, True)
        database.advance(timedelta(minutes=2))
        least, _ = await _released(_environment(db, load_routes(file), vendor), vendor)
        assert least < slow / 3


def test_people_say_which_routes_serve_a_tier(run: Run, database: Database) -> None:
    def models() -> list[str]:
        return [row["route"] for row in run("list", "-o", "json").fine().json]

    assert models() == ["one", "two"]
    assert "names route 'three', which is not there" in run("set", "small", "three").refused(2)
    run("set", "small", "two").fine()
    assert models() == ["two"]
    run("change", "two", "rpm=50", "max_in_flight=3").fine()
    assert "rpm is 0" in run("change", "two", "rpm=0").refused(2)
    (row,) = run("list", "-o", "json").fine().json
    assert row["limits"] == {"rpm": 50, "itpm": None, "otpm": None, "max_in_flight": 3}
    assert row["left"]["rpm"] == 50
    run("unset", "small").fine()
    assert "is as the routes file says" in run("unset", "small").refused(5)
    assert models() == ["one", "two"]
    trail = database.sql("SELECT DISTINCT subject FROM backbeat.audit_log WHERE action = 'route.set' ORDER BY 1")
    assert trail == [("route/two",), ("tier/small",)]


def test_a_vendors_no_is_shown_and_a_person_lifts_it(run: Run, database: Database) -> None:
    database.sql("SELECT backbeat.block_route('one', 900, 'authentication', false)")
    row, _ = run("list", "-o", "json").fine().json
    assert row["blocked_by"] == "authentication"
    assert row["blocked_until"]
    assert run("release", "one").fine().err == "route 'one': released\n"
    row, _ = run("list", "-o", "json").fine().json
    assert row["blocked_until"] is None


def test_one_tiny_call_shows_that_a_route_works(database: Database, tmp_path: Path, file: Path) -> None:
    environ = database.environ | {"BACKBEAT_ROUTES_FILE": str(file)}
    with service("provider", tmp_path / "log", "--latency", "0") as provider:
        vendors = f'[providers.anthropic]\nbase_url = "{provider.url}/anthropic"\nsimulated = true\n'
        (tmp_path / "backbeat.toml").write_text(vendors)
        tried = command("backbeat", "route", "test", "one", "-o", "json", home=tmp_path, environ=environ).fine().json
        assert (tried["route"], tried["simulated"], tried["stop"], provider.ends()[0]["status"]) == (
            "one",
            True,
            "end",
            200,
        )
        assert float(tried["usd"]) > 0
        assert len(provider.ends()) == 1
        shape = ("provider=anthropic", "model=claude-haiku-5-5", "window=9000", "max_output=900", "bounded=true")
        command("backbeat", "route", "change", "new", *shape, home=tmp_path, environ=environ).fine()
        line = command("backbeat", "route", "test", "new", home=tmp_path, environ=environ).fine().out
        assert "claude-haiku-5-5" in line, "before it serves a tier"
    refused = command("backbeat", "route", "test", "one", home=tmp_path, environ=environ).refused(75)
    assert refused.startswith("backbeat: route 'one': not_sent: ")
    assert "has no route 'nine'" in command(
        "backbeat", "route", "test", "nine", home=tmp_path, environ=environ
    ).refused(3)
    assert database.sql("SELECT 1 FROM backbeat.budgets") == [], "it counts against no budget"


def test_a_canary_takes_its_share_by_the_task_and_is_rolled_back(run: Run, database: Database, file: Path) -> None:
    run("set", "small", "one").fine()
    run("canary", "small", "two", "--percent", "10").fine()
    said = [
        dict(zip(("scope", "key", "body"), row, strict=True))
        for row in database.sql("SELECT scope, key, body FROM backbeat.llm_routes")
    ]
    routes = load_routes(file).over(said)
    ids = [UUID(database.value("SELECT backbeat.uuid7()::text")) for _ in range(3)]
    ids += [UUID(int=(ids[0].int & ~0xFFFFFFFFFFFF) | n * 2654435761 % 2**48) for n in range(2000)]
    first = [routes.for_tier("small", None, one.int % 100)[0].name for one in ids]
    assert 0.08 < first.count("two") / len(first) < 0.12
    assert first == [routes.for_tier("small", None, one.int % 100)[0].name for one in ids]
    run("canary", "small", "--off").fine()
    assert "has no canary" in run("canary", "small", "--off").refused(5)
    assert run("canary", "small", "two").refused(2)


async def test_a_worker_hears_of_a_change_and_leaves_out_what_does_not_fit(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(routing, "REREAD", 0.0)
    vendor = Refusing("", LimitedError("1"))
    async with tasks.worker(database) as db:
        env, operator = _environment(db, load_routes(file), vendor), tasks.Operator(database)
        await _once(env)
        said = "SELECT backbeat.set_route('tier', 'small', %(body)s::jsonb, 'test') AS was"
        await actions.do(operator, said, {"body": '{"routes": ["two"]}'})
        await _once(env)
        await actions.do(operator, said, {"body": '{"routes": ["nowhere"]}'})
        await _once(env)
    assert vendor.models == ["claude-haiku-4-5", "claude-haiku-5-5", "claude-haiku-5-5"]
    assert "names route 'nowhere'" in caplog.text
