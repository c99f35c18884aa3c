"""Where this process' spans go, and how they get from here to ClickHouse."""

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from shared.config import Config
from shared.db import telemetry as outbox
from shared.db.pool import Database
from shared.errors import ConfigError
from shared.telemetry.shipper import ShipReport, ship_once
from shared.telemetry.spans import NullTelemetry, Telemetry
from shared.telemetry.spool import QUARANTINE, REASON, SUFFIX, content, count_shed, model_calls, new_token, spool_status

LAST_EXPORT = 1.0  # seconds that the end of a process waits for a collector


def open_telemetry(config: Config, service: str) -> Telemetry:
    """The sinks that `config.telemetry` names."""
    if config.telemetry == "off":
        return NullTelemetry()
    from shared.telemetry.recorder import Recorder, SpoolTelemetry, Writer, spool

    if config.telemetry == "spool":
        return SpoolTelemetry(config.spool_dir, service)
    known: dict[str, Callable[[Path], Writer]] = {
        "spool": lambda counts: Writer(spool(counts), counts),
        "postgres": lambda counts: Writer(_postgres(config), counts, "telemetry_outbox"),
        "otlp": lambda counts: Writer(_otlp(), counts, "the collector", form=lambda span: span, last=LAST_EXPORT),
    }
    return Recorder(service, [known[mode](config.spool_dir) for mode in config.telemetry.split(",")])


def _postgres(config: Config) -> Callable[[list[bytes]], int]:
    from shared.telemetry.recorder import MAX_SPOOL

    out = outbox.SpanOutbox(config.database_url)

    def put(lines: list[bytes]) -> int:
        kept = lines if out.size < MAX_SPOOL else model_calls(lines)
        if kept:
            out.put(new_token(), len(kept), content(kept))
        return len(lines) - len(kept)

    return put


def _otlp() -> Callable[[list[Any]], int]:
    """To a collector, as the variables OTEL_EXPORTER_OTLP_… say; what it does not take within its time-out is shed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(f"telemetry otlp: {error}", fix="Install backbeat[otlp]") from error
    logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)  # the count says it
    exporter = OTLPSpanExporter()
    return lambda spans: len(spans) * exporter.export(spans).value  # 0 is success


async def ship(config: Config, db: Database | None, seconds: float) -> ShipReport:
    """Ship this host's spool and then what waits in Postgres, each for at most so many seconds.

    What leaves the outbox is a spool for that long. Raises ConfigError when the URL is none.
    """
    report = await asyncio.to_thread(ship_once, config.spool_dir, config.clickhouse_url, seconds)
    if db is None or report.error or not (batches := await outbox.lease(db)):
        return report
    with TemporaryDirectory() as space:
        names = {batch["id"]: f"{batch['id'].hex}{SUFFIX}" for batch in batches}
        for batch in batches:
            (Path(space) / names[batch["id"]]).write_bytes(batch["file"])
        sent = await asyncio.to_thread(ship_once, Path(space), config.clickhouse_url, seconds)
        for one, name in names.items():
            if not (Path(space) / name).exists():
                why = Path(space) / QUARANTINE / f"{name}{REASON}"
                await outbox.settle(db, one, why.read_text(encoding="utf-8") if why.exists() else None)
    sums = {name: getattr(report, name) + getattr(sent, name) for name in report._fields[:4]}
    return sent._replace(**sums)


async def tell(config: Config, db: Database, shed: int) -> None:
    """Tell Postgres how this host's spool is, and what was shed: so many spans, and those counted on the disk."""
    now = spool_status(config.spool_dir)
    await outbox.tell(db, socket.gethostname(), now.depth, now.oldest_seconds, now.quarantined, shed + now.shed)
    if now.shed:
        count_shed(config.spool_dir, -now.shed)
