"""`backbeat dead`: tasks that ended in vain, and what a person does with them."""

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from backbeat.cli.arguments import Id, Number, duration
from backbeat.cli.output import database, emit, os_user, output_option, run_async, talk

if TYPE_CHECKING:
    from backbeat.operate.dead import Filter

F = TypeVar("F", bound=Callable[..., Any])
_COLUMNS = ("id", "workflow", "error_class", "attempts", "died_at", "error")
_RESOLVED = ("id", "workflow", "error_class", "resolved_at", "resolved_by", "requeued_as", "reason")
_FILTERS = (
    click.option("--workflow", metavar="NAME[@VERSION]", help="Only of this definition."),
    click.option("--tenant", help="Only of this tenant."),
    click.option("--error-class", help="Only those that died of this."),
    click.option("--text", help="Only those whose error has this in it."),
    click.option("--older", type=duration, metavar="DURATION", help="Only those dead for longer: 7d."),
    click.option("--newer", type=duration, metavar="DURATION", help="Only those dead for less: 2h."),
)
_reason = click.option("--reason", metavar="TEXT", help="Why; stands in their record.")
_dry_run = click.option("--dry-run", is_flag=True, help="Count them, and change nothing.")
_all = click.option("--all", "everything", is_flag=True, help="Every open one; said when nothing else is.")


def _filters(command: F) -> F:
    return reduce(lambda made, option: option(made), reversed(_FILTERS), command)


@click.group()
def dead() -> None:
    """See, requeue and discard tasks that ended in vain.

    A dead letter stays until a person resolves it. Requeued, it becomes a new task with a new id, in the old one's
    place: the answers it had paid for answer again, and its effects are not repeated.
    """


@dead.command("list")
@_filters
@click.option("--state", type=click.Choice(["open", "requeued", "discarded"]), default="open", show_default=True)
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, show_default=True)
@output_option
def list_(state: str, limit: int, output: str, **given: Any) -> None:
    """List dead letters, the newest first, and count them by workflow and error."""
    which = replace(_which((), given), state=state)

    async def main() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        from backbeat.operate import dead as letters
        from shared.config import load

        async with database(load()) as db:
            return await letters.letters(db, which, limit), await letters.counts(db, which)

    found, groups = run_async(main())
    if output == "json":
        emit({"letters": found, "counts": _counts(groups)}, output=output)
        return
    emit(found, columns=_COLUMNS if state == "open" else _RESOLVED)
    if groups:
        click.echo(" · ".join(f"{row['workflow']} {row['error_class']} {row['letters']}" for row in groups))


@dead.command()
@click.argument("task_id", type=Id("letter"))
@output_option
def show(task_id: UUID, output: str) -> None:
    """Show one dead letter: what it was given, what it died of, what became of it.

    `backbeat task show` has its attempts and calls.
    """

    async def main() -> dict[str, Any]:
        from backbeat.operate import dead as letters
        from shared.config import load

        async with database(load()) as db:
            return await letters.letter(db, task_id)

    emit(run_async(main()), output=output)


@dead.command()
@click.argument("task_ids", metavar="[TASK_ID]...", type=Id("letter"), nargs=-1)
@_filters
@_all
@click.option("--version", type=click.Choice(["original", "newest"]), default="original", show_default=True)
@click.option("--per-minute", type=Number(0.001, 1e6), help="Let them come due at this rate.")
@_reason
@_dry_run
@output_option
def requeue(
    task_ids: tuple[UUID, ...],
    version: str,
    per_minute: float | None,
    reason: str | None,
    dry_run: bool,
    output: str,
    **given: Any,
) -> None:
    """Make new tasks of dead letters, by id or by filter.

    Attempts start anew. One whose idempotency key belongs to another task by now is left out. With --version newest
    they run on the newest registered version, under the key they had.
    """

    def act(letters: Any, db: Any, which: "Filter", start: Any) -> Any:
        verdict = letters.Verdict(os_user(), reason or "")
        return letters.requeue(db, which, verdict, newest=version == "newest", per_minute=per_minute, start=start)

    _resolve("requeued", _which(task_ids, given, narrow=True), act, reason, dry_run, output)


@dead.command()
@click.argument("task_ids", metavar="[TASK_ID]...", type=Id("letter"), nargs=-1)
@_filters
@_all
@_reason
@_dry_run
@output_option
def discard(task_ids: tuple[UUID, ...], reason: str | None, dry_run: bool, output: str, **given: Any) -> None:
    """Give dead letters up, by id or by filter: their payload goes, the fact and the reason stay."""

    def act(letters: Any, db: Any, which: "Filter", start: Any) -> Any:  # noqa: ARG001
        return letters.discard(db, which, letters.Verdict(os_user(), reason or ""))

    _resolve("discarded", _which(task_ids, given, narrow=True), act, reason, dry_run, output)


def _resolve(
    what: str, which: "Filter", act: Callable[..., Any], reason: str | None, dry_run: bool, output: str
) -> None:
    if not dry_run and not (reason or "").strip():
        raise click.UsageError("--reason is needed: it stands in their record")

    async def main() -> tuple[list[dict[str, Any]], int]:
        from backbeat.operate import dead as letters
        from shared.config import load
        from shared.errors import ConflictError, NotFoundError

        async with database(load(), operator=not dry_run) as db:
            if which.ids is not None:
                await letters.need_open(db, which.ids)
            groups = await letters.counts(db, which)
            if not groups:
                raise NotFoundError("no open dead letter matches", fix="`backbeat dead list` shows what there is")
            total, done = sum(row["letters"] for row in groups), 0
            if dry_run:
                return groups, 0
            start = groups[0]["at"]
            with click.progressbar(length=total, label=what, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
                async for seen, made in act(letters, db, replace(which, at=start), start):
                    bar.update(seen)
                    done += made
            if not done:
                raise ConflictError("nothing done: they were resolved meanwhile, or their keys have other tasks by now")
            return groups, done

    groups, done = run_async(main())
    total = sum(row["letters"] for row in groups)
    if output == "json":
        emit({"matched": total, what: done, "dry_run": dry_run, "counts": _counts(groups)}, output=output)
    elif dry_run:
        emit(groups, columns=("workflow", "error_class", "letters"))
    left = f"; {total - done} left: their keys have other tasks by now" if done < total and not dry_run else ""
    talk(f"{total} would be {what}" if dry_run else f"{what} {done} of {total}{left}")


def _which(ids: tuple[UUID, ...], given: dict[str, Any], *, narrow: bool = False) -> "Filter":
    from backbeat.operate.dead import Filter

    workflow, _, version = (given["workflow"] or "").partition("@")
    if version and not version.isdecimal():
        raise click.BadParameter(
            f"{given['workflow']!r} is not of the form triage or triage@3", param_hint="--workflow"
        )
    filters: dict[str, str | timedelta | None] = {
        name: given[name] for name in ("tenant", "error_class", "text", "older", "newer")
    }
    if narrow and given["everything"] == bool(ids or workflow or any(filters.values())):
        raise click.UsageError("name task ids or a filter, or else --all")
    return Filter(
        ids=list(dict.fromkeys(ids)) or None,
        workflow=workflow or None,
        version=int(version) if version else None,
        **filters,  # type: ignore[arg-type]
    )


def _counts(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in ("workflow", "error_class", "letters")} for row in groups]
