"""The way to Postgres: a small pool of autocommit connections without session state.

Each call is one statement and so one short transaction; PgBouncer in transaction mode may stand between.
What may pass is tried again for a bounded time (a lost connection, a restart, a full disk, a deadlock): what changes a
row names its lease or key, so telling it twice changes it once, and a claim told twice leaves the first one's rows to
the reaper. Whatever else Postgres refuses, it would refuse again.
"""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout
from psycopg_pool.base import AttemptWithBackoff

from shared import clock
from shared.errors import (
    AuthError,
    BackbeatError,
    ConfigError,
    InputError,
    NotFoundError,
    SchemaError,
    UnavailableError,
)

PATIENCE = 15.0  # seconds a statement is repeated while Postgres restarts
CONNECT_TIMEOUT = 5.0  # seconds
PASSING = ("08", "40", "53", "57")  # SQLSTATE classes: connection, rollback, resources, operator intervention
AWAY = "Check database_url and that it runs"
MINIMUM_SCHEMA = "0015"

# Its own 1, 2, 4 and 8 s would let a pool sleep long after Postgres is back.
AttemptWithBackoff.INITIAL_DELAY, AttemptWithBackoff.DELAY_BACKOFF = 0.5, 1.0

type_of_pool = AsyncConnectionPool[psycopg.AsyncConnection[DictRow]]


class Database:
    """Runs named queries on a pool and speaks of failures in Backbeat's own errors."""

    def __init__(self, pool: type_of_pool, patience: float = PATIENCE) -> None:
        self.pool = pool
        self._patience = patience

    async def rows(self, query: LiteralString, params: Mapping[str, Any] | None = None) -> list[DictRow]:
        """Run one statement and return its rows.

        Raises UnavailableError when Postgres stays away, SchemaError when the schema is missing or older
        than this program, NotFoundError and InputError as the schema's functions say.
        """
        deadline = clock.monotonic() + self._patience
        while True:
            try:
                async with self.pool.connection(timeout=CONNECT_TIMEOUT) as connection:
                    return await (await connection.execute(query, params)).fetchall()
            except psycopg.Error as error:
                if not passes(error) or clock.monotonic() >= deadline:
                    raise translate(error) from error
                await clock.sleep(random.uniform(0.05, 0.3))  # noqa: S311

    async def row(self, query: LiteralString, params: Mapping[str, Any] | None = None) -> DictRow:
        """Run a statement that returns exactly one row."""
        (row,) = await self.rows(query, params)
        return row


@asynccontextmanager
async def connect(url: str, max_size: int = 4, patience: float = PATIENCE, away: str = AWAY) -> AsyncIterator[Database]:
    """A database for the length of a block. Raises UnavailableError, advising `away`, when Postgres does not answer."""
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # Without its text, which repeats the password.
        fix = "postgresql://user:password@host/database"
        raise ConfigError("database_url is not a Postgres URL", fix=fix) from None
    pool = open_pool(url, max_size)
    try:
        await pool.open(wait=True, timeout=CONNECT_TIMEOUT)
    except PoolTimeout as error:
        await pool.close()
        raise await _reason(url, away) or translate(error, away) from error
    try:
        yield Database(pool, patience)
    finally:
        await pool.close()


async def _reason(url: str, away: str) -> BackbeatError | None:
    """Why nobody gets a connection: the pool only knows that it took too long."""
    try:
        await (await psycopg.AsyncConnection.connect(url, connect_timeout=int(CONNECT_TIMEOUT))).close()
    except psycopg.OperationalError as error:
        text = str(error)
        if "authentication failed" in text or ('role "' in text and "does not exist" in text):
            return AuthError("Postgres refuses this user or password", fix="Correct database_url")
        if "database" in text and "does not exist" in text:
            return ConfigError(text.strip().splitlines()[-1], fix="Create it, or correct database_url")
        return translate(error, away)
    return None


def open_pool(url: str, max_size: int = 4) -> type_of_pool:
    """A pool that is not open yet; `async with` opens and closes it."""
    return AsyncConnectionPool(
        url,
        min_size=1,
        max_size=max_size,
        open=False,
        timeout=CONNECT_TIMEOUT,
        reconnect_timeout=PATIENCE,
        kwargs={"autocommit": True, "prepare_threshold": None, "row_factory": dict_row, "connect_timeout": 5},
    )


async def schema_version(db: Database) -> str:
    """The highest migration that is in place, "" when there is none."""
    sql: LiteralString = "SELECT max(version) AS it FROM backbeat.schema_migrations WHERE applied_at IS NOT NULL"
    try:
        return (await db.row(sql))["it"] or ""
    except SchemaError:
        return ""


def passes(error: psycopg.Error) -> bool:
    """Whether the same statement may succeed in a moment. A lost connection has no SQLSTATE."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError) and not isinstance(error, PoolClosed)
    return error.sqlstate.startswith(PASSING)


def translate(error: Exception, away: str = AWAY) -> BackbeatError:
    """The error of ours that says what psycopg's means to a person."""
    diagnostic = getattr(error, "diag", None)
    said = (diagnostic and diagnostic.message_primary) or (str(error).strip() or type(error).__name__).splitlines()[0]
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in said)
    hint = diagnostic and diagnostic.message_hint
    match getattr(error, "sqlstate", None):
        case "BB001":
            return NotFoundError(text, fix=hint or "Check the name; a worker registers what it has loaded as it starts")
        case "22P05" | "22003" | "22008":
            return InputError(f"Postgres cannot store it: {text}", fix="Remove NUL, lone surrogates and huge numbers")
        case "BB002":
            return InputError(text, fix="Store the large part elsewhere and enqueue a reference")
        case "BB003":
            return InputError(text, fix=hint or "Correct it")
        case "3F000" | "42P01" | "42883" | "42703":
            return SchemaError(f"the schema does not fit this program: {text}", fix="Run `backbeat migrate up`")
        case "42501":
            return SchemaError(f"this login may not do that: {text}", fix="Grant it the role backbeat_worker")
    if isinstance(error, psycopg.Error) and passes(error):
        return UnavailableError(f"Postgres does not answer: {text}", fix=away)
    return BackbeatError(f"Postgres refused: {text}")
