"""Spans: recorded by the work, spooled to disk, shipped to ClickHouse by somebody else."""

from shared.config import Config
from shared.telemetry.spans import NullTelemetry, Telemetry


def open_telemetry(config: Config, service: str) -> Telemetry:
    """The sink that `config.telemetry` names."""
    if config.telemetry == "off":
        return NullTelemetry()
    from shared.telemetry.recorder import SpoolTelemetry

    return SpoolTelemetry(config.spool_dir, service)
