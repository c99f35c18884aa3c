"""ClickHouse is down, or takes connections and is silent, for ten minutes: ticks go on, and nothing is lost unsaid."""

import contextlib
import os
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from backbeat.embedded import ports
from cron_worker import ship as at_tick_end
from shared import clock
from shared.config import Config
from shared.db import telemetry as outbox
from shared.db.pool import connect
from shared.errors import UnavailableError
from shared.execution.telemetry import open_telemetry, ship
from shared.telemetry import recorder
from shared.telemetry.shipper import ship_once
from shared.telemetry.spool import content, count_shed, spool_status, write_batch
from temporal_worker.worker import _shipper
from tests.support.clickhouse import call, process
from tests.support.command import command
from tests.support.databases import Database
from tests.support.temporal import FarSide, Spans, environment

LINE = b'{"SpanName":"x"}\n'
TOLD = "SELECT files, quarantined, shed, oldest_at IS NOT NULL FROM backbeat.telemetry_hosts"


class Lossy(Spans):
    """Three spans of this process were shed, and no disk counts them."""

    untold = 3


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
async def test_ten_minutes_without_clickhouse(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A tick every 15 s of a clock that the test moves."""
    shift = timedelta()
    monkeypatch.setattr(clock, "wall", lambda: datetime.now(UTC) + shift)
    monkeypatch.setattr(at_tick_end, "DEADLINE", 0.5)
    asked: list[Any] = []

    def counted(*given: Any) -> Any:
        asked.append(given)
        return ship_once(*given)

    monkeypatch.setattr("shared.execution.telemetry.ship_once", counted)
    port = ports.find()
    async with connect(database.worker_url, max_size=1) as db:
        with socket.create_server(("127.0.0.1", port)) as silent:
            if kind == "down":
                silent.close()
            url = f"http://127.0.0.1:{port}/backbeat"
            config = Config(telemetry="spool", spool_dir=tmp_path, clickhouse_url=url)
            for number in range(40):
                write_batch(tmp_path, [LINE])
                await at_tick_end.ship(config, db, int(number == 3))
                shift += timedelta(seconds=15)
        assert 2 <= len(asked) <= 3, "only one round in five minutes waits for it"
        assert {seconds for *_, seconds in asked} == {0.5}
        monkeypatch.setattr(at_tick_end, "DEADLINE", 20.0)
        count_shed(tmp_path, 5)
        await at_tick_end.ship(config, db, 0)
        assert database.sql(TOLD) == [(40, 0, 6, True)]
        assert spool_status(tmp_path).shed == 0
        shift += timedelta(seconds=301)
        with taker(port):
            for _ in range(2):
                write_batch(tmp_path, [LINE])
                await at_tick_end.ship(config, db, 0)
        assert database.sql(TOLD) == [(0, 0, 6, False)]


async def test_the_temporal_worker_ships_and_tells(database: Database, tmp_path: Path) -> None:
    """Without Temporal: its loop needs only Postgres and what it ships to."""
    write_batch(tmp_path, [LINE])
    count_shed(tmp_path, 2)
    async with environment(database, FarSide(), Lossy()) as env:
        port = ports.find()
        url = f"http://127.0.0.1:{port}/backbeat"
        config = replace(env.config, spool_dir=tmp_path, clickhouse_url=url, telemetry="spool")
        beat = _shipper(replace(env, config=config))
        for _ in range(2):
            with pytest.raises(UnavailableError, match="spans wait: ConnectionRefusedError"):
                await beat()
        assert database.sql(TOLD) == [(1, 0, 5, True)]
        with taker(port):
            await beat()
    assert database.sql(TOLD) == [(0, 0, 5, False)]


async def test_an_outbox_that_is_full_takes_model_calls_and_keeps_what_is_not_acknowledged(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_SPOOL", 1)
    config = Config(telemetry="postgres", spool_dir=tmp_path, database_url=database.worker_url)
    telemetry = open_telemetry(config, "cron-worker")
    for _ in range(3):
        telemetry.record(call(1))
        telemetry.record(process())
        assert isinstance(telemetry, recorder.Recorder)
        telemetry.flush()
        assert telemetry._writers[0].wait(20)
    telemetry.close()
    assert database.sql("SELECT spans FROM backbeat.telemetry_outbox ORDER BY id") == [(2,), (2,), (1,)]
    assert (telemetry.shed, spool_status(tmp_path).shed) == (1, 1)
    async with connect(database.worker_url, max_size=1) as db:
        away = replace(config, clickhouse_url="http://127.0.0.1:1/backbeat")
        report = await ship(away, db, 5)
        assert (report.files, report.remaining, "refused" in report.error) == (0, 3, True)
    assert database.value("SELECT count(*) FROM backbeat.telemetry_outbox WHERE leased_until > backbeat.clock()") == 3


def test_spans_for_a_postgres_that_is_away_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 0.1)
    away = Config(telemetry="postgres", spool_dir=tmp_path, database_url="postgresql://x@127.0.0.1:1/x")
    telemetry = open_telemetry(away, "cron-worker")
    telemetry.record(process())
    telemetry.close()
    assert (telemetry.shed, telemetry.untold, spool_status(tmp_path).shed) == (1, 0, 1)


async def test_status_fails_where_spans_wait_for_long(database: Database, tmp_path: Path) -> None:
    database.sql("SELECT backbeat.maintain_partitions()")
    config = Config(telemetry="spool", spool_dir=tmp_path / "var/spool", database_url=database.worker_url)
    path = write_batch(config.spool_dir, [LINE])
    os.utime(path, (time.time() - 1000,) * 2)
    async with connect(database.worker_url, max_size=1) as db:
        await at_tick_end.ship(config, db, 0)
    late = command("backbeat", "status", "-o", "json", home=tmp_path, environ=database.environ)
    assert late.code == 1
    assert "wait, the oldest for 17 min" in late.err
    (found,) = [one for one in late.json["health"] if one["check"] == "telemetry"]
    assert found["state"] == "wrong"
    assert found["found"].startswith("1 batches wait, 0 spans were shed, 0 batches set aside; the oldest, on ")
    os.utime(path, (time.time() - 60,) * 2)
    assert command("backbeat", "status", home=tmp_path, environ=database.environ).code == 0


async def test_what_was_set_aside_says_why(database: Database, tmp_path: Path) -> None:
    database.sql("SELECT backbeat.maintain_partitions()")
    spool = tmp_path / "var/spool"
    broken = write_batch(spool, [LINE])
    broken.write_bytes(broken.read_bytes().replace(b'"rows": 1', b'"rows": 2'))
    config = Config(
        telemetry="spool", spool_dir=spool, clickhouse_url="http://127.0.0.1:1/x", database_url=database.worker_url
    )
    async with connect(database.worker_url, max_size=1) as db:
        await at_tick_end.ship(config, db, 0)
    environ = {**database.environ, "BACKBEAT_SPOOL_DIR": str(spool)}
    said = command("backbeat", "telemetry", "status", "-o", "json", home=tmp_path, environ=environ).fine()
    assert said.json["quarantined"] == 1
    assert said.err == f"set aside: {broken.name}: the rows are not those of the header's checksum\n"
    wrong = command("backbeat", "status", "-o", "json", home=tmp_path, environ=environ)
    assert wrong.code == 1
    assert f"set aside: {broken.name}: the rows are not" in wrong.err


async def test_what_clickhouse_cannot_read_of_the_outbox_says_why(
    database: Database, tmp_path: Path, clickhouse: str
) -> None:
    config = Config(
        telemetry="postgres", spool_dir=tmp_path, clickhouse_url=clickhouse, database_url=database.worker_url
    )
    unreadable = zlib.compress(content([b'{"Timestamp": "never"}\n']))
    database.sql("SELECT backbeat.put_spans(%s, 1, %s)", [UUID(int=1), unreadable])
    async with connect(database.worker_url, max_size=1) as db:
        assert (await ship(config, db, 20)).quarantined == 1
    assert "ClickHouse refuses: Code: " in database.value("SELECT refused FROM backbeat.telemetry_outbox")
