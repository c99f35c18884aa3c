"""The migration runner: what it applies, and what it refuses."""

import threading
from pathlib import Path

import psycopg
import pytest

from backbeat import migrate
from backbeat.migration_files import load
from shared.errors import SchemaError, UnavailableError
from tests.support import every_postgres
from tests.support.databases import Database
from tests.support.migrations import Directory


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory.under(tmp_path)


@every_postgres
def test_from_empty_to_head(empty_database: Database) -> None:
    labels = [migration.label for migration in load("postgres")]
    assert labels[0] == "0001_base"
    assert migrate.postgres_up(empty_database.owner_url) == labels
    assert migrate.postgres_up(empty_database.owner_url) == []
    assert migrate.postgres_verify(empty_database.owner_url) == labels
    states = migrate.postgres_status(empty_database.owner_url)
    assert [f"{state.version}_{state.name}" for state in states] == labels
    assert all(state.state == "applied" and state.applied_at for state in states)


def test_a_dry_run_applies_nothing(empty_database: Database, directory: Directory) -> None:
    directory.add("0002_more", "CREATE TABLE backbeat.more (id int);")
    assert migrate.postgres_up(empty_database.owner_url, directory.path, dry_run=True) == ["0001_base", "0002_more"]
    assert migrate.pending_sql(empty_database.owner_url, directory.path).endswith(
        "-- 0002_more\n-- migrate:up\nCREATE TABLE backbeat.more (id int);\n"
    )
    assert empty_database.value("SELECT to_regnamespace('backbeat')") is None
    assert {state.state for state in migrate.postgres_status(empty_database.owner_url, directory.path)} == {"pending"}


def test_a_broken_file_leaves_nothing_and_is_named(empty_database: Database, directory: Directory) -> None:
    directory.add("0002_broken", "CREATE TABLE backbeat.half (id int);\nSELECT 1 / 0;")
    with pytest.raises(SchemaError, match=r"0002_broken failed: division by zero\. Nothing of it is applied"):
        migrate.postgres_up(empty_database.owner_url, directory.path)
    assert empty_database.value("SELECT to_regclass('backbeat.half')") is None
    assert empty_database.sql("SELECT version FROM backbeat.schema_migrations") == [("0001",)]


def test_a_file_has_limits_and_no_search_path(empty_database: Database, directory: Directory) -> None:
    names = "'lock_timeout', 'statement_timeout', 'search_path'"
    directory.add(
        "0002_settings", f"CREATE TABLE backbeat.settings AS SELECT current_setting(n) FROM unnest(ARRAY[{names}]) n;"
    )
    migrate.postgres_up(empty_database.owner_url, directory.path)
    assert empty_database.sql("TABLE backbeat.settings") == [("3s",), ("1min",), ('""',)]


def test_an_edited_file_is_refused_by_name(database: Database, tmp_path: Path) -> None:
    copies = Directory.under(tmp_path)
    for migration in load("postgres"):
        (copies.path / f"{migration.label}.sql").write_text(migration.sql.replace("\n", "\r\n"), newline="")
    assert migrate.postgres_up(database.owner_url, copies.path) == [], "line ends do not count"
    base = copies.path / "0001_base.sql"
    base.write_text(base.read_text() + "-- edited\n")
    with pytest.raises(SchemaError, match="0001_base was edited after it was applied"):
        migrate.postgres_up(database.owner_url, copies.path)
    assert migrate.postgres_status(database.owner_url, copies.path)[0].state == "edited"


def test_a_file_before_an_applied_one_is_refused(empty_database: Database, directory: Directory) -> None:
    directory.add("0003_third", "SELECT 1;")
    migrate.postgres_up(empty_database.owner_url, directory.path)
    directory.add("0002_late", "SELECT 1;")
    with pytest.raises(SchemaError, match=r"0002_late comes before one that is already applied.*next free number"):
        migrate.postgres_up(empty_database.owner_url, directory.path)


def test_a_file_that_is_gone_is_refused(empty_database: Database, directory: Directory) -> None:
    gone = directory.add("0002_gone", "SELECT 1;")
    directory.add("0003_stays", "SELECT 1;")
    migrate.postgres_up(empty_database.owner_url, directory.path)
    gone.unlink()
    with pytest.raises(SchemaError, match="0002_gone is applied, but its file is gone"):
        migrate.postgres_up(empty_database.owner_url, directory.path)


def test_a_schema_newer_than_the_program_is_refused(empty_database: Database, directory: Directory) -> None:
    newer = directory.add("0002_newer", "SELECT 1;")
    migrate.postgres_up(empty_database.owner_url, directory.path)
    newer.unlink()
    for refuses in (migrate.postgres_up, migrate.postgres_verify, migrate.pending_sql):
        with pytest.raises(SchemaError, match=r"0002_newer is applied, and newer than this program\. Upgrade"):
            refuses(empty_database.owner_url, directory.path)
    assert migrate.postgres_status(empty_database.owner_url, directory.path)[1].state == "newer"


def test_transaction_false_runs_outside_a_transaction(empty_database: Database, directory: Directory) -> None:
    directory.add("0002_table", "CREATE TABLE backbeat.wide (id int);")
    directory.add("0003_index", "CREATE INDEX CONCURRENTLY wide_id ON backbeat.wide (id);", alone=True)
    assert migrate.postgres_up(empty_database.owner_url, directory.path)[-1] == "0003_index"
    assert empty_database.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'backbeat.wide_id'::regclass")
    assert empty_database.value("SELECT applied_at IS NOT NULL FROM backbeat.schema_migrations WHERE version = '0003'")


def test_transaction_false_takes_one_statement(empty_database: Database, directory: Directory) -> None:
    directory.add("0002_two", "CREATE TABLE backbeat.one (id int); CREATE TABLE backbeat.two (id int);", alone=True)
    with pytest.raises(SchemaError, match="0002_two is not one statement"):
        migrate.postgres_up(empty_database.owner_url, directory.path)
    assert empty_database.value("SELECT to_regclass('backbeat.one')") is None
    assert empty_database.value("SELECT count(*) FROM backbeat.schema_migrations") == 1


def test_a_lock_that_is_taken_is_tried_again(
    empty_database: Database, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LIMITS", "SET LOCAL lock_timeout = '50ms'")
    directory.add("0002_table", "CREATE TABLE backbeat.busy (id int);")
    migrate.postgres_up(empty_database.owner_url, directory.path)
    directory.add("0003_column", "ALTER TABLE backbeat.busy ADD COLUMN more int;")
    refused = threading.Event()

    def log(line: str) -> None:
        if "got no lock, attempt 2" in line:
            refused.set()

    with psycopg.connect(empty_database.owner_url) as holder:
        holder.execute("LOCK TABLE backbeat.busy IN ACCESS SHARE MODE")
        results: list[list[str]] = []
        runner = threading.Thread(
            target=lambda: results.append(migrate.postgres_up(empty_database.owner_url, directory.path, log=log))
        )
        runner.start()
        assert refused.wait(10)
        holder.rollback()
        runner.join(10)
    assert results == [["0003_column"]]


def test_a_lock_that_stays_taken_is_given_up(
    empty_database: Database, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LIMITS", "SET LOCAL lock_timeout = '20ms'")
    monkeypatch.setattr(migrate, "ATTEMPTS", 2)
    migrate.postgres_up(empty_database.owner_url, directory.path)
    directory.add("0002_column", "ALTER TABLE backbeat.schema_migrations ADD COLUMN more int;")
    with psycopg.connect(empty_database.owner_url) as holder:
        holder.execute("LOCK TABLE backbeat.schema_migrations IN ACCESS SHARE MODE")
        with pytest.raises(UnavailableError, match=r"0002_column got no lock in 2 attempts\. Nothing of it is applied"):
            migrate.postgres_up(empty_database.owner_url, directory.path)


def test_verify_finds_what_was_changed_by_hand(empty_database: Database, directory: Directory) -> None:
    directory.add("0002_table", "CREATE TABLE backbeat.proved (id int);")
    directory.verify("0002", "SELECT id FROM backbeat.proved;")
    with pytest.raises(SchemaError, match="0001_base is not applied"):
        migrate.postgres_verify(empty_database.owner_url, directory.path)
    migrate.postgres_up(empty_database.owner_url, directory.path)
    assert migrate.postgres_verify(empty_database.owner_url, directory.path) == ["0002_table"]
    empty_database.sql("DROP TABLE backbeat.proved")
    with pytest.raises(SchemaError, match=r'0002_table is not in effect: relation "backbeat.proved" does not exist'):
        migrate.postgres_verify(empty_database.owner_url, directory.path)


def test_verify_writes_nothing(empty_database: Database, directory: Directory) -> None:
    directory.verify("0001", "CREATE TABLE backbeat.sneaky (id int);")
    migrate.postgres_up(empty_database.owner_url, directory.path)
    with pytest.raises(SchemaError, match="read-only transaction"):
        migrate.postgres_verify(empty_database.owner_url, directory.path)


def test_a_worker_reads_the_status_and_applies_nothing(database: Database, tmp_path: Path) -> None:
    states = migrate.postgres_status(database.direct_worker_url)
    assert {state.state for state in states} == {"applied"}
    copies = Directory.under(tmp_path)
    for migration in load("postgres"):
        (copies.path / f"{migration.label}.sql").write_text(migration.sql)
    copies.add("9999_more", "CREATE TABLE backbeat.more (id int);")
    with pytest.raises(SchemaError, match="9999_more failed: permission denied for schema backbeat"):
        migrate.postgres_up(database.direct_worker_url, copies.path)


def test_an_unreachable_server_is_temporary(database: Database) -> None:
    nowhere = database.owner_url.replace(f":{database.server.port}/", ":1/")
    with pytest.raises(UnavailableError, match=r"Postgres failed: .*127\.0\.0\.1"):
        migrate.postgres_up(nowhere)
