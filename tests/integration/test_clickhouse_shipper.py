"""From spool files into ClickHouse: nothing lost, nothing doubled, whatever dies on the way."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from backbeat.clickhouse import session
from shared.errors import ConfigError
from shared.telemetry import shipper
from shared.telemetry.shipper import FORGOTTEN_SECONDS, ShipReport, ship_once
from shared.telemetry.spool import SpoolStatus, spool_status, write_batch
from tests.support.clickhouse import Server, ask, call, process, spool

COUNTS = """
SELECT (SELECT count() FROM otel_traces), (SELECT count() FROM llm_calls), (SELECT count() FROM task_runs),
    (SELECT sum(Calls) FROM llm_hourly), (SELECT uniqExact(SpanId) FROM otel_traces)
"""


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    return tmp_path / "spool dir"


def fill(spool_dir: Path, files: int, calls: int) -> None:
    for number in range(files):
        spool(spool_dir, *(call(number * 1000 + index) for index in range(calls)))


def test_each_file_once_however_often_it_is_sent(clickhouse: str, spool_dir: Path, tmp_path: Path) -> None:
    fill(spool_dir, files=3, calls=4)
    spool(spool_dir, process())
    copy = tmp_path / "copy"
    for _ in range(3):
        shutil.copytree(spool_dir, copy, dirs_exist_ok=True)
        assert ship_once(copy, clickhouse, 20) == ShipReport(files=4, spans=13)
        assert ask(clickhouse, COUNTS) == [(13, 12, 1, 12, 13)]
    assert spool_status(copy) == SpoolStatus(0, None, 0)
    assert spool_status(spool_dir).depth == 4


def test_two_files_with_the_same_rows_are_two_batches(clickhouse: str, spool_dir: Path) -> None:
    fill(spool_dir, files=1, calls=2)
    (path,) = spool_dir.glob("*.spool")
    shutil.copy(path, spool_dir / ("f" * 32 + ".spool"))
    assert ship_once(spool_dir, clickhouse, 20).spans == 4
    assert ask(clickhouse, COUNTS) == [(4, 4, 0, 4, 2)]
    assert ask(clickhouse, "SELECT count() FROM v_llm_calls") == [(2,)]


def test_an_answer_lost_on_the_way_is_asked_for_again(clickhouse: str, spool_dir: Path) -> None:
    """The proxy passes the insert on and cuts the connection instead of answering."""
    fill(spool_dir, files=1, calls=5)
    target = int(clickhouse.rpartition(":")[2].partition("/")[0])
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        thread = threading.Thread(target=_swallow_one_answer, args=(proxy, target))
        thread.start()
        report = ship_once(spool_dir, clickhouse.replace(f":{target}/", f":{proxy.getsockname()[1]}/"), 10)
        thread.join()
    assert report.remaining == 1
    assert "RemoteDisconnected" in report.error
    assert ask(clickhouse, COUNTS)[0][0] == 5
    assert ship_once(spool_dir, clickhouse, 10) == ShipReport(files=1, spans=5)
    assert ask(clickhouse, COUNTS) == [(5, 5, 0, 5, 5)]


def _swallow_one_answer(proxy: socket.socket, target: int) -> None:
    client, _ = proxy.accept()
    with client, socket.create_connection(("127.0.0.1", target)) as server:
        asked = client.makefile("rb")
        head = b"".join(iter(asked.readline, b"\r\n"))
        (length,) = re.findall(rb"content-length: (\d+)", head.lower())
        server.sendall(head + b"\r\n" + asked.read(int(length)))
        server.recv(65536)


@pytest.mark.parametrize("answers", [0, 1])
def test_a_hanging_server_costs_the_deadline_and_no_more(
    spool_dir: Path, answers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections and falls silent, at once or after one slow answer."""
    fill(spool_dir, files=3, calls=1)
    ends, limit = [], shipper._Target._limit

    def limited(self: Any) -> None:
        limit(self)
        ends.append(time.monotonic() + self._connection.timeout)

    monkeypatch.setattr(shipper._Target, "_limit", limited)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/backbeat"
        thread = threading.Thread(target=_answer_slowly, args=(listener, answers))
        thread.start()
        started = time.monotonic()
        report = ship_once(spool_dir, url, 6.0)
        assert time.monotonic() - started > 5.95
        thread.join()
        # However long the machine stood still in between: it is one moment for all files.
        assert max(ends) - min(ends) < 0.6
        assert (report.files, report.remaining, report.quarantined) == (answers, 3 - answers, 0)
        assert report.error.startswith("TimeoutError")
        assert ship_once(spool_dir, url, 0) == ShipReport(remaining=3 - answers)


def _answer_slowly(listener: socket.socket, answers: int) -> None:
    client, _ = listener.accept()
    with client, contextlib.suppress(ConnectionError):
        client.settimeout(1.2)
        for _ in range(answers):
            with contextlib.suppress(TimeoutError):
                while client.recv(65536):
                    pass
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        client.settimeout(30)
        while client.recv(65536):
            pass


def test_broken_files_are_set_aside_and_hold_nobody_up(
    clickhouse: str, spool_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(spool_dir, files=1, calls=1)
    flipped = write_batch(spool_dir, [b'{"SpanName":"a"}\n'])
    flipped.write_bytes(flipped.read_bytes().replace(b'"a"', b'"b"'))
    cut = write_batch(spool_dir, [b'{"SpanName":"a"}\n', b'{"SpanName":"b"}\n'])
    cut.write_bytes(cut.read_bytes()[:-18])
    nonsense = write_batch(spool_dir, [b'{"Timestamp":"yesterday"}\n'])
    (spool_dir / "0.spool").write_bytes(b"")
    (spool_dir / "1.spool").write_bytes(b'{"schema": 99}\n')
    fill(spool_dir, files=1, calls=1)
    newer = "1.spool is of a newer Backbeat (schema 99, this one reads 1): upgrade here"
    for files, aside_now in ((2, 4), (0, 0)):
        report = ship_once(spool_dir, clickhouse, 20)
        assert report == ShipReport(files, files, remaining=1, quarantined=aside_now, error=newer)
    aside = {path.name for path in (spool_dir / "quarantine").iterdir()}
    names = {flipped.name, cut.name, nonsense.name, "0.spool"}
    assert aside == names | {f"{name}.reason" for name in names}
    assert spool_status(spool_dir)[0::2] == (1, 4)
    assert sum(str(spool_dir) in one for one in caplog.messages) == 4
    assert "checksum" in next(record.getMessage() for record in caplog.records if flipped.name in record.getMessage())
    assert "Code: " in next(record.getMessage() for record in caplog.records if nonsense.name in record.getMessage())


def test_what_may_pass_keeps_the_files(clickhouse: str, clickhouse_server: Server, spool_dir: Path) -> None:
    fill(spool_dir, files=2, calls=1)
    for url, why in (
        (clickhouse.replace("tester:", "tester:x", 1), "Code: 516"),
        (clickhouse_server.url("nowhere"), "Code: 81"),
        (clickhouse_server.url("default"), "Code: 60"),
        ("http://127.0.0.1:1/backbeat", "Connection refused"),
    ):
        report = ship_once(spool_dir, url, 10)
        assert (report.files, report.remaining, report.quarantined) == (0, 2, 0)
        assert why in report.error
        assert "\n" not in report.error
    with session(clickhouse) as client:
        refuse = "SELECT throwIf(SpanAttributes['backbeat.call_key'] = 'bad') AS bad FROM otel_traces"
        client.command(f"CREATE MATERIALIZED VIEW refuse ENGINE = Memory AS {refuse}")
    spool(spool_dir, call(7, backbeat__call_key="bad"))
    fill(spool_dir, files=1, calls=2)
    report = ship_once(spool_dir, clickhouse, 10)
    assert (report.files, report.spans, report.remaining) == (3, 4, 1)
    assert "Code: 395" in report.error


def test_one_shipper_a_spool(clickhouse: str, spool_dir: Path) -> None:
    fill(spool_dir, files=1, calls=1)
    with (spool_dir / ".shipper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ship_once(spool_dir, clickhouse, 10) == ShipReport(remaining=1, error="another shipper is at work")
    assert ship_once(spool_dir, clickhouse, 10) == ShipReport(files=1, spans=1)


def test_racing_shippers_ship_everything_once(clickhouse: str, spool_dir: Path) -> None:
    fill(spool_dir, files=12, calls=3)
    reports: list[ShipReport] = []
    threads = [threading.Thread(target=lambda: reports.append(ship_once(spool_dir, clickhouse, 20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reports.append(ship_once(spool_dir, clickhouse, 20))
    assert sum(report.spans for report in reports) == 36
    assert ask(clickhouse, COUNTS) == [(36, 36, 0, 36, 36)]


def test_a_file_whose_writer_died_before_naming_it_is_shipped(clickhouse: str, spool_dir: Path) -> None:
    fill(spool_dir, files=2, calls=1)
    fresh, old = (path.rename(path.with_suffix(".tmp")) for path in spool_dir.glob("*.spool"))
    then = time.time() - FORGOTTEN_SECONDS - 1
    os.utime(old, (then, then))
    assert ship_once(spool_dir, clickhouse, 10) == ShipReport(files=1, spans=1)
    assert fresh.exists()


def test_a_file_that_cannot_be_read_waits_and_holds_nobody_up(clickhouse: str, spool_dir: Path) -> None:
    fill(spool_dir, files=1, calls=1)
    (spool_dir / "0.spool").mkdir()
    report = ship_once(spool_dir, clickhouse, 10)
    assert (report.files, report.spans, report.remaining, report.quarantined) == (1, 1, 1, 0)
    assert "Is a directory" in report.error


def test_no_spool_and_no_url(clickhouse: str, spool_dir: Path) -> None:
    assert ship_once(spool_dir, clickhouse, 1) == ShipReport()
    with pytest.raises(ConfigError, match="is not http"):
        ship_once(spool_dir, "clickhouse:8123", 1)


def test_a_file_says_what_it_is(spool_dir: Path) -> None:
    fill(spool_dir, files=1, calls=2)
    (path,) = spool_dir.glob("*.spool")
    head, *rows = path.read_bytes().splitlines()
    assert json.loads(head)["rows"] == len(rows) == 2
    assert path.stat().st_mode & 0o077 == 0
