"""Telemetry into the spool: spans as recorded, bounded by time, shed only when counted."""

import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shared.config import Config
from shared.execution.telemetry import open_telemetry
from shared.ids import SpanRef, span_id, trace_id
from shared.telemetry import recorder, spool
from shared.telemetry.recorder import SpoolTelemetry, Writer
from shared.telemetry.spans import NullTelemetry, SpanRecord
from shared.telemetry.spool import COUNTER, read_batch, spool_status, write_batch
from tests.support.signals import until

START = 1_795_000_000_123_456_789


def record(number: int = 1, **other: Any) -> SpanRecord:
    known: dict[str, Any] = {
        "name": "process x",
        "kind": "consumer",
        "trace_id": trace_id("task", 1),
        "span_id": span_id("process", number),
        "parent_span_id": span_id("enqueue", 1),
        "start_ns": START,
        "end_ns": START + 1_500_000_000,
    }
    return SpanRecord(**(known | other))


def rows(directory: Path) -> list[dict[str, Any]]:
    found = [read_batch(path).body.splitlines() for path in sorted(directory.glob("*.spool"))]
    return [json.loads(line) for lines in found for line in lines]


def written(directory: Path) -> list[str]:
    """What is in a spool but the count of what was shed."""
    return [path.name for path in directory.iterdir() if path.name != COUNTER]


def lines_writer(directory: Path, capacity: int = recorder.MAX_SPOOL) -> Writer:
    """A writer of what are lines already."""
    return Writer(recorder.spool(directory, capacity), directory, form=lambda line: line)


def write(writer: Writer, lines: list[bytes], patience: float = 20) -> bool:
    """One flush."""
    for line in lines:
        writer.keep(line)
    writer.hand_over()
    return writer.wait(patience)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Writes wait until the event is set."""
    free = threading.Event()

    def wait_then_write(directory: Path, lines: list[bytes]) -> Path:
        free.wait(20)
        return write_batch(directory, lines)

    monkeypatch.setattr(recorder, "write_batch", wait_then_write)
    yield free
    free.set()


def test_a_span_is_written_with_its_own_ids_and_times(tmp_path: Path) -> None:
    telemetry = SpoolTelemetry(tmp_path, "cron-worker")
    link = SpanRef(trace_id("tick", 1), span_id("tick", 1))
    attributes = {
        "n": 1,
        "flag": False,
        "usd": Decimal("1E-9"),
        "absent": None,
        "many": ["a", "b"],
        "other": link.trace_id,
    }
    telemetry.record(record(attributes=attributes, links=(link,), error="it broke"))
    telemetry.record(record(2, parent_span_id=None, name="tick", kind="internal"))
    telemetry.close()
    first, second = rows(tmp_path)
    assert first["Timestamp"] == "1795000000.123456789"
    assert first["Duration"] == 1_500_000_000
    assert (first["TraceId"], first["SpanId"]) == (trace_id("task", 1), span_id("process", 1))
    assert first["ParentSpanId"] == span_id("enqueue", 1)
    assert (first["SpanName"], first["SpanKind"], first["ServiceName"]) == ("process x", "Consumer", "cron-worker")
    assert (first["StatusCode"], first["StatusMessage"]) == ("Error", "it broke")
    assert (first["Links.TraceId"], first["Links.SpanId"]) == ([link.trace_id], [link.span_id])
    texts = {"n": "1", "flag": "false", "usd": "0.000000001", "many": '["a", "b"]', "other": link.trace_id}
    assert first["SpanAttributes"] == texts
    assert (second["TraceId"], second["ParentSpanId"], second["StatusCode"]) == (trace_id("task", 1), "", "Unset")
    assert telemetry.shed == 0


def test_other_instrumentation_goes_the_same_way(tmp_path: Path) -> None:
    telemetry = SpoolTelemetry(tmp_path, "cron-worker")
    telemetry.record(record())
    with telemetry.provider.get_tracer("library", "1.0").start_as_current_span("outer") as outer:
        outer.add_event("happened", {"k": "v"})
        telemetry.record(record(2))
    telemetry.close()
    _, inner, foreign = rows(tmp_path)
    assert inner["ParentSpanId"] == span_id("enqueue", 1)
    assert (foreign["SpanName"], foreign["ScopeName"], foreign["ParentSpanId"]) == ("outer", "library", "")
    assert (foreign["Events.Name"], foreign["Events.Attributes"]) == (["happened"], [{"k": "v"}])
    assert len({foreign["TraceId"], inner["TraceId"]}) == 2


def test_texts_that_are_no_unicode_do_not_spoil_the_file(tmp_path: Path) -> None:
    telemetry = SpoolTelemetry(tmp_path, "cron-worker")
    telemetry.record(record(attributes={"text": "a\ud800b\x00\n"}))
    telemetry.close()
    assert rows(tmp_path)[0]["SpanAttributes"] == {"text": "a?b\x00\n"}


def test_one_flush_is_one_file_and_an_empty_one_is_none(tmp_path: Path) -> None:
    telemetry = SpoolTelemetry(tmp_path, "cron-worker")
    for number in range(3):
        telemetry.record(record(number))
    telemetry.flush()
    telemetry.flush()
    telemetry.record(record(9))
    telemetry.close()
    assert sorted(read_batch(path).rows for path in tmp_path.glob("*.spool")) == [1, 3]


def test_a_long_worker_writes_before_memory_fills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_SPANS", 10)
    telemetry = SpoolTelemetry(tmp_path, "cron-worker")
    for number in range(25):
        telemetry.record(record(number))
    telemetry.close()
    assert sorted(read_batch(path).rows for path in tmp_path.glob("*.spool")) == [5, 10, 10]


def test_a_slow_disk_costs_50_ms_a_flush_and_loses_nothing(tmp_path: Path, slow_disk: threading.Event) -> None:
    telemetry = SpoolTelemetry(tmp_path, "cron-worker")
    took = []
    for number in range(4):
        telemetry.record(record(number))
        started = time.monotonic()
        telemetry.flush()
        took.append(time.monotonic() - started)
    # The machine does not stand still each time.
    assert 0.04 < min(took) < 0.25
    assert max(took) < 5, "the disk hangs for 20 s"
    assert rows(tmp_path) == []
    slow_disk.set()
    telemetry.record(record(4))
    telemetry.close()
    # Files of one millisecond have no order.
    assert sorted(row["SpanId"] for row in rows(tmp_path)) == sorted(span_id("process", number) for number in range(5))
    assert telemetry.shed == 0


def test_a_disk_that_never_answers_is_given_up_and_counted_at_the_end(
    tmp_path: Path, slow_disk: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = SpoolTelemetry(tmp_path, "cron-worker")
    telemetry._writers[0]._last = 0.1
    telemetry.record(record(1))
    telemetry.flush()
    telemetry.record(record(2))
    telemetry.close()
    assert telemetry.shed == 2
    said = [entry.message for entry in caplog.records if entry.name == "backbeat.telemetry"]
    assert [message.partition(":")[0] for message in said] == ["telemetry"]
    assert "2 spans shed" in caplog.text
    # Their thread still has them: it is done before another test limits what this process may write.
    slow_disk.set()
    until(lambda: len(rows(tmp_path)) == 2 and telemetry.untold == 0, what="what was given up to be written")


def test_memory_is_bounded_while_the_disk_hangs(
    tmp_path: Path, slow_disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_PENDING", 4)
    writer = lines_writer(tmp_path)
    assert not write(writer, [b"{}\n"] * 3, 0)
    assert not write(writer, [b"{}\n"] * 2, 0)
    assert not write(writer, [b"{}\n"] * 1, 0)
    assert writer.shed == 2
    slow_disk.set()
    assert write(writer, [])
    assert spool_status(tmp_path).shed + writer.untold == 2
    assert len(rows(tmp_path)) == 4


def test_a_full_disk_is_one_log_line_and_a_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    telemetry = SpoolTelemetry(tmp_path, "cron-worker")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
        for number in range(3):
            telemetry.record(record(number))
            telemetry.record(record(number + 100))
            telemetry.flush()
            assert telemetry._writers[0].wait(60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert telemetry.shed == 6
    assert written(tmp_path) == []
    assert (spool_status(tmp_path).shed, telemetry.untold) == (6, 0)
    (entry,) = [one for one in caplog.records if str(tmp_path) in one.getMessage()]
    assert entry.levelno == logging.ERROR
    assert entry.getMessage() == (
        f"telemetry: 2 spans shed, the work goes on: {tmp_path} cannot be written: [Errno 27] File too large"
    )
    telemetry.record(record(7))
    telemetry.close()
    assert (len(rows(tmp_path)), telemetry.shed) == (1, 6)


def test_a_spool_that_cannot_be_a_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    telemetry = SpoolTelemetry(tmp_path / "file" / "spool", "cron-worker")
    telemetry.record(record())
    telemetry.close()
    assert telemetry.shed == 1
    assert telemetry.untold == 1
    assert "Not a directory" in caplog.text


def test_a_span_that_cannot_be_recorded_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    telemetry = SpoolTelemetry(tmp_path, "cron-worker")
    telemetry.record(record(span_id="not hex"))
    telemetry.record(record(kind="nonsense"))
    telemetry.close()
    assert telemetry.shed == 2
    assert "cannot be recorded" in caplog.text
    assert rows(tmp_path) == []


OTHER = b'{"SpanAttributes":{"pad":"%s"}}\n' % (b"x" * 168)
MODEL = OTHER.replace(b'"pad"', b'"gen_ai.operation.name":"chat","pad"')


def kept(directory: Path) -> tuple[int, int]:
    """Model calls, and other spans."""
    lines = [line for path in directory.glob("*.spool") for line in read_batch(path).body.splitlines(keepends=True)]
    return lines.count(MODEL), lines.count(OTHER)


def test_an_overfull_spool_gives_up_what_is_no_model_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """5,000 bytes: what waits goes first, oldest first, then what comes."""
    writer = lines_writer(tmp_path, capacity=5000)
    for _ in range(2):
        assert write(writer, [OTHER, MODEL, *[OTHER] * 9])
    assert kept(tmp_path) == (2, 20)
    names = sorted(path.name for path in tmp_path.glob("*.spool"))
    assert write(writer, [MODEL, *[OTHER] * 3])
    assert kept(tmp_path) == (3, 13)
    assert {path.name for path in tmp_path.glob("*.spool")} > {*names}
    for number in range(1, 17):
        assert write(writer, [MODEL, OTHER])
        assert kept(tmp_path)[0] == 3 + number
    assert kept(tmp_path)[1] == 0
    assert spool_status(tmp_path).shed == 2 * 10 + 3 + 16
    assert "is anybody shipping?" in caplog.text


def test_what_waits_for_a_week_keeps_its_model_calls(tmp_path: Path) -> None:
    """By a clock that jumps, too: what is shed is counted, and the names of the files stay."""
    old, fresh = write_batch(tmp_path, [MODEL, OTHER]), write_batch(tmp_path, [MODEL, OTHER])
    newer = write_batch(tmp_path, [OTHER])
    newer.write_bytes(newer.read_bytes().replace(b'"schema": 1', b'"schema": 2'))
    for path in (old, newer):
        os.utime(path, (time.time() - spool.MAX_AGE - 60,) * 2)
    os.utime(fresh, (time.time() + 10 * spool.MAX_AGE,) * 2)
    for _ in range(2):
        spool.make_room(tmp_path, 10**9)
    assert [read_batch(path).rows for path in (old, fresh)] == [1, 2]
    assert newer.exists()
    assert spool_status(tmp_path)[0::3] == (3, 1)


@pytest.mark.parametrize("damaged", [b"\0" * 20, b"letters", b"12x", b"9" * 5_000, b""])
def test_a_damaged_count_of_shed_spans_ends_no_writer(tmp_path: Path, damaged: bytes) -> None:
    """A power cut leaves NULs: the count begins anew, and every span of every process on the host is still written."""
    (tmp_path / spool.COUNTER).write_bytes(damaged)
    telemetry = SpoolTelemetry(tmp_path, "cron-worker")
    telemetry._writers[0].give_up(2, "x")
    for number in range(3):
        telemetry.record(record(number))
        telemetry.flush()
        assert telemetry._writers[0].wait(20)
    telemetry.close()
    assert (len(rows(tmp_path)), telemetry.untold) == (3, 0)


def test_many_threads_record_everything_once(tmp_path: Path) -> None:
    telemetry = SpoolTelemetry(tmp_path, "cron-worker")

    def work(base: int) -> None:
        for number in range(100):
            telemetry.record(record(base + number))
            if number % 10 == 0:
                telemetry.flush()

    threads = [threading.Thread(target=work, args=(base,)) for base in (0, 1000, 2000, 3000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    telemetry.flush()
    assert telemetry._writers[0].wait(60)
    telemetry.close()
    assert len({row["SpanId"] for row in rows(tmp_path)}) == len(rows(tmp_path)) == 400


def test_off_does_nothing_and_imports_no_opentelemetry(tmp_path: Path) -> None:
    telemetry = open_telemetry(Config(telemetry="off", spool_dir=tmp_path), "cron-worker")
    assert isinstance(telemetry, NullTelemetry)
    telemetry.record(record())
    telemetry.flush()
    telemetry.close()
    assert (telemetry.shed, list(tmp_path.iterdir())) == (0, [])
    spooled = open_telemetry(Config(telemetry="spool", spool_dir=tmp_path), "cron-worker")
    assert isinstance(spooled, SpoolTelemetry)


@pytest.mark.parametrize("module", ["shared.execution.telemetry", "shared.telemetry.spool", "shared.telemetry.shipper"])
def test_what_a_tick_imports_without_telemetry_is_light(module: str) -> None:
    code = f"import sys, {module}; print([name for name in sys.modules if name.split('.')[0] in "
    code += "{'opentelemetry', 'clickhouse_connect', 'urllib3', 'numpy'}])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
