"""Takes this host's spool to ClickHouse at the end of a tick, inside a deadline."""

import asyncio
import logging

from shared.config import Config
from shared.errors import BackbeatError

DEADLINE = 3.0  # seconds; what is left waits for the next tick


async def ship(config: Config) -> None:
    """Ship what is spooled. A ClickHouse that is away costs the deadline at most, and never fails the tick."""
    if config.telemetry == "off" or not config.clickhouse_url or not any(config.spool_dir.glob("*")):
        return
    from shared.telemetry.shipper import ship_once

    try:
        report = await asyncio.to_thread(ship_once, config.spool_dir, config.clickhouse_url, DEADLINE)
    except BackbeatError as error:
        logging.warning("spans stay in %s: %s", config.spool_dir, error)
        return
    if report.quarantined:
        logging.warning("%d spool files are damaged: see %s", report.quarantined, config.spool_dir / "quarantine")
    elif report.error:
        logging.warning("spans stay in %s: %s", config.spool_dir, report.error)
