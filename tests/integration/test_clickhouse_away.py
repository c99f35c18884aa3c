"""ClickHouse is down, or takes connections and is silent, for ten minutes: ticks go on, and nothing is lost unsaid."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cron_worker import ship as at_tick_end
from shared import clock
from shared.config import Config
from shared.db.pool import connect
from shared.telemetry.spool import count_shed, spool_status, write_batch
from tests.support.command import command
from tests.support.databases import Database

LINE = b'{"SpanName":"x"}\n'


class _Taker(BaseHTTPRequestHandler):
    """Acknowledges whatever it is given."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def taker(port: int) -> Iterator[None]:
    with HTTPServer(("127.0.0.1", port), _Taker) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["down", "hanging"])
def test_ten_minutes_without_clickhouse(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A tick every 15 s of a clock that the test moves."""
    shift = timedelta()
    monkeypatch.setattr(clock, "wall", lambda: datetime.now(UTC) + shift)
    monkeypatch.setattr(at_tick_end, "DEADLINE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if kind == "down":
            silent.close()
        url = f"http://127.0.0.1:{port}/backbeat"
        config = Config(telemetry="spool", spool_dir=tmp_path, clickhouse_url=url, database_url=database.worker_url)
        waited = []
        for number in range(40):
            write_batch(tmp_path, [LINE])
            waited.append(end_of_tick(config, database, shed=int(number == 3)))
            shift += timedelta(seconds=15)
    assert sorted(waited)[-4] < 0.4, "only one round in five minutes waits for it"
    assert max(waited) < 2.0
    count_shed(tmp_path, 5)
    end_of_tick(config, database)
    told = "SELECT files, quarantined, shed, oldest_at IS NOT NULL FROM backbeat.telemetry_hosts"
    assert database.sql(told) == [(40, 0, 6, True)]
    assert spool_status(tmp_path).shed == 0
    shift += timedelta(seconds=301)
    with taker(port):
        end_of_tick(config, database)
        write_batch(tmp_path, [LINE])
        end_of_tick(config, database)
    assert database.sql(told) == [(0, 0, 6, False)]


def end_of_tick(config: Config, database: Database, shed: int = 0) -> float:
    async def ended() -> float:
        async with connect(database.worker_url, max_size=1) as db:
            started = time.monotonic()
            await at_tick_end.ship(config, db, shed)
            return time.monotonic() - started

    return asyncio.run(ended())


def test_status_fails_where_spans_wait_for_long(database: Database, tmp_path: Path) -> None:
    database.sql("SELECT backbeat.maintain_partitions()")
    config = Config(telemetry="spool", spool_dir=tmp_path / "var/spool", database_url=database.worker_url)
    path = write_batch(config.spool_dir, [LINE])
    os.utime(path, (time.time() - 1000,) * 2)
    end_of_tick(config, database)
    late = command("backbeat", "status", "-o", "json", home=tmp_path, environ=database.environ)
    assert late.code == 1
    assert "wait, the oldest for 17 min" in late.err
    (found,) = [one for one in late.json["health"] if one["check"] == "telemetry"]
    assert found["state"] == "wrong"
    assert found["found"].startswith("1 batches wait, 0 spans were shed, 0 batches set aside; the oldest, on ")
    os.utime(path, (time.time() - 60,) * 2)
    assert command("backbeat", "status", home=tmp_path, environ=database.environ).code == 0
