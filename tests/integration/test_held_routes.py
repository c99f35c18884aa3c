"""A route that nobody may take: held by a person, or by itself when a bill was above its reservation."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from backbeat.operate import routes
from shared.db import calls
from shared.db.pool import Database as Connection
from shared.domain.outcome import Hold
from tests.support import every_postgres, tasks
from tests.support.command import Done, command
from tests.support.databases import Database

Run = Callable[..., Done]


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Run:
    def backbeat(*arguments: object) -> Done:
        return command("backbeat", *arguments, home=tmp_path, environ=database.environ)

    return backbeat


async def _overrun(db: Connection, route: str) -> None:
    """A call that may cost a cent and costs more."""
    await tasks.add(db, 2)
    first, second = await tasks.take(db)
    seq = await tasks.opened(db, first, route=route)
    assert await tasks.answered(db, first, seq, cost="0.013")
    verdict = await calls.open_call(db, tasks.ask(second, route=route))
    assert (verdict.verdict, verdict.detail) == ("route", route)
    assert verdict.until is not None
    other = await calls.open_call(db, tasks.ask(second, "elsewhere", route="another"))
    assert other.verdict == "open"
    assert await tasks.settle(db, second, Hold("route", verdict.detail, verdict.until))


@every_postgres
async def test_a_bill_above_its_reservation_holds_the_route(database: Database) -> None:
    async with tasks.worker(database) as db:
        await _overrun(db, "r")
        assert await routes.held_routes(db) == {"r": "a call cost 0.013 USD, 0.01 were reserved"}
    reserved = "SELECT count(*) FROM backbeat.model_calls WHERE route = 'r'"
    assert database.value(reserved) == 1


def test_people_see_why_a_route_is_held_and_let_it_go_on(run: Run, database: Database) -> None:
    (first, *_) = run("route", "list", "-o", "json").fine().json
    name = first["route"]
    assert first["held"] is False
    asyncio.run(_hold(database, name))
    health = {one["check"]: one for one in run("status", "-o", "json").fine().json["health"]}
    assert (health["routes"]["state"], health["routes"]["found"]) == ("wrong", f"{name} held")
    assert "a call cost 0.013 USD, 0.01 were reserved" in run("route", "list").fine().out
    assert run("route", "release", name).fine().err == f"route {name!r}: released\n"
    assert database.sql("SELECT status FROM backbeat.simple_tasks WHERE attempts = 0") == [("pending",)]
    assert [row["held"] for row in run("route", "list", "-o", "json").fine().json if row["route"] == name] == [False]
    trail = database.sql("SELECT action, subject FROM backbeat.audit_log ORDER BY id")
    assert [action for action, _ in trail] == ["budget.overrun", "queue.resumed"]


async def _hold(database: Database, route: str) -> None:
    async with tasks.worker(database) as db:
        await _overrun(db, route)


def test_a_person_holds_a_route_and_bad_names_change_nothing(run: Run, database: Database) -> None:
    name = run("route", "list", "-o", "json").fine().json[0]["route"]
    assert "has no route 'nowhere'" in run("route", "hold", "nowhere", "--reason", "x").refused(3)
    assert "is not held" in run("route", "release", name).refused(5)
    assert database.value("SELECT count(*) FROM backbeat.pauses") == 0
    assert run("route", "hold", name, "--reason", "the vendor is down").fine().err == f"route {name!r}: held\n"
    assert database.sql("SELECT scope, key, reason FROM backbeat.pauses") == [("route", name, "the vendor is down")]
