"""`backbeat workflow start|list|show|cancel|retry|reconcile|graph`: one run of an orchestration."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar
from uuid import UUID

import click

from backbeat.cli.arguments import Id, duration, json_value
from backbeat.cli.output import database, emit, os_user, output_option, run_async, say_what_is_simulated, talk
from backbeat.cli.pausing import with_database

if TYPE_CHECKING:
    from shared.db.pool import Database

T = TypeVar("T")
STATUSES = ["starting", "running", "waiting", "completed", "failed", "cancelled"]
_LIST = ("id", "workflow", "status", "created_at", "waiting_for")
_STEPS = ("seq", "step", "kind", "status", "seconds", "detail")
_CALLS = ("call_key", "seq", "status", "model", "input", "output", "cost_usd", "seconds", "error_class")
_EFFECTS = ("key", "kind", "status", "fires", "done_at", "error")


@click.command()
@click.argument("name")
@click.option("--input", "payload", type=json_value, metavar="JSON", help="What its run method takes.")
@click.option("--file", type=click.File(encoding="utf-8"), help="The same, from a file; - is stdin.")
@click.option("--key", metavar="TEXT", help="Started once: the same key again answers with the first one.")
@click.option("--version", type=click.IntRange(1), help="Of the orchestration; the newest if not given.")
@click.option("--tenant", default="default", show_default=True)
@click.option("--traceparent", metavar="TEXT", help="Of whoever asks for it, so that all is one trace.")
@output_option
def start(
    name: str, payload: Any, file: TextIO | None, key: str | None, version: int | None, output: str, **how: Any
) -> None:
    """Start an orchestration.

    Its input is checked first, against the definition in a module that BACKBEAT_DEFINITIONS names. The row and the
    message to Temporal are one transaction; a worker delivers it. A name, input, tenant or key that is refused starts
    nothing and is in the audit log.
    """
    if (payload is None) == (file is None):
        raise click.UsageError("give one of --input and --file")
    if key is not None and not 1 <= len(key) <= 500:
        raise click.UsageError("a key has 1 to 500 characters")
    body = payload if file is None else json_value(file.read())

    async def main() -> tuple[UUID, bool]:
        from backbeat.operate import runs
        from shared.config import load
        from shared.definitions import load_definitions

        config = load()
        registry = load_definitions(config.definitions)
        async with database(config) as db, runs.refusals(db, name, os_user()):
            return await runs.start(db, runs.wanted(registry, name, version), body, key=key, **how)

    found, created = run_async(main())
    emit({"id": found, "created": created}, output=output)


@click.command("list")
@click.option("--status", "statuses", type=click.Choice(STATUSES), multiple=True, help="Only these; may be repeated.")
@click.option("--workflow", help="Only of this orchestration.")
@click.option("--tenant", help="Only of this tenant.")
@click.option("--since", type=duration, default="30d", show_default=True, help="Only those started since.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, show_default=True)
@output_option
def list_(statuses: tuple[str, ...], since: timedelta, output: str, **which: Any) -> None:
    """List runs of orchestrations and approvals, the newest first."""
    from backbeat.operate import runs

    found = with_database(lambda db: runs.runs(db, since, statuses=statuses, **which), operator=False)
    emit(found, columns=_LIST, output=output)


@click.command()
@click.argument("workflow_id", type=Id("workflow"))
@output_option
def show(workflow_id: UUID, output: str) -> None:
    """Show one run: its row, where Temporal says it is, what it waits for and since when, and its steps."""
    from backbeat.operate import runs
    from shared.config import load
    from shared.errors import NotFoundError, UnavailableError

    say_what_is_simulated(config := load())
    story = with_database(lambda db: runs.story(db, workflow_id), operator=False)
    temporal: dict[str, Any] | None = None
    try:
        temporal = run_async(runs.position(config, story.workflow["temporal_id"]))
    except (NotFoundError, UnavailableError) as error:
        talk(f"note: {error}")
    waits = runs.waits(story, temporal)
    if output == "json":
        emit({**_fields(story), "waits": waits, "temporal": temporal}, output=output)
        return
    emit({name: value for name, value in story.workflow.items() if value is not None})
    detail = {"detail": None}
    for title, rows, columns in (
        ("waits for", waits, ("step", "waits_for", "since")),
        (
            "steps",
            [{**one, "seconds": _seconds(one), **(detail if not one["detail"] else {})} for one in story.steps],
            _STEPS,
        ),
        ("model calls", story.calls, _CALLS),
        ("effects", story.effects, _EFFECTS),
        ("not delivered to Temporal", story.undelivered, ("seq", "kind", "attempts", "created_at", "last_error")),
    ):
        if rows:
            click.echo()
            emit(rows, columns=columns, title=title, fold=True)
    if temporal:
        click.echo()
        emit({name: value for name, value in temporal.items() if value}, title="Temporal")


@click.command()
@click.argument("workflow_id", type=Id("workflow"))
@click.option("--reason", required=True, metavar="TEXT", help="Stands in the audit log.")
def cancel(workflow_id: UUID, reason: str) -> None:
    """Ask a run to end: its sagas compensate, its children end. Takes an operator's login (BACKBEAT_OPERATOR_URL)."""
    from backbeat.operate import runs

    with_database(lambda db: runs.cancel(db, workflow_id, f"{reason} (by {os_user()})"))
    talk(f"workflow {workflow_id}: asked to end")


@click.command()
@click.argument("workflow_id", type=Id("workflow"))
def retry(workflow_id: UUID) -> None:
    """Run a failed or cancelled one again, from the top.

    What is on record is not done again: model calls are answered from it, effects keep their outcome, children that
    succeeded their result. Takes an operator's login (BACKBEAT_OPERATOR_URL).
    """
    from backbeat.operate import runs

    with_database(lambda db: runs.retry(db, workflow_id, os_user()))
    talk(f"workflow {workflow_id}: starts again")


@click.command()
@click.argument("workflow_id", type=Id("workflow"))
def reconcile(workflow_id: UUID) -> None:
    """Compare an open run with Temporal now: workers do so by themselves when they heard nothing of it for a while.

    One that Temporal does not know is started again. Takes an operator's login (BACKBEAT_OPERATOR_URL).
    """
    from backbeat.operate import runs

    with_database(lambda db: runs.reconcile(db, workflow_id))
    talk(f"workflow {workflow_id}: a worker compares it at its next beat, within 15 s")


@click.command()
@click.argument("workflow_id", type=Id("workflow"))
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Write a picture instead; - is stdout.")
def graph(workflow_id: UUID, svg: Path | None) -> None:
    """Draw a run from its steps, side by side where they ran at the same time; as text, or as SVG."""
    from backbeat import graph as drawing
    from backbeat.operate import runs

    async def both(db: "Database") -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return await runs.run(db, workflow_id), await runs.steps(db, workflow_id)

    row, steps = with_database(both, operator=False)
    if svg is None:
        click.echo(drawing.as_text(row, steps))
    elif str(svg) == "-":
        click.echo(drawing.as_svg(row, steps))
    else:
        try:
            svg.write_text(drawing.as_svg(row, steps), encoding="utf-8")
        except OSError as error:
            raise click.UsageError(f"cannot write {svg}: {error.strerror}") from error
        talk(f"wrote {svg}")


def _fields(story: Any) -> dict[str, Any]:
    return {name: getattr(story, name) for name in story.__dataclass_fields__}


def _seconds(step: dict[str, Any]) -> float | None:
    return (step["ended_at"] - step["started_at"]).total_seconds() if step["ended_at"] else None
