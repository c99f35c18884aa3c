"""`backbeat telemetry`: spans on their way to ClickHouse, and what Postgres knows put in their place."""

import asyncio
import signal
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backbeat.cli.arguments import duration
from backbeat.cli.output import database, emit, output_option, run_async, talk
from backbeat.cli.prices import prices

if TYPE_CHECKING:
    from backbeat.operate.rebuild import Rebuilt
    from shared.config import Config
    from shared.telemetry.shipper import ShipReport

MOST_SAID = 10  # batches that were set aside, the newest
WATCH_SECONDS, LONGEST_SECONDS = 5.0, 60.0  # between rounds that found nothing, and that failed


@click.group()
def telemetry() -> None:
    """Ship spans to ClickHouse.

    A tick ships at its end, the Temporal worker every 5 s. A host that only enqueues needs `telemetry ship`.
    """


telemetry.add_command(prices)


@telemetry.command()
@click.option("--within", type=duration, default="30s", show_default=True, help="Then leave the rest for next time.")
@click.option("--watch/--once", help="Go on until SIGTERM, or do one round.  [default: once]")
@output_option
@click.pass_context
def ship(ctx: click.Context, within: timedelta, watch: bool, output: str) -> None:
    """Send what waits on this host's disk and in Postgres, oldest first, each batch once.

    Exits 75 when ClickHouse did not take all of it. With --watch what is away is said once and waited for.
    """
    from shared.errors import EXIT_OK, EXIT_TEMPORARY

    config, seconds = _config(), within.total_seconds()
    if watch:
        run_async(_watch(config, seconds))
        return
    report = run_async(_round(config, seconds))
    if report.error:
        talk(f"backbeat: {report.error}")
    emit(report, output=output)
    ctx.exit(EXIT_TEMPORARY if report.remaining or report.error else EXIT_OK)


@telemetry.command()
@output_option
def status(output: str) -> None:
    """Show how far ClickHouse is behind this host."""
    from shared.config import load
    from shared.telemetry.spool import spool_status

    config = load()
    emit({"spool": config.spool_dir, **spool_status(config.spool_dir)._asdict()}, output=output)
    say_what_was_set_aside(config.spool_dir)


def say_what_was_set_aside(spool: Path) -> None:
    """Batches of this host that ClickHouse cannot read, and why."""
    from shared.telemetry.spool import QUARANTINE, REASON

    for path in sorted((spool / QUARANTINE).glob(f"*{REASON}"))[-MOST_SAID:]:
        talk(f"set aside: {path.stem}: {path.read_text(encoding='utf-8')}")


@telemetry.command()
@click.option("--since", type=duration, default="400d", show_default=True, help="How far back.")
@click.option("--dry-run", is_flag=True, help="Only count what is missing.")
@output_option
def rebuild(since: timedelta, dry_run: bool, output: str) -> None:
    """Fill the facts from Postgres: model calls and attempts that ClickHouse does not know, and the hours they are in.

    What did arrive is recognised by its span and counts once, also when it arrives again later. What was erased is not
    told again.
    """
    done = run_async(_rebuild(_config(), since, dry_run))
    emit(done, output=output)
    if done.waiting:
        talk(f"note: {done.waiting} batches are still on their way; run it again when they have arrived")


@telemetry.command()
@click.option("--parquet", "target", type=click.Path(path_type=Path), required=True, metavar="FILE|DIR")
@click.option(
    "--table", "tables", multiple=True, metavar="NAME", help="llm_calls, task_runs, spans, …; may be repeated."
)
@click.option("--since", type=duration, help="Only what began since; all there is without it.")
@output_option
def export(target: Path, tables: tuple[str, ...], since: timedelta | None, output: str) -> None:
    """Write the facts as Parquet files, for DuckDB, BigQuery and others.

    One file a table into a directory, or one table into FILE.parquet. A row stands once and money is DECIMAL. Without
    --table it is all facts; the spans themselves only when asked for.
    """
    from backbeat.analyst.export import export as write
    from shared import clock

    began = clock.wall() - since if since else None
    emit(write(_config().clickhouse_url, target, tables, began), output=output)


def _config() -> "Config":
    from shared.config import load
    from shared.errors import ConfigError

    config = load()
    if not config.clickhouse_url:
        raise ConfigError("clickhouse_url is not set", fix="Set BACKBEAT_CLICKHOUSE_URL, or run `backbeat up` here")
    return config


async def _round(config: "Config", seconds: float) -> "ShipReport":
    """One round; without Postgres, of this host's disk alone."""
    from shared.errors import BackbeatError
    from shared.execution.telemetry import ship, tell

    if not config.database_url:
        return await ship(config, None, seconds)
    try:
        async with database(config) as db:
            report = await ship(config, db, seconds)
            await tell(config, db, 0)
            return report
    except BackbeatError as error:
        report = await ship(config, None, seconds)
        return report._replace(error=report.error or error.what)


async def _watch(config: "Config", seconds: float) -> None:
    stop, said, pause = asyncio.Event(), "", WATCH_SECONDS
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set():
        report = await _round(config, seconds)
        if report.error != said:
            talk(f"backbeat: {report.error or 'ships again'}")
        said = report.error
        pause = min(2 * pause, LONGEST_SECONDS) if report.error else WATCH_SECONDS
        try:
            await asyncio.wait_for(stop.wait(), 0.0 if report.files and not report.error else pause)
        except TimeoutError:
            continue


async def _rebuild(config: "Config", since: timedelta, dry_run: bool) -> "Rebuilt":
    from backbeat.operate import rebuild as facts
    from shared import clock

    async with database(config) as db:
        return await facts.rebuild(db, config, clock.wall() - since, dry_run=dry_run)
