"""`backbeat report` and `backbeat trace`: questions that ClickHouse answers."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from backbeat.cli.arguments import duration
from backbeat.cli.output import clean, database, emit, output_option, run_async, say_what_is_simulated

if TYPE_CHECKING:
    from shared.config import Config


@click.command()
@click.argument("name", default="summary")
@click.option("--since", type=duration, default="7d", show_default=True, help="Only what began since.")
@output_option
def report(name: str, since: timedelta, output: str) -> None:
    """Ask ClickHouse what work cost and how fast it was.

    The report `summary` has calls, tokens, cost and latency by workflow and tier. A cost is what is known of it: calls
    under `unpriced` are not in it.
    """
    from backbeat.reports.render import run_report

    say_what_is_simulated(config := _config())
    table = run_report(_clickhouse(config), name, since)
    rows: list[dict[str, Any]] = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    emit(rows, output=output)


@click.group()
def trace() -> None:
    """Follow one task from its enqueuer to its effect."""


@trace.command()
@click.argument("identifier", metavar="TRACE_OR_TASK_ID")
@output_option
def show(identifier: str, output: str) -> None:
    """Show a trace as a tree: every attempt, call, approval and effect with its time and cost."""
    from backbeat.reports.trace import trace_spans, trace_tree

    config = _config()
    clickhouse = _clickhouse(config)
    task = _task_id(identifier)
    trace_id = run_async(_trace_of(config, task)) if task else identifier.lower()
    if output == "json":
        emit(trace_spans(clickhouse, trace_id), output=output)
    else:
        click.echo(clean(trace_tree(clickhouse, trace_id)), nl=False)


def _config() -> "Config":
    from shared.config import load

    return load()


def _clickhouse(config: "Config") -> str:
    from shared.errors import ConfigError

    if not config.clickhouse_url:
        raise ConfigError("clickhouse_url is not set", fix="Set BACKBEAT_CLICKHOUSE_URL, or run `backbeat up` here")
    return config.clickhouse_url


def _task_id(text: str) -> UUID | None:
    """A task id is written with dashes, a trace id without."""
    try:
        return UUID(text) if "-" in text else None
    except ValueError:
        return None


async def _trace_of(config: "Config", task: UUID) -> str:
    from shared.db import inspect
    from shared.ids import parse_traceparent

    async with database(config) as db:
        return parse_traceparent((await inspect.story(db, task)).task["traceparent"]).trace_id
