"""The spool: a directory of frozen batches of `otel_traces` rows, each inserted under its file's name as token.

A file's first line is a header, `{"schema": 1, "rows": n, "sha256": "of the rest"}`; the rest is JSONEachRow. A
retried insert is recognised by its token, so a file keeps its name; what is in it only ever becomes less.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from shared import clock

SCHEMA = 1
MAX_SPANS = 5_000  # a file
MAX_BYTES = 8 * 2**20  # a file
SUFFIX, UNFINISHED = ".spool", ".tmp"
MAX_AGE = 7 * 86_400.0  # seconds that anything but a model call may wait
QUARANTINE, REASON, COUNTER = "quarantine", ".reason", ".shed"


class NewerError(ValueError):
    """A file of a newer Backbeat, which waits for a program that can read it."""


class Batch(NamedTuple):
    """One file's content: its token, how many rows, and the rows."""

    token: str
    rows: int
    body: bytes


class SpoolStatus(NamedTuple):
    """How far ClickHouse is behind. `oldest_seconds` is None for an empty spool; `shed` is still to be told."""

    depth: int
    oldest_seconds: float | None
    quarantined: int
    shed: int = 0


def batches(lines: list[Any]) -> Iterator[list[Any]]:
    """Cut rows into batches of at most MAX_SPANS and MAX_BYTES, in order; what is not bytes yet, by number alone."""
    batch: list[Any] = []
    size = 0
    for line in lines:
        more = len(line) if isinstance(line, bytes) else 0
        if batch and (len(batch) == MAX_SPANS or size + more > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += more
    if batch:
        yield batch


def model_calls(lines: list[bytes]) -> list[bytes]:
    """Those that are given up last."""
    return [line for line in lines if b'"gen_ai.operation.name"' in line]


def new_token() -> str:
    """32 hex digits, in the order of time."""
    return f"{clock.wall_ns():016x}{secrets.token_hex(8)}"


def content(lines: list[bytes]) -> bytes:
    """A file of these rows."""
    body = b"".join(lines)
    header = {"schema": SCHEMA, "rows": len(lines), "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(header).encode() + b"\n" + body


def write_batch(directory: Path, lines: list[bytes], final: Path | None = None) -> Path:
    """Write one file that survives a power cut once this returns. Raises OSError, leaving nothing new behind."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = final or directory / f"{new_token()}{SUFFIX}"
    temporary = path.with_suffix(UNFINISHED)
    try:
        with open(temporary, "xb", opener=_private) as file:
            file.write(content(lines))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        _sync_directory(directory)
    except OSError:
        for one in (temporary, *(() if final else (path,))):
            with suppress(OSError):
                one.unlink(missing_ok=True)
        raise
    return path


def make_room(directory: Path, most: float) -> int:
    """Give up what waits longer than MAX_AGE, and the oldest of a spool of over `most` bytes; the bytes that stay.

    Model calls stay. What goes is counted before it is gone; a file nothing of which may go is made read-only.
    """
    files = sorted(stats(directory, SUFFIX).items())
    size = sum(stat.st_size for _, stat in files)
    for path, stat in files:
        if stat.st_mode & 0o200 and (size > most or stat.st_mtime < clock.wall().timestamp() - MAX_AGE):
            with suppress(ValueError, OSError):
                lines = read_batch(path).body.splitlines(keepends=True)
                kept = model_calls(lines)
                if len(kept) < len(lines):
                    count_shed(directory, len(lines) - len(kept))
                    write_batch(directory, kept, path) if kept else path.unlink(missing_ok=True)
                    size -= sum(map(len, lines)) - sum(map(len, kept))
                if kept:
                    os.utime(path, (stat.st_mtime,) * 2)
                    path.chmod(0o400)
    return size


def count_shed(directory: Path, spans: int) -> None:
    """Add to the count of spans that were given up: digits on the disk, written in place, as a full one allows."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(directory / COUNTER, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        digits = file.read(20)  # damage counts as nothing: it may not end the thread that writes
        total = max(0, (int(digits) if digits.isdigit() else 0) + spans)
        file.seek(0)
        file.write(b"%020d" % total)
        os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_batch(path: Path) -> Batch:
    """Read one file. Raises ValueError when it is not what its header says, NewerError as a kind of it, OSError."""
    head, _, body = path.read_bytes().partition(b"\n")
    header = json.loads(head)
    schema = header.get("schema") if isinstance(header, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerError(f"{path.name} is of a newer Backbeat (schema {schema}, this one reads {SCHEMA}): upgrade here")
    if schema != SCHEMA:
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
    oldest = max(0.0, clock.wall().timestamp() - min(waiting)) if waiting else None
    shed = 0
    with suppress(OSError, ValueError):
        shed = int((directory / COUNTER).read_bytes()[:20])
    aside = stats(directory / QUARANTINE, "").keys() - stats(directory / QUARANTINE, REASON)
    return SpoolStatus(len(waiting), oldest, len(aside), shed)
