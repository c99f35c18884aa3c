"""Brings the Postgres schema up to date: plain SQL files, in order, each exactly once, forward only.

A file runs in one transaction together with its row in `backbeat.schema_migrations`, so a crash leaves
nothing of it. A file that begins with `-- migrate:up transaction:false` is a single statement (CREATE INDEX
CONCURRENTLY), without time limits; its row is written first, with no `applied_at`, so that a crash inside
it is seen and named. All functions need a connection that keeps its session: the direct URL, not a transaction pooler.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable
from psycopg.pq import ExecStatus

from backbeat.migration_files import Migration, load
from shared import clock
from shared.errors import SchemaError, UnavailableError

ATTEMPTS = 10  # at one file, while it cannot get a lock
LIMITS = "SET LOCAL lock_timeout = '3s'; SET LOCAL statement_timeout = '60s'"
SESSION = (
    "SET client_connection_check_interval = '1s'; SET search_path = ''; SET lock_timeout = 0; SET statement_timeout = 0"
)
RUNNER_LOCK = int.from_bytes(b"backbeat")

Connection = psycopg.Connection[tuple[Any, ...]]
Log = Callable[[str], object]
_log = logging.getLogger(__name__).info
_FINISHED = "INSERT INTO backbeat.schema_migrations VALUES (%s, %s, %s, backbeat.now())"
_BEGUN = "INSERT INTO backbeat.schema_migrations VALUES (%s, %s, %s, NULL)"
_ENDED = "UPDATE backbeat.schema_migrations SET applied_at = backbeat.now() WHERE version = %s"
_UNDO = (
    "Undo what it left (an invalid index: DROP INDEX CONCURRENTLY),"
    " delete its row from backbeat.schema_migrations, and run again"
)
_REFUSED = {
    "edited": ("was edited after it was applied", "Restore the file and put the change into a new one"),
    "missing": ("is applied, but its file is gone", "Restore the file"),
    "newer": ("is applied, and newer than this program", "Upgrade this installation of Backbeat"),
    "out of order": ("comes before one that is already applied", "Give its file the next free number"),
    "unfinished": ("was begun, and nobody recorded its end", _UNDO),
}


class MigrationState(NamedTuple):
    """One line of the status. `state` is applied, pending, edited, missing, newer, out of order or unfinished."""

    version: str
    name: str
    state: str
    applied_at: datetime | None


def postgres_up(
    dsn: str, directory: Path | None = None, *, dry_run: bool = False, log: Log = _log, lock_wait: float = 120.0
) -> list[str]:
    """Apply what is pending; return the labels applied, or with `dry_run` those that would be.

    Two runners at once both succeed; one waits up to `lock_wait` seconds for the other. Raises SchemaError
    naming the file that failed or that the ledger contradicts, UnavailableError where trying again helps.
    """
    migrations = load("postgres", directory)
    with _session(dsn) as conn:
        if not dry_run:
            _take_runner_lock(conn, lock_wait, log)
        pending = _pending(conn, migrations)
        for migration in [] if dry_run else pending:
            log(f"applying {migration.label}")
            (_apply_alone if migration.alone else _apply)(conn, migration, log)
        return [migration.label for migration in pending]


def postgres_status(dsn: str, directory: Path | None = None) -> list[MigrationState]:
    """Every version in the files or the database, oldest first. A worker's login is enough."""
    migrations = load("postgres", directory)
    with _session(dsn) as conn:
        return _states(conn, migrations)


def postgres_verify(dsn: str, directory: Path | None = None) -> list[str]:
    """Raise SchemaError unless all is applied, unedited and passes its `verify/NNNN.sql`; return what has one."""
    migrations = load("postgres", directory)
    with _session(dsn) as conn:
        if pending := _pending(conn, migrations):
            raise SchemaError(f"migration {pending[0].label} is not applied", fix="Run `backbeat migrate up`")
        checked = [migration for migration in migrations if migration.verify.is_file()]
        for migration in checked:
            fix = "Restore what was changed by hand"
            with _blaming(conn, migration, "is not in effect", fix), conn.transaction(force_rollback=True):
                conn.execute("SET TRANSACTION READ ONLY")
                conn.execute(migration.verify.read_bytes())
    return [migration.label for migration in checked]


def pending_sql(dsn: str, directory: Path | None = None) -> str:
    """The text of all pending files, in order, each under a line that names it."""
    migrations = load("postgres", directory)
    with _session(dsn) as conn:
        return "\n".join(f"-- {each.label}\n{each.sql}" for each in _pending(conn, migrations))


@contextmanager
def _session(dsn: str) -> Iterator[Connection]:
    try:
        with psycopg.connect(dsn, autocommit=True, application_name="backbeat migrate", connect_timeout=10) as conn:
            # The server then notices a killed runner inside a long statement, and gives its locks back.
            conn.execute(SESSION)
            yield conn
    except psycopg.OperationalError as error:
        raise UnavailableError(f"Postgres failed: {_line(error)}", fix="Run it again when it answers") from error


@contextmanager
def _blaming(conn: Connection, migration: Migration, what: str, fix: str) -> Iterator[None]:
    try:
        yield
    except (LockNotAvailable, DeadlockDetected):
        raise
    except psycopg.Error as error:
        if conn.closed:
            raise
        raise SchemaError(f"migration {migration.label} {what}: {_line(error)}", fix=fix) from error


def _line(error: psycopg.Error) -> str:
    at = f" (character {error.diag.statement_position})" if error.diag.statement_position else ""
    return (error.diag.message_primary or str(error)).strip().partition("\n")[0] + at


def _take_runner_lock(conn: Connection, patience: float, log: Log) -> None:
    """Poll: a session blocked in pg_advisory_lock holds a snapshot, which CREATE INDEX CONCURRENTLY waits for."""
    deadline = clock.monotonic() + patience
    while not conn.execute("SELECT 1 WHERE pg_try_advisory_lock(%s)", [RUNNER_LOCK]).fetchone():
        if clock.monotonic() > deadline:
            fix = "Run it again when that one has ended"
            raise UnavailableError(f"another runner has been migrating for {patience:g} s", fix=fix)
        log("waiting for another runner")
        time.sleep(random.uniform(0.1, 0.4))  # noqa: S311


def _states(conn: Connection, migrations: list[Migration]) -> list[MigrationState]:
    files, rows = {migration.version: migration for migration in migrations}, {}
    if conn.execute("SELECT 1 WHERE to_regclass('backbeat.schema_migrations') IS NOT NULL").fetchone():
        ledger = conn.execute("SELECT version, name, checksum, applied_at FROM backbeat.schema_migrations")
        rows = {version: (name, checksum, applied_at) for version, name, checksum, applied_at in ledger}
    found = []
    for version in sorted(files.keys() | rows.keys()):
        file, (name, checksum, applied_at) = files.get(version), rows.get(version, (None, None, None))
        if file is None:
            state = "newer" if version > max(files) else "missing"
        elif version not in rows:
            state = "pending" if version > max(rows, default="") else "out of order"
        elif checksum != file.checksum:
            state = "edited"
        else:
            state = "applied" if applied_at else "unfinished"
        found.append(MigrationState(version, file.name if file else name, state, applied_at))
    return found


def _pending(conn: Connection, migrations: list[Migration]) -> list[Migration]:
    states = _states(conn, migrations)
    for version, name, state, _ in states:
        if state in _REFUSED:
            what, fix = _REFUSED[state]
            raise SchemaError(f"migration {version}_{name} {what}", fix=fix)
    return [migration for migration, (_, _, state, _) in zip(migrations, states, strict=True) if state == "pending"]


def _apply(conn: Connection, migration: Migration, log: Log) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _blaming(conn, migration, "failed", "Nothing of it is applied"), conn.transaction():
                conn.execute(LIMITS)
                conn.execute(migration.sql.encode())
                conn.execute(_FINISHED, (migration.version, migration.name, migration.checksum))
        except (LockNotAvailable, DeadlockDetected) as error:
            log(f"{migration.label} got no lock, attempt {attempt} of {ATTEMPTS}: {_line(error)}")
            time.sleep(random.uniform(0.1, 0.2) * attempt)  # noqa: S311
        else:
            return
    fix = "Nothing of it is applied. End the session that holds the lock (pg_locks) and run again"
    raise UnavailableError(f"migration {migration.label} got no lock in {ATTEMPTS} attempts", fix=fix)


def _apply_alone(conn: Connection, migration: Migration, _: Log) -> None:
    parsed = conn.pgconn.prepare(b"", migration.sql.encode())
    if parsed.status != ExecStatus.COMMAND_OK:
        raise SchemaError(f"migration {migration.label} is not one statement: {parsed.get_error_message().strip()}")
    conn.execute(_BEGUN, (migration.version, migration.name, migration.checksum))
    with _blaming(conn, migration, "failed", _UNDO):
        conn.execute(migration.sql.encode())
    conn.execute(_ENDED, [migration.version])
