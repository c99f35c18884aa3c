"""`backbeat workflow`: which definitions there are, and stopping one of them."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from backbeat.cli.output import database, emit, os_user, output_option, run_async, talk

if TYPE_CHECKING:
    from shared.db.pool import Database

T = TypeVar("T")
_COLUMNS = ("workflow", "version", "runtime", "tier", "live", "seen_at", "paused", "reason")


@click.group()
def workflow() -> None:
    """See and pause definitions."""


@workflow.command("list")
@output_option
def list_(output: str) -> None:
    """List every definition and version that was registered; `seen_at` is when a worker last had it loaded."""
    from shared.db import producers

    emit(_with_database(producers.workflows, operator=False), columns=_COLUMNS, output=output)


@workflow.command()
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Stands in the audit log and in `workflow list`.")
def pause(name: str, reason: str) -> None:
    """Let no task of a definition start any more, of any version; what runs goes on.

    Its tasks are held as they come up, so that others go by. Takes an operator's login (BACKBEAT_OPERATOR_URL).
    """
    from shared.db import producers

    held = _with_database(lambda db: producers.pause(db, "workflow", name, reason, os_user()))
    talk(f"workflow {name!r}: paused; {held} task{'' if held == 1 else 's'} held at once, others as they come up")


@workflow.command()
@click.argument("name")
def resume(name: str) -> None:
    """Let them start again. Takes an operator's login (BACKBEAT_OPERATOR_URL)."""
    from shared.db import producers
    from shared.errors import ConflictError

    if not _with_database(lambda db: producers.resume(db, "workflow", name, os_user())):
        raise ConflictError(f"workflow {name!r} is not paused", fix="`backbeat workflow list` shows which are")
    talk(f"workflow {name!r}: resumed")


def _with_database(ask: "Callable[[Database], Coroutine[Any, Any, T]]", *, operator: bool = True) -> T:
    async def main() -> T:
        from shared.config import load

        async with database(load(), operator=operator) as db:
            return await ask(db)

    return run_async(main())
