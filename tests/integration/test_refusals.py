"""What Postgres refuses: tried again only where that may help, and refused before it is sent where it never can."""

import asyncio
import random
import string
from typing import Any

import psycopg
import psycopg_pool
import pytest
from pydantic import BaseModel

from shared.config import Config
from shared.db import pool
from shared.definitions import Definition, Registry
from shared.domain.outcome import Dead
from shared.errors import BackbeatError, UnavailableError
from shared.execution.attempt import attempt
from shared.execution.environment import Environment
from shared.llm.routes import Routes
from shared.telemetry.spans import NullTelemetry
from tests.support import tasks
from tests.support.databases import Database


class Numbered(BaseModel):
    n: int


@pytest.mark.parametrize("key", ["", "k" * 501, "a\0b", "a\udcffb"], ids=["empty", "long", "nul", "surrogate"])
async def test_a_call_key_that_cannot_be_stored_is_not_tried_again(database: Database, key: str) -> None:
    async def run(ctx: Any, value: Numbered) -> Any:
        return await ctx.llm(key, output=Numbered, prompt=str(value.n), tier="small")

    async with tasks.worker(database) as db:
        await tasks.add(db)
        alpha = Definition(name="alpha", version=1, input=Numbered, output=Numbered, tier="small", run=run)
        env = Environment(Config(), db, Registry({"alpha@1": alpha}, {}), Routes({}, "test"), NullTelemetry())
        outcome = await attempt(env, await tasks.take_one(db))
    assert isinstance(outcome, Dead)
    assert outcome.error_class == "invalid_key"
    assert outcome.error.startswith("a call's key h")


async def test_what_postgres_would_refuse_again_is_asked_once(database: Database) -> None:
    key = "".join(random.choices(string.ascii_letters, k=20_000))  # too long for an index, however compressed
    async with tasks.worker(database) as db, asyncio.timeout(12.0):  # repeated, it takes 15 s
        await tasks.add(db)
        with pytest.raises(BackbeatError, match="Postgres refused: index row"):
            await tasks.opened(db, await tasks.take_one(db), key)


@pytest.mark.parametrize(
    ("code", "passing"),
    [(code, True) for code in ("08006", "57P01", "53300", "40P01")]
    + [(code, False) for code in ("54000", "55000", "42P01", "23505")],
)
def test_which_refusals_pass(code: str, passing: bool) -> None:
    error = psycopg.errors.lookup(code)("simulated")
    assert pool.passes(error) is passing
    assert isinstance(pool.translate(error), UnavailableError) is passing


def test_a_lost_connection_passes_and_a_closed_pool_does_not() -> None:
    assert pool.passes(psycopg.OperationalError("the connection is lost"))
    assert pool.passes(psycopg_pool.PoolTimeout())
    assert not pool.passes(psycopg_pool.PoolClosed())
    assert not pool.passes(psycopg.ProgrammingError("no SQLSTATE, and our mistake"))
