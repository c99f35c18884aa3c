"""Brings the ClickHouse schema up to date, by the rules of `backbeat.migrate` as far as ClickHouse has them.

It has no transactions and no locks, so each statement of a file must be one that can be repeated (IF NOT
EXISTS): a crash in mid file, or a second runner, then does no harm. A file is recorded once all of it ran.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from backbeat.clickhouse import database_of, session
from backbeat.migrate import MigrationState
from backbeat.migration_files import Migration, load
from shared.errors import SchemaError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_PIECE = re.compile(r"'(?:[^'\\]|\\.)*'|`[^`]*`|\"[^\"]*\"|--[^\n]*|/\*.*?\*/|;|[^;'`\"/-]+|.", re.DOTALL)
_LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version String, name String, checksum String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree ORDER BY version
"""
_REFUSED = {
    "edited": ("was edited after it was applied", "Restore the file and put the change into a new one"),
    "missing": ("is applied, but its file is gone", "Restore the file"),
    "newer": ("is applied, and newer than this program", "Upgrade this installation of Backbeat"),
}


def clickhouse_up(url: str, directory: Path | None = None) -> list[str]:
    """Create the URL's database if need be, apply what is pending, return the labels applied.

    Raises SchemaError naming the file that failed or that the ledger contradicts, UnavailableError, AuthError.
    """
    from clickhouse_connect.driver.exceptions import Error

    migrations = load("clickhouse", directory)
    with session(url, "default") as client:
        client.command(f"CREATE DATABASE IF NOT EXISTS `{database_of(url)}`")
    with session(url) as client:
        client.command(_LEDGER)
        states = {state.version: state for state in _states(client, migrations)}
        for state in states.values():
            if state.state in _REFUSED:
                what, fix = _REFUSED[state.state]
                raise SchemaError(f"ClickHouse migration {state.version}_{state.name} {what}", fix=fix)
        pending = [migration for migration in migrations if states[migration.version].state == "pending"]
        for migration in pending:
            try:
                _apply(client, migration)
            except Error as error:
                what = f"ClickHouse migration {migration.label} failed: {str(error).partition(chr(10))[0]}"
                raise SchemaError(what, fix="Correct it and run again; what already ran does no harm") from error
        return [migration.label for migration in pending]


def clickhouse_status(url: str, directory: Path | None = None) -> list[MigrationState]:
    """Every version in the files or the database, oldest first: applied, pending, edited, missing or newer."""
    migrations = load("clickhouse", directory)
    with session(url, "default") as client:
        found = client.command("EXISTS TABLE {d:Identifier}.schema_migrations", parameters={"d": database_of(url)})
    if not found:
        return [MigrationState(each.version, each.name, "pending", None) for each in migrations]
    with session(url) as client:
        return _states(client, migrations)


def statements(sql: str) -> Iterator[str]:
    """The statements of a file; semicolons inside strings, quoted names and comments do not end one."""
    text, bare = "", ""
    for piece in [*_PIECE.findall(sql), ";"]:
        if piece == ";":
            if bare.strip():
                yield text.strip()
            text, bare = "", ""
            continue
        text += piece
        bare += "" if piece.startswith(("--", "/*")) else piece


def _apply(client: "Client", migration: Migration) -> None:
    for statement in statements(migration.sql):
        client.command(statement)
    row = [migration.version, migration.name, migration.checksum]
    client.insert("schema_migrations", [row], column_names=["version", "name", "checksum"])


def _states(client: "Client", migrations: list[Migration]) -> list[MigrationState]:
    files = {migration.version: migration for migration in migrations}
    ledger = client.query("SELECT version, name, checksum, applied_at FROM schema_migrations FINAL")
    rows: dict[str, tuple[str, str, datetime]] = {version: (*rest,) for version, *rest in ledger.result_rows}
    return [_state(version, files, rows.get(version)) for version in sorted(files.keys() | rows.keys())]


def _state(version: str, files: dict[str, Migration], row: tuple[str, str, datetime] | None) -> MigrationState:
    file = files.get(version)
    if row is None:
        return MigrationState(version, files[version].name, "pending", None)
    name, checksum, applied_at = row
    if file is None:
        return MigrationState(version, name, "newer" if version > max(files) else "missing", applied_at)
    return MigrationState(version, file.name, "applied" if checksum == file.checksum else "edited", applied_at)
