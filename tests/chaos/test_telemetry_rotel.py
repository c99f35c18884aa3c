"""An independent OTLP agent writes into the same tables: `telemetry = otlp` by way of rotel, beside the spool."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from importlib import import_module
from pathlib import Path

import pytest

from backbeat.embedded import ports
from shared.config import Config
from shared.execution.telemetry import open_telemetry
from shared.telemetry.recorder import Recorder
from shared.telemetry.shipper import ship_once
from shared.telemetry.spans import Telemetry
from tests.chaos.support.spanner import cost
from tests.support.clickhouse import PASSWORD, ask, call, process, spool
from tests.support.signals import until

CALLS = 300
# What both senders say of one span. Not its kind: rotel 0.0.1a15 calls a consumer "client", so `task_runs` misses it.
ROW = """
SELECT Timestamp, TraceId, SpanId, ParentSpanId, SpanName, ServiceName, mapSort(SpanAttributes), Duration,
    StatusCode, Links.TraceId FROM otel_traces WHERE SpanName = 'process code_review' ORDER BY ScopeVersion, Timestamp
"""


@contextmanager
def agent(clickhouse: str, port: int, log: Path) -> Iterator[None]:
    """rotel, listening on loopback, with ClickHouse behind it."""
    rotel = import_module("rotel")  # `make soak` installs it; without it the soak fails rather than skips
    server, _, database = clickhouse.rpartition("/")
    program = str(Path(rotel.__file__ or "").with_name("rotel-agent"))
    flags = {
        "otlp-http-endpoint": f"127.0.0.1:{port}",
        "otlp-grpc-endpoint": f"127.0.0.1:{ports.find()}",
        "clickhouse-exporter-endpoint": f"http://{server.rpartition('@')[2]}",
        "clickhouse-exporter-database": database,
        "clickhouse-exporter-user": "tester",
        "clickhouse-exporter-password": PASSWORD,
    }
    with log.open("wb") as out:
        given = [part for name, value in flags.items() for part in (f"--{name}", value)]
        process = subprocess.Popen([program, "start", "--exporter", "clickhouse", *given], stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.soak
def test_what_rotel_sends_counts_like_what_is_spooled(
    clickhouse: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = ports.find()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    with agent(clickhouse, port, tmp_path / "rotel.log"):
        telemetry = open_telemetry(Config(telemetry="otlp", spool_dir=tmp_path / "none"), "cron-worker")
        telemetry.record(process())
        for number in range(CALLS):
            telemetry.record(call(number, backbeat__cost_usd=str(cost(1, number))))
        until(lambda: _is_sent(telemetry), within=60, what="rotel")
        telemetry.close()
        assert telemetry.shed == 0, (tmp_path / "rotel.log").read_text()
        arrived = "SELECT count() FROM otel_traces"
        until(lambda: ask(clickhouse, arrived) == [(CALLS + 1,)], within=60, what=(tmp_path / "rotel.log").read_text())
    spool(tmp_path / "spool", process(), *(call(n, backbeat__cost_usd=str(cost(1, n))) for n in range(CALLS)))
    assert ship_once(tmp_path / "spool", clickhouse, 60).spans == CALLS + 1
    paid = sum((cost(1, number) for number in range(CALLS)), Decimal())
    assert ask(clickhouse, "SELECT count(), sum(CostUsd) FROM llm_calls") == [(2 * CALLS, 2 * paid)]
    assert ask(clickhouse, "SELECT count(), sum(CostUsd) FROM v_llm_calls") == [(CALLS, paid)]
    by_rotel, by_spool = ask(clickhouse, ROW)
    assert by_rotel == by_spool


def _is_sent(telemetry: Telemetry) -> bool:
    assert isinstance(telemetry, Recorder)
    telemetry.flush()
    return all(writer.wait(5) for writer in telemetry._writers)
