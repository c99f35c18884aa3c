"""`backbeat query`: an analyst's own question."""

import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from backbeat.cli.output import emit, say_what_is_simulated
from backbeat.visible import clean

if TYPE_CHECKING:
    from shared.config import Config


@click.command()
@click.argument("sql")
@click.option(
    *("-o", "--output"),
    type=click.Choice(["text", "json", "csv"]),
    default="text",
    show_default=True,
    help="A table for people, JSON for programs, CSV for sheets.",
)
def query(sql: str, output: str) -> None:
    """Ask ClickHouse one SELECT; `-` reads it from stdin.

    It is asked as the analyst, who can read, within limits of time, memory and rows, and nothing else. Decimals are
    exact. Ask the views: `backbeat query "SHOW TABLES LIKE 'v_%'"`.
    """
    from backbeat.analyst.ask import as_csv, ask
    from shared.config import load

    config = load()
    url = analyst_url(config)
    text = sys.stdin.read() if sql == "-" else sql
    say_what_is_simulated(config)
    answer = ask(url, text)
    if output == "csv":
        click.echo(clean(as_csv(answer).replace("\r\n", "\n")), nl=False)
    else:
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        emit(rows if output == "json" else [_exact(row) for row in rows], output=output, as_is=True)


def _exact(row: dict[str, Any]) -> dict[str, Any]:
    """Whether a decimal is dollars is not ours to say."""
    return {name: format(cell, "f") if isinstance(cell, Decimal) else cell for name, cell in row.items()}


def analyst_url(config: "Config") -> str:
    """Where an analyst asks. Raises ConfigError where nobody configured it."""
    from shared.errors import ConfigError

    if not config.analyst_url:
        fix = "Run `backbeat up`, or make one by deploy/clickhouse/analyst.sql and set BACKBEAT_ANALYST_URL"
        raise ConfigError("no analyst's login for ClickHouse is configured", fix=fix)
    return config.analyst_url
