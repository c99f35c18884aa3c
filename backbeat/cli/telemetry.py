"""`backbeat telemetry`: the spool of this host, on its way to ClickHouse."""

from datetime import timedelta

import click

from backbeat.cli.arguments import duration
from backbeat.cli.output import emit, output_option, talk
from backbeat.cli.prices import prices


@click.group()
def telemetry() -> None:
    """Ship spooled spans to ClickHouse.

    A tick ships at its end. A host that only enqueues, or runs the Temporal worker, needs `telemetry ship` on a timer.
    """


telemetry.add_command(prices)


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
