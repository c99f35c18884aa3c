"""`backbeat feedback`: what people say about results, a word at a time or by the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import UUID

import click

from backbeat.cli.arguments import Id, duration, moment
from backbeat.cli.output import database, emit, os_user, output_option, run_async, talk

if TYPE_CHECKING:
    from backbeat.operate.feedback import Word
    from shared.config import Config
    from shared.telemetry.spans import Telemetry

_COLUMNS = ("task_id", "label", "finding", "said_by", "said_at")
_SHOWN = 100  # bad lines that the answer names; stderr has them all


@click.group()
def feedback() -> None:
    """Say whether results were right.

    A label is correct, false_positive (it found what is none), missed (it did not find what is one), wrong, or one of
    your own. Of several words about one finding the last counts. `backbeat report quality` has what comes of it.
    """


@feedback.command()
@click.argument("task", type=Id("task"), metavar="TASK_OR_WORKFLOW_ID")
@click.argument("label")
@click.option("--finding", default="", metavar="TEXT", help="Which part of the result; all of it if not given.")
@click.option("--by", metavar="USER", help="Who says so; you, if not given.")
@click.option("--at", type=moment, metavar="WHEN", help="When it was said: 2030-01-31T08:00:00Z.")
@output_option
def add(task: UUID, label: str, finding: str, by: str | None, at: datetime | None, output: str) -> None:
    """Say one thing about one result."""
    from backbeat.operate.feedback import word
    from shared import clock

    said = (at or clock.wall()).isoformat()
    given = {"task": str(task), "label": label, "finding": finding, "by": by or "", "at": said}
    emit({"new": run_async(_keep([word(given, os_user())]))}, output=output)


@feedback.command("import")
@click.argument("source", type=click.File("rb"), metavar="FILE")
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv"]), help="If the file's name does not say.")
@click.option("--by", metavar="USER", help="Who says so where a line does not; you, if not given.")
@click.option(
    "--on-bad",
    type=click.Choice(["abort", "skip"]),
    default="abort",
    show_default=True,
    help="One bad line and nothing is kept, or the others are.",
)
@output_option
def import_(source: BinaryIO, format_: str | None, by: str | None, on_bad: str, output: str) -> None:
    """Read words from a FILE of JSON lines, or CSV with a header; - is stdin.

    Fields: task (an id of a task or workflow), label, and perhaps finding, by and at. A word that is known is not
    added again: a file may be read twice. Bad lines are named by number.
    """
    from shared.errors import InputError

    csv = format_ == "csv" if format_ else source.name.lower().endswith(".csv")
    bad: list[dict[str, Any]] = []
    words = dict(_read(source, csv, by or os_user(), bad))
    unknown = run_async(_unknown({said.task for said in words.values()}))
    bad += [
        {"line": n, "reason": f"there is no task or workflow {w.task}"} for n, w in words.items() if w.task in unknown
    ]
    bad.sort(key=lambda one: one["line"])
    for one in bad:
        talk(f"line {one['line']}: {one['reason']}")
    if bad and on_bad == "abort":
        what = f"{len(bad)} line{' is' if len(bad) == 1 else 's are'} bad, so nothing was kept"
        raise InputError(what, fix="Correct the file, or leave such lines out with --on-bad skip")
    good = [said for said in words.values() if said.task not in unknown]
    new = run_async(_keep(good))
    emit({"new": new, "known": len(good) - new, "bad": len(bad), "bad_lines": bad[:_SHOWN]}, output=output)


@feedback.command("list")
@click.option("--since", type=duration, default="30d", show_default=True, help="Only what was said since.")
@click.option("--task", type=Id("task"), metavar="ID", help="Only about this task, workflow or origin.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, show_default=True)
@output_option
def list_(since: timedelta, task: UUID | None, limit: int, output: str) -> None:
    """List what was said, the newest first."""

    async def main() -> list[dict[str, Any]]:
        from backbeat.operate.feedback import latest
        from shared.config import load

        async with database(load()) as db:
            return await latest(db, since, task, limit)

    emit(run_async(main()), columns=_COLUMNS, output=output)


@feedback.command()
@click.option("--since", type=duration, default="30d", show_default=True, help="What was said since.")
@output_option
def retell(since: timedelta, output: str) -> None:
    """Tell ClickHouse again; what it knows stays one word.

    For what was said where telemetry was off, or by a command that died before it could tell.
    """

    async def main() -> int:
        from backbeat.operate.feedback import retell as tell
        from shared.config import load

        with _telemetry(config := load()) as telemetry:
            async with database(config) as db:
                return sum([count async for count in tell(db, telemetry, since)])

    emit({"told": run_async(main())}, output=output)


def _read(source: BinaryIO, csv: bool, by: str, bad: list[dict[str, Any]]) -> "Iterator[tuple[int, Word]]":
    from backbeat.cli.lines import csv_rows, json_lines
    from backbeat.operate.feedback import word
    from shared.errors import InputError

    for number, value in (csv_rows if csv else json_lines)(source):
        try:
            if isinstance(value, InputError):
                raise value
            yield number, word(value, by)
        except InputError as error:
            bad.append({"line": number, "reason": error.what})


async def _unknown(tasks: set[UUID]) -> set[UUID]:
    from backbeat.operate.feedback import known
    from shared.config import load

    async with database(load()) as db:
        return tasks - await known(db, tasks)


async def _keep(words: "list[Word]") -> int:
    from backbeat.operate import feedback as told
    from shared import clock
    from shared.config import load
    from shared.errors import NotFoundError

    config = load()
    async with database(config, operator=True) as db:
        if unknown := {said.task for said in words} - await told.known(db, [said.task for said in words]):
            raise NotFoundError(f"there is no task or workflow {unknown.pop()}", fix="`backbeat task list` names tasks")
        with _telemetry(config) as telemetry:
            return await told.add(db, telemetry, words, clock.wall())


@contextmanager
def _telemetry(config: "Config") -> "Iterator[Telemetry]":
    from shared.execution.telemetry import open_telemetry

    telemetry = open_telemetry(config, "backbeat")
    try:
        yield telemetry
    finally:
        telemetry.close()
    if config.telemetry == "off":
        talk("note: telemetry is off, so only Postgres knows; `backbeat feedback retell` once it is on")
    else:
        talk("note: `backbeat telemetry ship` takes it to ClickHouse; a tick on this host does too")
