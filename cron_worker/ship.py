"""Takes this host's spans to ClickHouse at the end of a tick, inside a deadline."""

import contextlib
import logging
import os
from pathlib import Path

from shared import clock
from shared.config import Config
from shared.db.pool import Database
from shared.errors import BackbeatError

DEADLINE = 3.0  # seconds; what is left waits for the next tick
AWAY = 300.0  # seconds that ticks of a host leave a ClickHouse alone which did not answer


async def ship(config: Config, db: Database, shed: int) -> None:
    """Ship what waits, and tell Postgres what does and what was `shed`. Nothing that is away fails the tick."""
    if config.telemetry == "off":
        return
    from shared.telemetry.spool import spool_status

    now, mark, outbox = spool_status(config.spool_dir), config.spool_dir / ".away", "postgres" in config.telemetry
    ships = bool(config.clickhouse_url) and (now.depth > 0 or outbox) and not _is_fresh(mark)
    if not (ships or shed or now.depth or now.shed):
        return
    from shared.execution import telemetry

    try:
        if ships:
            report = await telemetry.ship(config, db if outbox else None, DEADLINE)
            _put(mark, away=bool(report.error and not report.files))
            if report.quarantined or report.error:
                logging.warning("spans: %d batches set aside. %s", report.quarantined, report.error)
        await telemetry.tell(config, db, shed)
    except (BackbeatError, OSError) as error:
        logging.warning("spans wait: %s", error)


def _is_fresh(mark: Path) -> bool:
    with contextlib.suppress(OSError):
        return 0 <= clock.wall().timestamp() - mark.stat().st_mtime < AWAY
    return False


def _put(mark: Path, *, away: bool) -> None:
    if away:
        mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mark.touch()
        os.utime(mark, (clock.wall().timestamp(),) * 2)
    else:
        mark.unlink(missing_ok=True)
