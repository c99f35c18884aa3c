"""Model calls of an orchestration: the same budgets, bills and record as a task's; a retry does not pay twice."""

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

from backbeat.operate import actions as operate
from shared.config import Config, ProviderConfig
from shared.execution.environment import Environment
from shared.llm.protocol import Reply, Request
from shared.llm.routes import Routes
from tests.integration.test_fan_out import ticking, well
from tests.integration.test_model_call import ROUTE, Vendor
from tests.integration.test_orchestrations import begin, connected, loaded, steps
from tests.support.databases import Database
from tests.support.temporal import FarSide, Server, environment, eventually, finished, row, working


class Shelves(Vendor):
    """Answers shelf 1, shelf 2, …, at nearly all the tokens it may."""

    async def send(self, request: Request) -> Reply:
        reply = await super().send(request)
        usage = replace(reply.usage, output=1000)
        return replace(reply, text=json.dumps({"shelf": f"shelf {self.sent}"}), usage=usage)


async def asking(env: Environment, vendor: Vendor) -> Environment:
    config = Config(providers={"anthropic": ProviderConfig("anthropic", api_key="k", base_url="", simulated=True)})
    found = replace(await loaded(env), config=config, routes=Routes({"small": (ROUTE,)}, "a test"))
    found._providers["anthropic"] = vendor
    return found


CALLS = "SELECT call_key, status, owner_kind, workflow, response IS NULL FROM backbeat.model_calls ORDER BY 1"


async def test_calls_are_billed_and_recorded_under_the_run(database: Database, temporal_server: Server) -> None:
    vendor, client = Shelves(), await connected(temporal_server)
    async with environment(database, FarSide()) as env, working(await asking(env, vendor), client):
        run = begin(database, "judge")
        done = await finished(database, run)
    assert done["result"] == {"first": "shelf 1", "second": "shelf 2"}
    assert steps(database, run) == [("first", "llm", "done"), ("second", "llm", "done")]
    assert database.sql(CALLS) == [(key, "done", "workflow", "judge", True) for key in ("first", "second")]
    assert database.value("SELECT DISTINCT owner FROM backbeat.model_calls") == run
    spent = "SELECT scope, key, calls, spent_usd > 0, reserved_usd FROM backbeat.budgets ORDER BY scope"
    assert database.sql(spent) == [("tenant", "default", 2, True, 0), ("workflow", "judge", 2, True, 0)]


async def test_a_retried_run_answers_from_the_record(database: Database, temporal_server: Server) -> None:
    """Its second call was over the cap; after it is raised only that one is made."""
    vendor, client = Shelves(), await connected(temporal_server)
    async with environment(database, FarSide()) as env, working(await asking(env, vendor), client):
        async with operator(database) as people:
            await operate.set_budget(people, "task", "judge", None, 1_900, "me")
            run = begin(database, "judge")
            failed = await finished(database, run)
            assert failed["status"] == "failed"
            assert f"task/{run} may use" in failed["error"]
            await operate.set_budget(people, "task", "judge", None, 10_000, "me")
        assert database.value("SELECT backbeat.retry_workflow(%s, 'me')", [run]) is None
        done = await finished(database, run)
    assert (done["status"], done["generation"]) == ("completed", 2)
    assert done["result"] == {"first": "shelf 1", "second": "shelf 2"}
    assert vendor.sent == 2
    assert steps(database, run) == [("first", "llm", "done"), ("second", "llm", "done")]


def operator(database: Database) -> Any:
    """People's login."""
    from shared.db.pool import connect

    return connect(database.operator_url)


async def test_a_worker_that_dies_in_mid_call_is_presumed_to_have_paid(
    database: Database, temporal_server: Server
) -> None:
    """What its activity reserved stays on the books when the run ends; nothing is reserved for ever."""
    vendor, client = Shelves(), await connected(temporal_server)
    async with environment(database, FarSide()) as env, working(await asking(env, vendor), client):
        run = begin(database, "spread", weight=1)
        await eventually(lambda: row(database, run)["status"] == "waiting")
        ask: list[dict[str, Any]] = [
            {"owner": str(run), "lease": None, "call_key": "k", "request_hash": "h", "route": "haiku", "tier": "small"}
        ]
        rest = {"provider": "anthropic", "model": "m", "reserved_usd": "1.5", "reserved_tokens": 10, "likely_usd": "1"}
        ask[0] |= {**rest, "likely_tokens": 5, "price_version": "v"}
        call = "SELECT verdict FROM backbeat.open_calls('w', %s::jsonb)"
        assert database.value(call, [json.dumps(ask)]) == "open"
        async with ticking(env.db, well):
            await finished(database, run)
        assert database.value(call, [json.dumps(ask)]) == "fenced"
    assert database.sql("SELECT status, error_class FROM backbeat.model_calls") == [("lost", "worker_lost")]
    money = "SELECT DISTINCT reserved_usd, presumed_usd FROM backbeat.budgets"
    assert database.sql(money) == [(Decimal(0), Decimal("1.5"))]


async def test_calls_of_children_count_against_the_run(database: Database, temporal_server: Server) -> None:
    """Whom a child's call is charged to: its own workflow's day, the run that fanned it out, and that one's day."""
    client = await connected(temporal_server)
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        run = begin(database, "spread", weight=1)
        await eventually(lambda: database.value("SELECT count(*) FROM backbeat.simple_tasks"))
        database.sql(
            "INSERT INTO backbeat.budget_caps (scope, key, tokens, set_by) VALUES ('task', 'spread', 100, 'me')"
        )
        payers = "SELECT scope, key, tokens FROM backbeat.payers((SELECT id FROM backbeat.simple_tasks)) ORDER BY 1, 2"
        assert database.sql(payers) == [
            ("task", str(run), 100),
            ("tenant", "default", None),
            ("workflow", "parcel", None),
            ("workflow", "spread", None),
        ]
