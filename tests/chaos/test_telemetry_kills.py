"""kill -9 of writer, shipper and ClickHouse in mid stream: what was acknowledged is there once, in all three tables."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from backbeat.migrate_clickhouse import clickhouse_up
from shared.telemetry.shipper import ship_once
from shared.telemetry.spool import spool_status
from tests.chaos.conftest import soaking
from tests.chaos.support.spanner import spans
from tests.support.clickhouse import CALLS, HOURS, Server, ask
from tests.support.command import clean_environ
from tests.support.tree import ROOT

COUNTS = """
SELECT count(), uniqExact((SpanId, SpanAttributes['backbeat.call_status'])),
    countIf(SpanAttributes['backbeat.call_status'] = 'lost'),
    sum(toDecimal64OrZero(SpanAttributes['backbeat.cost_usd'], 9)) FROM otel_traces
UNION ALL
SELECT count(), uniqExact((SpanId, CallStatus)), countIf(CallStatus = 'lost'), sum(ifNull(CostUsd, 0)) FROM llm_calls
UNION ALL
SELECT sum(Calls) + sum(LostCalls), sum(Calls) + sum(LostCalls), sum(h.LostCalls), sum(h.CostUsd) FROM llm_hourly AS h
"""


class Writer:
    """A process that writes; what it said is read when it is dead."""

    def __init__(self, spool: Path, first: int, seed: int, log: Path) -> None:
        self.log = log
        command = [sys.executable, "-m", "tests.chaos.support.spanner", str(spool), str(first), str(seed)]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=out)

    def kill(self) -> None:
        """End it, if it runs."""
        self.process.kill()
        self.process.wait()

    def said(self) -> tuple[list[int], list[int]]:
        """Batches begun, and acknowledged. What has no end of line yet is half said, or half written at its death."""
        lines = [line.split() for line in self.log.read_text().split("\n")[:-1]]
        return [int(n) for word, n in lines if word == "begin"], [int(n) for word, n in lines if word == "done"]


@contextmanager
def shipping(spool: Path, url: str) -> "Iterator[subprocess.Popen[bytes]]":
    """`backbeat telemetry ship --watch`, without a database."""
    environ = clean_environ() | {"BACKBEAT_CLICKHOUSE_URL": url, "BACKBEAT_SPOOL_DIR": str(spool)}
    command = [sys.executable, "-m", "backbeat", "telemetry", "ship", "--watch", "--within", "2s"]
    process = subprocess.Popen(command, cwd=spool.parent, env=environ | {"PYTHONPATH": str(ROOT)}, stderr=-3)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", range(soaking(1, 50)))
def test_what_is_acknowledged_arrives_once(private_clickhouse: Server, tmp_path: Path, seed: int, number: int) -> None:
    chance, spool, url = Random(f"{seed}:{number}"), tmp_path / "spool", private_clickhouse.url("backbeat")
    clickhouse_up(url)
    victims = ["writer", "shipper", "server"]
    chance.shuffle(victims)
    begun: list[int] = []
    acknowledged: list[int] = []
    with ExitStack() as stack:
        ship = stack.enter_context(shipping(spool, url))
        for turn, victim in enumerate(victims * soaking(1, 2)):
            writer = Writer(spool, max(begun, default=-1) + 1, seed, tmp_path / f"writer-{turn}.log")
            stack.callback(writer.kill)
            _until_written(writer, chance.randint(2, 8))
            if victim == "server":
                private_clickhouse.kill()
            elif victim == "shipper":
                ship.send_signal(signal.SIGKILL)
            writer.kill()
            if victim == "server":
                private_clickhouse.start()
            elif victim == "shipper":
                ship = stack.enter_context(shipping(spool, url))
            started, done = writer.said()
            begun, acknowledged = begun + started, acknowledged + done
    for path in spool.glob("*.tmp"):  # the writer is dead, so its half file is complete or broken
        os.utime(path, (time.time() - 3600,) * 2)
    report = ship_once(spool, url, 120)
    assert (report.remaining, report.error) == (0, "")
    assert spool_status(spool).shed == 0
    _balance(url, seed, begun, acknowledged)


def _until_written(writer: Writer, batches: int) -> None:
    deadline = time.monotonic() + 60
    while len(writer.said()[1]) < batches:
        assert time.monotonic() < deadline, "nothing is written"
        assert writer.process.poll() is None
        time.sleep(0.01)


def _balance(url: str, seed: int, begun: list[int], acknowledged: list[int]) -> None:
    """A batch in doubt is there as a whole or not at all; the others are, once."""
    distinct = "SELECT DISTINCT SpanId || SpanAttributes['backbeat.call_status'] FROM otel_traces"
    there = {span for (span,) in ask(url, distinct)}
    arrived = set()
    for batch in begun:
        wanted = {span.span_id + span.attributes["backbeat.call_status"] for span in spans(seed, batch)}
        assert wanted <= there or (batch not in acknowledged and not wanted & there)
        arrived |= {batch} if wanted <= there else set()
    told = [span for batch in arrived for span in spans(seed, batch)]
    real = [span for span in told if span.attributes["backbeat.call_status"] == "done"]
    paid = sum((Decimal(span.attributes["backbeat.cost_usd"]) for span in real), Decimal())
    lost = len(told) - len(real)
    assert ask(url, COUNTS) == [(len(told), len(told), lost, paid)] * 3
    # A lost one and its truth are one call.
    calls = {span.span_id for span in told}
    shown = "SELECT count(), countIf(CallStatus = 'lost'), sum(CostUsd) FROM v_llm_calls"
    assert ask(url, shown) == [(len(calls), len(calls - {span.span_id for span in real}), paid)]
    assert ask(url, CALLS) == ask(url, HOURS)
    assert len(arrived) >= len(acknowledged) >= 6
