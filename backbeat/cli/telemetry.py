"""`backbeat telemetry`: the spool of this host, on its way to ClickHouse."""

from datetime import timedelta
from pathlib import Path

import click

from backbeat.cli.arguments import duration
from backbeat.cli.output import emit, output_option, talk


@click.group()
def telemetry() -> None:
    """Ship spooled spans to ClickHouse.

    A tick ships at its end. A host that only enqueues, or runs the Temporal worker, needs `telemetry ship` on a timer.
    """


@telemetry.command()
@click.option("--within", type=duration, default="30s", show_default=True, help="Then leave the rest for next time.")
@output_option
@click.pass_context
def ship(ctx: click.Context, within: timedelta, output: str) -> None:
    """Send what waits, oldest first, each file once.

    Exits 75 when ClickHouse did not take all of it.
    """
    from shared.config import load
    from shared.errors import EXIT_OK, EXIT_TEMPORARY, ConfigError
    from shared.telemetry.shipper import ship_once

    config = load()
    if not config.clickhouse_url:
        raise ConfigError("clickhouse_url is not set", fix="Set BACKBEAT_CLICKHOUSE_URL, or run `backbeat up` here")
    report = ship_once(config.spool_dir, config.clickhouse_url, within.total_seconds())
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
    from shared.config import load
    from shared.errors import ConfigError

    config = load()
    if not config.clickhouse_url:
        raise ConfigError("clickhouse_url is not set", fix="Set BACKBEAT_CLICKHOUSE_URL, or run `backbeat up` here")
    emit(write(config.clickhouse_url, target, tables, clock.wall() - since if since else None), output=output)
