"""Facts as Parquet files, for DuckDB, BigQuery and whoever reads columns: each row once, money as DECIMAL."""

import contextlib
import errno
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from backbeat.clickhouse import session
from shared.errors import BackbeatError, InputError, UnavailableError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

SPANS = "spans"  # as many rows as all others together: only on demand
_TABLES = """
SELECT substring(table, 3) FROM system.columns
WHERE database = currentDatabase() AND startsWith(table, 'v_') AND name = 'Timestamp'
ORDER BY table
"""
# Microseconds, which every reader of Parquet knows; what a view sorts may be more than memory.
_ROWS = """
SELECT * REPLACE (toDateTime64(Timestamp, 6, 'UTC') AS Timestamp) FROM {view:Identifier} AS v
WHERE v.Timestamp >= {since:DateTime64(6, 'UTC')}
SETTINGS max_bytes_before_external_sort = 1000000000, max_result_bytes = 0, max_execution_time = 3600,
    output_format_parquet_string_as_string = 1
FORMAT Parquet
"""


class Exported(NamedTuple):
    """One file that was written."""

    table: str
    file: Path
    rows: int | None
    bytes: int


def export(url: str, target: Path, tables: Sequence[str] = (), since: datetime | None = None) -> list[Exported]:
    """Write each table to TARGET/TABLE.parquet, or the one table to TARGET where that ends in `.parquet`.

    A file appears whole or not at all. Raises InputError for an unknown table or a place that cannot be
    written, and what `session` raises.
    """
    from clickhouse_connect.driver.exceptions import Error

    from backbeat.analyst.ask import refused

    single = target.suffix == ".parquet"
    if single and len(tables) != 1:
        raise InputError(f"{target} is one file, and holds one table", fix="Add --table NAME, or name a directory")
    try:
        with session(url) as client:
            known = [name for (name,) in client.query(_TABLES).result_rows]
            if unknown := [name for name in tables if name not in known]:
                raise InputError(f"there is no table {unknown[0]!r} to export", fix=f"Tables: {', '.join(known)}")
            chosen = tables or [name for name in known if name != SPANS]
            start = since or datetime(1970, 1, 1, tzinfo=UTC)
            return [_write(client, name, target if single else target / f"{name}.parquet", start) for name in chosen]
    except Error as error:
        raise refused(error) from error


def _write(client: "Client", table: str, file: Path, since: datetime) -> Exported:
    parameters = {"view": f"v_{table}", "since": since}
    stream: Any = client.raw_stream(_ROWS, parameters)
    try:
        size = _whole(file, iter(lambda: stream.read(2**20), b""))
    except OSError as error:
        raise _not_written(file, error) from error
    finally:
        stream.close()
    return Exported(table, file, _rows(file), size)


def _whole(file: Path, chunks: Iterable[bytes]) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as output:
            for chunk in chunks:
                output.write(chunk)
            output.flush()
            os.fsync(output.fileno())
            size = output.tell()
        part.replace(file)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return size


def _rows(file: Path) -> int | None:
    """What the file itself says it holds; unknown where pyarrow is not installed."""
    try:
        from pyarrow import parquet  # type: ignore[import-untyped]  # ships no stubs
    except ImportError:
        return None
    return int(parquet.read_metadata(file).num_rows)


def _not_written(file: Path, error: OSError) -> BackbeatError:
    if error.errno == errno.ENOSPC:
        return UnavailableError(f"{file} cannot be written: the disk is full", fix="Make room, or name another place")
    return InputError(f"{file} cannot be written: {error.strerror}", fix="Name another place")
