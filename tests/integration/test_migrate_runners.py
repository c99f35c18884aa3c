"""Runners that race and runners that are killed: real processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from backbeat import migrate
from shared.errors import SchemaError, UnavailableError
from tests.support.databases import Database
from tests.support.migrations import Directory, Runner, statement_runs
from tests.support.signals import until

_TABLE = "CREATE TABLE backbeat.wide (id int);"
_INDEX = "CREATE INDEX CONCURRENTLY wide_id ON backbeat.wide (id);"
_FINISHED = """
    SELECT count(*) = 0 FROM pg_stat_activity
    WHERE application_name = 'backbeat migrate' AND datname = current_database()"""


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory.under(tmp_path)


@contextmanager
def _holding(database: Database, statement: bytes) -> Iterator[psycopg.Connection]:
    """A session in a transaction that holds what this takes, until rolled back."""
    with psycopg.connect(database.owner_url) as connection:
        connection.execute(statement)
        yield connection


def test_two_runners_at_once_apply_each_file_once(
    empty_database: Database, directory: Directory, tmp_path: Path
) -> None:
    directory.add("0002_table", _TABLE)
    with _holding(empty_database, f"SELECT pg_advisory_lock({migrate.RUNNER_LOCK})".encode()) as starter:
        runners = [Runner(empty_database, directory, tmp_path / f"runner-{n}.log") for n in (1, 2)]
        for runner in runners:
            runner.says("waiting for another runner")
        starter.close()
        assert sorted(runner.result() for runner in runners) == ["['0001_base', '0002_table']", "[]"]
    assert empty_database.value("SELECT count(*) FROM backbeat.schema_migrations") == 2


def test_a_waiting_runner_does_not_block_a_concurrent_index(
    empty_database: Database, directory: Directory, tmp_path: Path
) -> None:
    directory.add("0002_table", _TABLE)
    migrate.postgres_up(empty_database.owner_url, directory.path)
    directory.add("0003_index", _INDEX, alone=True)
    with _holding(empty_database, b"LOCK TABLE backbeat.wide IN ROW EXCLUSIVE MODE") as holder:
        first = Runner(empty_database, directory, tmp_path / "first.log")
        statement_runs(empty_database, "CONCURRENTLY")
        second = Runner(empty_database, directory, tmp_path / "second.log")
        second.says("waiting for another runner")
        holder.rollback()
        assert (first.result(), second.result()) == ("['0003_index']", "[]")


def test_a_runner_gives_up_waiting(empty_database: Database, directory: Directory) -> None:
    with (
        _holding(empty_database, f"SELECT pg_advisory_lock({migrate.RUNNER_LOCK})".encode()),
        pytest.raises(UnavailableError, match=r"another runner has been migrating for 0\.1 s"),
    ):
        migrate.postgres_up(empty_database.owner_url, directory.path, lock_wait=0.1)


def test_a_runner_killed_in_mid_file_leaves_nothing(
    empty_database: Database, directory: Directory, tmp_path: Path
) -> None:
    directory.add("0002_slow", f"{_TABLE} SELECT pg_sleep(50);")
    runner = Runner(empty_database, directory, tmp_path / "runner.log")
    statement_runs(empty_database, "pg_sleep")
    runner.kill()
    until(lambda: empty_database.value(_FINISHED), what="the server notices that the runner is gone")
    assert empty_database.value("SELECT to_regclass('backbeat.wide')") is None
    directory.add("0002_slow", _TABLE)
    assert migrate.postgres_up(empty_database.owner_url, directory.path) == ["0002_slow"]


def test_a_runner_killed_before_its_record_leaves_nothing(
    empty_database: Database, directory: Directory, tmp_path: Path
) -> None:
    migrate.postgres_up(empty_database.owner_url, directory.path)
    directory.add("0002_table", _TABLE)
    with _holding(empty_database, b"LOCK TABLE backbeat.schema_migrations IN SHARE MODE"):
        runner = Runner(empty_database, directory, tmp_path / "runner.log")
        statement_runs(empty_database, "INSERT INTO backbeat.schema_migrations")
        runner.kill()
        until(lambda: empty_database.value(_FINISHED), what="the server notices that the runner is gone")
    assert migrate.postgres_up(empty_database.owner_url, directory.path) == ["0002_table"]


def test_a_runner_killed_outside_a_transaction_says_what_to_do(
    empty_database: Database, directory: Directory, tmp_path: Path
) -> None:
    directory.add("0002_table", _TABLE)
    migrate.postgres_up(empty_database.owner_url, directory.path)
    directory.add("0003_index", _INDEX, alone=True)
    with _holding(empty_database, b"LOCK TABLE backbeat.wide IN ROW EXCLUSIVE MODE"):
        runner = Runner(empty_database, directory, tmp_path / "runner.log")
        statement_runs(empty_database, "CONCURRENTLY")
        runner.kill()
        until(lambda: empty_database.value(_FINISHED), what="the server notices that the runner is gone")
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('backbeat.wide_id')"
    assert empty_database.sql(valid) == [(False,)], "half made, and only visible in the catalogue"
    assert migrate.postgres_status(empty_database.owner_url, directory.path)[-1].state == "unfinished"
    with pytest.raises(SchemaError, match=r"0003_index was begun, .* DROP INDEX CONCURRENTLY.*delete its row"):
        migrate.postgres_up(empty_database.owner_url, directory.path)
    with psycopg.connect(empty_database.owner_url, autocommit=True) as person:
        person.execute("DROP INDEX CONCURRENTLY backbeat.wide_id")
        person.execute("DELETE FROM backbeat.schema_migrations WHERE version = '0003'")
    assert migrate.postgres_up(empty_database.owner_url, directory.path) == ["0003_index"]
    assert empty_database.sql(valid) == [(True,)]
