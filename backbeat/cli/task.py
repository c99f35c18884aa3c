"""`backbeat task`: put work into the queue, see what became of it, take it back."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from backbeat.cli.arguments import Id, duration
from backbeat.cli.enqueue import enqueue
from backbeat.cli.output import database, emit, os_user, output_option, run_async, say_what_is_simulated, talk
from backbeat.money import dollars
from shared import clock

if TYPE_CHECKING:
    from backbeat.operate.inspect import Story

STATUSES = ["pending", "ready", "running", "delayed", "held", "succeeded", "escalated", "dead", "cancelled", "expired"]
_LIST = ("id", "workflow", "status", "tries", "age", "detail")
_ATTEMPTS = ("outcome", "started_at", "seconds", "worker", "error")
_CALLS = ("call_key", "seq", "status", "model", "input", "output", "cost_usd", "seconds", "error_class")
_EFFECTS = ("key", "kind", "status", "fires", "done_at", "error")


@click.group()
def task() -> None:
    """Enqueue, watch and cancel tasks."""


task.add_command(enqueue)


@task.command("list")
@click.option("--status", "statuses", type=click.Choice(STATUSES), multiple=True, help="Only these; may be repeated.")
@click.option("--workflow", help="Only of this definition.")
@click.option("--tenant", help="Only of this tenant.")
@click.option("--since", type=duration, default="7d", show_default=True, help="Only those created since.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, show_default=True)
@output_option
def list_(
    statuses: tuple[str, ...], workflow: str | None, tenant: str | None, since: timedelta, limit: int, output: str
) -> None:
    """List tasks, the newest first, and count them by status."""

    async def main() -> tuple[list[dict[str, Any]], dict[str, int], dict[str, str]]:
        from backbeat.operate import inspect
        from shared.config import load
        from shared.db import queue

        which = inspect.Filter(since, statuses, workflow, tenant)
        async with database(load()) as db:
            found = await inspect.tasks(db, which, limit), await inspect.counts(db, which)
            return *found, await queue.switches(db)

    tasks, counts, switches = run_async(main())
    for name, reason in switches.items():
        talk(f"STOPPED (--{name}): {reason}")
    if output == "json":
        emit({"counts": counts, "tasks": tasks}, output=output)
        return
    emit(
        [{**row, "tries": row["attempts"], "age": _age(row["created_at"]), "detail": _detail(row)} for row in tasks],
        columns=_LIST,
    )
    click.echo(" · ".join(f"{status} {count}" for status, count in counts.items()))


@task.command()
@click.argument("task_id", type=Id("task"))
@output_option
def show(task_id: UUID, output: str) -> None:
    """Show one task with its attempts, model calls, costs and effects."""

    async def main() -> "Story":
        from backbeat.operate import inspect
        from shared.config import load

        say_what_is_simulated(config := load())
        async with database(config) as db:
            return await inspect.story(db, task_id)

    story = run_async(main())
    if output == "json":
        emit(story, output=output)
    else:
        _print(story)


@task.command()
@click.argument("task_id", type=Id("task"))
@click.option("--reason", required=True, metavar="TEXT", help="Stands in the task's record.")
def cancel(task_id: UUID, reason: str) -> None:
    """End a task that has not ended, even while it runs. Takes an operator's login (BACKBEAT_OPERATOR_URL).

    Nothing that its worker writes counts any more, except what its calls cost.
    """

    async def main() -> None:
        from backbeat.operate import actions, inspect
        from shared.config import load
        from shared.errors import ConflictError

        async with database(load(), operator=True) as db:
            if not await actions.cancel(db, task_id, f"{reason} (by {os_user()})"):
                ended = (await inspect.story(db, task_id)).task
                raise ConflictError(
                    f"task {task_id} has already ended: {ended['status']}", fix="Nothing is left to cancel"
                )

    run_async(main())
    talk(f"cancelled {task_id}")


def _detail(row: Mapping[str, Any]) -> str:
    """The one thing worth knowing about a task in its state."""
    match row["status"]:
        case "held":
            return f"{row['hold_reason']} {row['hold_why'] or row['hold_key']}"
        case "delayed":
            return f"until {row['run_after']:%Y-%m-%d %H:%M:%S}Z"
        case "succeeded" | "escalated":
            cost = "unpriced" if row["cost_usd"] is None else dollars(row["cost_usd"])
            asked = f"approval {row['approval'] or 'not asked yet'}; " if row["status"] == "escalated" else ""
            return f"{asked}{row['calls']} calls, {cost}"
    return row["error"] or ""


def _age(moment: datetime) -> str:
    seconds = int((clock.wall() - moment).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{max(seconds, 0)}s"


def _print(story: "Story") -> None:
    emit({name: value for name, value in story.task.items() if value is not None})
    attempts = [_attempt(entry) for entry in story.attempts]
    bill = sum((call["cost_usd"] or Decimal() for call in story.calls), Decimal())
    sections: list[tuple[str, Sequence[Mapping[str, Any]], Sequence[str]]] = [
        ("attempts", attempts, _ATTEMPTS),
        (f"model calls, {dollars(bill)} in all", story.calls, _CALLS),
        ("effects", story.effects, _EFFECTS),
    ]
    for title, rows, columns in sections:
        if rows:
            click.echo()
            emit(rows, columns=columns, title=title, fold=True)
    if story.orchestration:
        click.echo()
        emit(story.orchestration, title="orchestrated workflow")


def _attempt(entry: Mapping[str, Any]) -> dict[str, Any]:
    start, end = (datetime.fromisoformat(entry[name]) for name in ("started_at", "ended_at"))
    error = ": ".join(str(entry[name]) for name in ("error_class", "error") if name in entry)
    return {**entry, "started_at": start, "seconds": (end - start).total_seconds(), "error": error}
