"""Telemetry `otlp`: to a collector of one's own, which may be slow or away without anybody waiting for it."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from shared.config import Config
from shared.execution.telemetry import open_telemetry
from shared.ids import span_id, trace_id
from shared.telemetry.spool import read_batch, spool_status
from tests.unit.test_spool_recorder import record

BODIES: list[bytes] = []


class _Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        BODIES.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What arrives there."""
    BODIES.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield BODIES
        server.shutdown()
        thread.join()


def test_spans_keep_their_ids_and_go_to_both(
    tmp_path: Path, collector: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.execution.telemetry.LAST_EXPORT", 30.0)
    telemetry = open_telemetry(Config(telemetry="spool,otlp", spool_dir=tmp_path), "cron-worker")
    telemetry.record(record(1, attributes={"gen_ai.operation.name": "chat"}))
    telemetry.record(record(2))
    telemetry.close()
    (path,) = tmp_path.glob("*.spool")
    assert (read_batch(path).rows, telemetry.shed) == (2, 0)
    (request,) = [ExportTraceServiceRequest.FromString(body) for body in collector]
    (resource,) = request.resource_spans
    spans = resource.scope_spans[0].spans
    assert [span.span_id.hex() for span in spans] == [span_id("process", 1), span_id("process", 2)]
    assert {span.trace_id.hex() for span in spans} == {trace_id("task", 1)}
    about = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert about["service.name"] == "cron-worker"


def test_a_collector_that_hangs_costs_50_ms_a_flush_and_a_second_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        telemetry = open_telemetry(Config(telemetry="otlp", spool_dir=tmp_path / "none"), "cron-worker")
        took = []
        for number in range(3):
            telemetry.record(record(number))
            started = time.monotonic()
            telemetry.flush()
            took.append(time.monotonic() - started)
        assert min(took) < 0.3, "the machine does not stand still each time"
        assert max(took) < 5, "the exporter has 10 s"
        started = time.monotonic()
        telemetry.close()
        assert time.monotonic() - started < 5
        assert (telemetry.shed, telemetry.untold) == (3, 3)
    assert "3 spans shed, the work goes on: they could not be written before the end" in caplog.text


def test_a_collector_that_refuses_is_counted(
    tmp_path: Path, collector: list[bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/nothing")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    monkeypatch.setattr("shared.execution.telemetry.LAST_EXPORT", 30.0)
    telemetry = open_telemetry(Config(telemetry="otlp", spool_dir=tmp_path), "cron-worker")
    telemetry.record(record())
    telemetry.close()
    assert telemetry.shed == 1
    assert spool_status(tmp_path).shed + telemetry.untold == 1
    assert sum("takes no more" in one for one in caplog.messages) == 1
