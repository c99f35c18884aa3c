"""`backbeat telemetry prices`: list prices beside the calls."""

import click

from backbeat.cli.output import emit, output_option


@click.command()
@output_option
def prices(output: str) -> None:
    """Bring the list prices in ClickHouse up to date, for `report cache`.

    Every model that was called gets its prices, and each day on which they changed, from the price data that calls are
    booked by.
    """
    from backbeat.clickhouse import session
    from backbeat.reports.prices import refresh
    from shared.config import load
    from shared.errors import ConfigError

    config = load()
    if not config.clickhouse_url:
        raise ConfigError("clickhouse_url is not set", fix="Set BACKBEAT_CLICKHOUSE_URL, or run `backbeat up` here")
    with session(config.clickhouse_url) as client:
        emit(refresh(client), output=output, title="models called")
