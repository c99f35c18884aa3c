"""`backbeat report` and `backbeat trace`: questions that ClickHouse answers."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from backbeat.cli.arguments import SHORTEST_ID, Id, duration
from backbeat.cli.output import clean, database, emit, output_option, run_async, say_what_is_simulated, talk

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
    _say_what_is_missing(config)


@click.group()
def trace() -> None:
    """Follow one task from its enqueuer to its effect."""


@trace.command()
@click.argument("identifier", metavar="TRACE_OR_TASK_ID")
@output_option
def show(identifier: str, output: str) -> None:
    """Show a trace as a tree: every attempt, call, approval and effect with its time and cost."""
    from backbeat.reports.trace import trace_spans, trace_tree
    from shared.errors import NotFoundError

    config = _config()
    clickhouse = _clickhouse(config)
    trace_id = _trace_id(config, clickhouse, identifier)
    try:
        shown = trace_spans(clickhouse, trace_id) if output == "json" else trace_tree(clickhouse, trace_id)
    except NotFoundError as error:
        raise NotFoundError(error.what, fix=_unshipped(config) or error.fix) from error
    if isinstance(shown, str):
        click.echo(clean(shown), nl=False)
    else:
        emit(shown, output=output)
    _say_what_is_missing(config)


def _config() -> "Config":
    from shared.config import load

    return load()


def _clickhouse(config: "Config") -> str:
    from shared.errors import ConfigError

    if not config.clickhouse_url:
        fix = "Run `backbeat up` without `--profile cron-only`, or set BACKBEAT_CLICKHOUSE_URL"
        raise ConfigError(f"no ClickHouse is configured (telemetry is {config.telemetry!r})", fix=fix)
    return config.clickhouse_url


def _unshipped(config: "Config") -> str:
    """What ClickHouse does not have yet of this host, and how to change that; empty when it has all."""
    from shared.telemetry.spool import spool_status

    waiting = spool_status(config.spool_dir)
    if not waiting.depth:
        return ""
    age = f"{waiting.oldest_seconds or 0.0:,.0f}"
    return (
        f"{waiting.depth} spool files of this host are not shipped, the oldest {age} s old: `backbeat telemetry ship`"
    )


def _say_what_is_missing(config: "Config") -> None:
    if missing := _unshipped(config):
        talk(f"note: rows may be missing; {missing}")


def _trace_id(config: "Config", clickhouse: str, text: str) -> str:
    """The trace that a task id (with dashes or a part of it) or a trace id (whole or a part of it) means."""
    from backbeat.reports.trace import complete_trace
    from shared.errors import InputError, NotFoundError

    digits = text.replace("-", "").lower()
    if not SHORTEST_ID <= len(digits) <= 32 or not set(digits) <= set("0123456789abcdef"):
        raise InputError(f"{text!r} is not a trace id, nor a task's", fix=f"Give {SHORTEST_ID} of its digits at least")
    if len(digits) == 32 and "-" not in text:
        return digits
    task = Id("task")
    try:
        return run_async(_trace_of(config, task.convert(text, None, None)))
    except NotFoundError:
        if "-" in text:
            raise
    return complete_trace(clickhouse, digits)


async def _trace_of(config: "Config", task: UUID) -> str:
    from backbeat.operate import inspect
    from shared.ids import parse_traceparent

    async with database(config) as db:
        return parse_traceparent((await inspect.story(db, task)).task["traceparent"]).trace_id
