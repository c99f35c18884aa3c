"""Spool files into ClickHouse: oldest first, one file one insert, deleted only when ClickHouse has acknowledged it.

The file's name is the insert's deduplication token, and the tables keep a window of tokens, so a file sent
again after a lost answer or a crash adds nothing. What cannot be inserted as it is goes to `quarantine/`; what a newer
Backbeat wrote stays for it.
It speaks HTTP with the standard library: a tick that ships at its end pays no import and no handshake.
"""

import base64
import contextlib
import fcntl
import http.client
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlencode, urlsplit

from shared import clock
from shared.errors import ConfigError
from shared.telemetry.spool import QUARANTINE, REASON, SUFFIX, UNFINISHED, Batch, NewerError, read_batch, stats

FORGOTTEN_SECONDS = 600.0  # an unfinished file this old has no writer any more
_SETTINGS = {
    "query": "INSERT INTO otel_traces FORMAT JSONEachRow",
    "async_insert": "0",
    "wait_end_of_query": "1",
    "insert_deduplicate": "1",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "date_time_input_format": "basic",
    "input_format_skip_unknown_fields": "1",
}
# ClickHouse's codes for rows it cannot read; any other refusal may pass (schema, password, memory, disk).
_UNREADABLE = {6, 25, 26, 27, 38, 41, 53, 72, 117, 131, 321, 349, 467, 636}
_log = logging.getLogger("backbeat.telemetry")


class ShipReport(NamedTuple):
    """What one round did. `error` says in one line why files remain, when it was not just the deadline."""

    files: int = 0
    spans: int = 0
    remaining: int = 0
    quarantined: int = 0
    error: str = ""


class _RefusedError(Exception):
    """ClickHouse answered, and not with an acknowledgement."""

    def __init__(self, status: int, code: int, text: str) -> None:
        super().__init__(f"ClickHouse refuses: {text}")
        self.unreadable = code in _UNREADABLE
        self.only_this = status == 500


def ship_once(spool_dir: Path, clickhouse_url: str, deadline_seconds: float) -> ShipReport:
    """Ship what waits in a spool for at most `deadline_seconds`; a second shipper of the same spool returns at once.

    Never raises for what ClickHouse or the disk does; ConfigError when the URL is none.
    """
    target = _Target(clickhouse_url, clock.monotonic() + deadline_seconds)
    if not spool_dir.is_dir():
        return ShipReport()
    try:
        with contextlib.closing(target), _only_shipper(spool_dir):
            return _ship(spool_dir, target)
    except BlockingIOError:
        return ShipReport(remaining=len(_waiting(spool_dir)), error="another shipper is at work")
    except OSError as failure:
        return ShipReport(error=f"{type(failure).__name__}: {failure}")


def _ship(spool_dir: Path, target: "_Target") -> ShipReport:
    files = spans = quarantined = 0
    error = ""
    for path in _waiting(spool_dir):
        if target.seconds_left <= 0:
            break
        try:
            batch = read_batch(path)
        except NewerError as newer:
            error = str(newer)
            continue
        except ValueError as broken:
            quarantined += _quarantine(path, str(broken))
            continue
        except OSError as failure:
            error = f"{type(failure).__name__}: {failure}"
            continue
        try:
            target.insert(batch)
            path.unlink(missing_ok=True)
            files, spans = files + 1, spans + batch.rows
        except _RefusedError as refused:
            if refused.unreadable:
                quarantined += _quarantine(path, str(refused))
                continue
            error = str(refused).partition("\n")[0]
            if not refused.only_this:
                break
        except (OSError, http.client.HTTPException) as failure:
            error = f"{type(failure).__name__}: {failure}"
            break
    return ShipReport(files, spans, len(_waiting(spool_dir)), quarantined, error)


def _waiting(spool_dir: Path) -> list[Path]:
    """Oldest first. A file that its writer never renamed is one too, once nobody can still be writing it."""
    before = clock.wall().timestamp() - FORGOTTEN_SECONDS
    forgotten = [path for path, stat in stats(spool_dir, UNFINISHED).items() if stat.st_mtime < before]
    return sorted([*stats(spool_dir, SUFFIX), *forgotten])


def _quarantine(path: Path, why: str) -> int:
    shelf = path.parent / QUARANTINE
    shelf.mkdir(mode=0o700, exist_ok=True)
    path.rename(shelf / path.name)
    why = why.partition("\n")[0][:300]
    _log.error("telemetry: %s is set aside in %s: %s", path.name, shelf, why)
    (shelf / f"{path.name}{REASON}").write_text(why, encoding="utf-8")
    return 1


@contextlib.contextmanager
def _only_shipper(spool_dir: Path) -> Iterator[None]:
    handle = os.open(spool_dir / ".shipper.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


class _Target:
    """One connection to ClickHouse, which no answer may hold beyond the deadline."""

    def __init__(self, url: str, deadline: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError("the ClickHouse URL is not http(s)://user:password@host:port/database", fix="Correct it")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port)
        self._deadline = deadline
        self._database = parts.path.strip("/") or "default"
        login = f"{unquote(parts.username or 'default')}:{unquote(parts.password or '')}"
        self._headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}

    @property
    def seconds_left(self) -> float:
        return self._deadline - clock.monotonic()

    def insert(self, batch: Batch) -> None:
        """Returns once the rows are acknowledged. Raises _RefusedError, OSError, HTTPException."""
        query = _SETTINGS | {"database": self._database, "insert_deduplication_token": batch.token}
        self._limit()
        self._connection.request("POST", "/?" + urlencode(query), batch.body, self._headers)
        self._limit()
        answer = self._connection.getresponse()
        text = answer.read().decode(errors="replace")
        code = answer.headers.get("X-ClickHouse-Exception-Code", "0")
        if answer.status != 200 or code != "0":
            raise _RefusedError(
                answer.status, int(code) if code.isdigit() else 0, text.strip() or f"HTTP {answer.status}"
            )

    def close(self) -> None:
        self._connection.close()

    def _limit(self) -> None:
        seconds = max(0.001, self.seconds_left)
        self._connection.timeout = seconds
        if self._connection.sock:
            self._connection.sock.settimeout(seconds)
