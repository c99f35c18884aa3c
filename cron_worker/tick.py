"""One tick: look, and if there is anything to do, work until the budget is used up.

Overlapping ticks are boring: Postgres decides who gets a row. `budget` bounds starts, `grace` bounds ends,
so whatever supervises a tick should kill it no sooner than budget + grace + 5 seconds. Without a supervisor, the
process' own watchdog ends a tick that hangs.
"""

import asyncio

from cron_worker.limits import Limits, Report
from cron_worker.ship import ship
from shared.config import Config
from shared.db.pool import MINIMUM_SCHEMA, connect, schema_version
from shared.db.queries import load
from shared.errors import ConfigError, SchemaError


async def tick(config: Config, limits: Limits, stop: asyncio.Event | None = None) -> Report:
    """Do one tick's work and return what was done. An empty queue costs one connection and two queries.

    `stop` ends claiming early. Raises UnavailableError when Postgres is away, SchemaError when it is not
    migrated, DefinitionError when a task module does not import.
    """
    if not config.database_url:
        raise ConfigError("database_url is not set", fix="Set BACKBEAT_DATABASE_URL, or run `backbeat up` here")
    report = Report()
    async with connect(config.database_url, away=config.postgres_away) as db:
        if (await schema_version(db)) < MINIMUM_SCHEMA:
            raise SchemaError("the database is not migrated far enough", fix="Run `backbeat migrate up`")
        shed = 0
        if (found := await db.row(load("queue")["anything_to_do"]))["work"]:
            # Imported when there is work: definitions, vendors and spans are most of what a tick costs.
            from cron_worker.round import Round, environment

            async with environment(config, db, limits) as env:
                report = await Round(env, limits, report, stop or asyncio.Event()).run()
            shed = env.telemetry.untold
        elif found["due"]:
            await db.rows(load("queue")["maintain_partitions"])
        await ship(config, db, shed)
    return report
