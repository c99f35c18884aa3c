"""`backbeat report` and `backbeat trace`: questions that ClickHouse answers."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from backbeat.cli.arguments import SHORTEST_ID, Id, duration
from backbeat.cli.output import database, emit, output_option, run_async, say_what_is_simulated, talk
from backbeat.visible import clean

if TYPE_CHECKING:
    from backbeat.reports.ask import Answer, Period
    from backbeat.reports.condition import Term
    from backbeat.reports.reconcile import Bill
    from shared.config import Config


OUTPUTS = ("text", "json", "csv", "svg")


@click.command()
@click.argument("name", required=False)
@click.option("--since", metavar="TIME", help="From here on: 7d, 2026-11-01, or a moment.  [default: the report's]")
@click.option("--until", metavar="TIME", help="Up to here, without it.  [default: now]")
@click.option("--zone", default="UTC", show_default=True, help="Whose days, weeks and months, such as Europe/Berlin.")
@click.option("--by", metavar="KEY,…", default="", help="Group by these; a wrong one is answered with the list.")
@click.option("--bill", type=click.Path(path_type=Path), help="For `reconcile`: a CSV of day, model and cost_usd.")
@click.option("--fail-if", "condition", metavar="EXPR", help="Exit 6 if it holds for a row: 'change > 20%'.")
@click.option(
    *("-o", "--output"), type=click.Choice(OUTPUTS), default="text", show_default=True, help="svg is a chart."
)
@click.pass_context
def report(
    ctx: click.Context,
    name: str | None,
    since: str | None,
    until: str | None,
    zone: str,
    by: str,
    bill: Path | None,
    condition: str | None,
    output: str,
) -> None:
    """Ask ClickHouse what work cost, how fast it was and what got worse.

    Without NAME it lists the reports. A cost is what is known of it: calls under `unpriced` are not in it.

    --fail-if compares columns with numbers (20% is 0.2) or 'text': = != < <= > >=, joined by `and`. What is unknown
    is not compared, and said. Exit 6 when it holds for a row, after printing the report, 0 when for none.
    """
    from backbeat.reports.ask import ask
    from backbeat.reports.catalog import find, names
    from backbeat.reports.condition import parse
    from backbeat.reports.reconcile import beside
    from shared.errors import NotFoundError

    if name is None:
        rows = [{"report": each, "title": find(each).title} for each in names()]
        emit(rows, output="json" if output == "json" else "text")
        return
    if name not in names():
        for each in names():
            talk(f"  {each:18}{find(each).title}")
        raise NotFoundError(f"there is no report {name!r}", fix="Take one of those above")
    chosen = find(name)
    terms = parse(condition) if condition is not None else []
    period = read_period(since, until, zone, chosen.since)
    keys = [key.strip() for key in by.split(",") if key.strip()]
    billed = _bill(name, bill)
    if billed and not (since or until):
        period = _days_of(billed, zone)
    say_what_is_simulated(config := _config())
    answer = ask(_clickhouse(config), chosen, period, keys)
    if billed:
        answer = beside(answer, billed)
    _print(answer, output)
    _say_what_is_missing(config)
    ctx.exit(_verdict(answer, terms))


def _print(answer: "Answer", output: str) -> None:
    from backbeat.reports import render

    if output == "svg":
        from backbeat.reports.plot import render_svg

        click.echo(render_svg(answer), nl=False)
    else:
        text = getattr(render, f"render_{output}")(answer)
        click.echo(clean(text) if output == "text" else text, nl=output == "json")
    if output == "csv" or not answer.rows:
        talk(f"note: {'' if answer.rows else 'nothing in this period; '}{render.provenance(answer)}")


def read_period(since: str | None, until: str | None, zone: str, default: timedelta) -> "Period":
    """The period that the flags mean. Raises InputError."""
    from datetime import datetime
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    from backbeat.reports.ask import Period
    from shared import clock
    from shared.errors import InputError

    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"there is no time zone {zone!r}", fix="Give a name such as UTC or Europe/Berlin") from None
    now = clock.wall()

    def moment(text: str) -> datetime:
        if text[-1:] in set("smhdw"):
            return now - duration(text)
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            raise InputError(f"{text!r} is no time", fix="Give 7d, 2026-11-01 or 2026-11-01T08:00:00Z") from None
        return found if found.tzinfo else found.replace(tzinfo=place)

    end = moment(until) if until else now
    start = moment(since) if since else end - default
    if start >= end:
        raise InputError("the period ends before it begins", fix="Correct --since and --until")
    return Period(start, end, zone)


def _bill(name: str, path: Path | None) -> "Bill | None":
    from backbeat.reports.reconcile import read_bill
    from shared.errors import InputError

    if path is None:
        return None
    if name != "reconcile":
        raise InputError(f"report {name} takes no bill", fix="Leave --bill out, or ask `reconcile`")
    return read_bill(path)


def _days_of(bill: "Bill", zone: str) -> "Period":
    """From the bill's first day to the end of its last."""
    from datetime import datetime, time
    from zoneinfo import ZoneInfo

    from backbeat.reports.ask import Period

    days = [day for day, _ in bill]
    begin, end = (datetime.combine(day, time(), ZoneInfo(zone)) for day in (min(days), max(days) + timedelta(days=1)))
    return Period(begin, end, zone)


def _verdict(answer: "Answer", terms: "list[Term]") -> int:
    from backbeat.reports.condition import EXIT_HOLDS, judge
    from backbeat.reports.render import shown

    if not terms:
        return 0
    verdict = judge(terms, answer)
    if verdict.unknown:
        talk(f"note: {verdict.unknown} rows were not compared: something is unknown in them")
    columns = list(dict.fromkeys([*answer.by, *(term.column for term in terms)]))
    for row in verdict.rows:
        talk(f"holds: {', '.join(f'{name} {shown(row[name])}' for name in columns)}")
    return EXIT_HOLDS if verdict.rows else 0


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
