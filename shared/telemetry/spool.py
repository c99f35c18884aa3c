"""The spool: a directory of frozen batches of `otel_traces` rows, each inserted under its file's name as token.

A file's first line is a header, `{"schema": 1, "rows": n, "sha256": "of the rest"}`; the rest is JSONEachRow. A
retried insert is recognised only while it has the same rows, so nothing changes a file once it has its name.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from shared import clock

SCHEMA = 1
MAX_SPANS = 5_000  # a file
MAX_BYTES = 8 * 2**20  # a file
SUFFIX, UNFINISHED = ".spool", ".tmp"
QUARANTINE = "quarantine"


class Batch(NamedTuple):
    """One file's content: its token, how many rows, and the rows."""

    token: str
    rows: int
    body: bytes


class SpoolStatus(NamedTuple):
    """How far ClickHouse is behind. `oldest_seconds` is None for an empty spool."""

    depth: int
    oldest_seconds: float | None
    quarantined: int


def batches(lines: list[bytes]) -> Iterator[list[bytes]]:
    """Cut rows into batches of at most MAX_SPANS and MAX_BYTES, in order."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and (len(batch) == MAX_SPANS or size + len(line) > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    if batch:
        yield batch


def write_batch(directory: Path, lines: list[bytes]) -> Path:
    """Write one file that survives a power cut once this returns. Raises OSError, leaving nothing behind."""
    body = b"".join(lines)
    header = {"schema": SCHEMA, "rows": len(lines), "sha256": hashlib.sha256(body).hexdigest()}
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    final = directory / f"{clock.wall_ns() // 1_000_000:012x}{secrets.token_hex(10)}{SUFFIX}"
    temporary = final.with_suffix(UNFINISHED)
    try:
        with open(temporary, "xb", opener=_private) as file:
            file.write(json.dumps(header).encode() + b"\n" + body)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(final)
        _sync_directory(directory)
    except OSError:
        for path in (temporary, final):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise
    return final


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_batch(path: Path) -> Batch:
    """Read one file. Raises ValueError when it is not what its header says, OSError when it cannot be read."""
    head, _, body = path.read_bytes().partition(b"\n")
    header = json.loads(head)
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(f"unknown header {head[:80]!r}")
    if hashlib.sha256(body).hexdigest() != header.get("sha256") or body.count(b"\n") != header.get("rows"):
        raise ValueError("the rows are not those of the header's checksum")
    return Batch(path.stem, body.count(b"\n"), body)


def stats(directory: Path, suffix: str) -> dict[Path, os.stat_result]:
    """The directory's files of one kind; those that a shipper deletes meanwhile are left out."""
    found = {}
    for path in directory.glob(f"*{suffix}"):
        with suppress(FileNotFoundError):
            found[path] = path.stat()
    return found


def spool_status(directory: Path) -> SpoolStatus:
    """Count the files of a spool, which need not exist."""
    waiting = [stat.st_mtime for stat in stats(directory, SUFFIX).values()]
    oldest = clock.wall().timestamp() - min(waiting) if waiting else None
    return SpoolStatus(len(waiting), oldest, len(stats(directory / QUARANTINE, "")))
