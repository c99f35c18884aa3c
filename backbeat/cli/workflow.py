"""`backbeat workflow`: runs of orchestrations; which definitions there are, and stopping one of them."""

import click

from backbeat.cli import pausing, runs
from backbeat.cli.arguments import MOST_ROWS
from backbeat.cli.output import emit, os_user, output_option, talk

_COLUMNS = ("workflow", "version", "runtime", "tier", "live", "seen_at", "canary", "paused", "reason")


@click.group()
def workflow() -> None:
    """Run orchestrations; see and pause definitions."""


for command in (runs.start, runs.list_, runs.show, runs.cancel, runs.retry, runs.reconcile, runs.graph):
    workflow.add_command(command)


@workflow.command()
@output_option
def definitions(output: str) -> None:
    """List every definition and version that was registered; `seen_at` is when a worker last had it loaded."""
    from backbeat.operate import tenants

    rows = pausing.with_database(tenants.workflows, operator=False)
    if output == "text":
        for row in rows:
            row["canary"] = None if row["canary"] is None else f"{row['canary']} %, else @{row['stable']}"
    emit(rows, columns=_COLUMNS, output=output)


@workflow.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(1, MOST_ROWS), required=False)
@click.option("--percent", type=click.IntRange(0, 100), help="How many of a hundred new tasks take it; 0 rolls back.")
@click.option("--off", is_flag=True, help="New tasks take the version that their producers name again.")
def canary(name: str, version: int | None, percent: int | None, off: bool) -> None:
    """Let some of the new tasks of a definition take a version, and the others the one before it.

    It holds whichever of the two producers name, by a hash of the task's key. Tasks that are there keep their version.
    Both versions must be loaded by workers. Takes an operator's login (BACKBEAT_OPERATOR_URL).
    """
    from backbeat.operate import tenants
    from shared.errors import ConflictError

    if off == (version is not None) or (version is None) != (percent is None):
        raise click.UsageError("a canary takes a version and --percent, or --off")
    if not pausing.with_database(lambda db: tenants.set_canary(db, name, version, percent, os_user())):
        fix = "`backbeat workflow definitions` shows them"
        if off:
            raise ConflictError(f"workflow {name!r} has no canary", fix=fix)
        raise ConflictError(f"{name}@{version} follows no version that runs in the same tier and way", fix=fix)
    talk(f"workflow {name!r}: {'no canary' if off else f'{percent} % of new tasks take version {version}'}")


@workflow.command()
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Stands in the audit log and in `workflow definitions`.")
def pause(name: str, reason: str) -> None:
    """Let no task of a definition start any more, of any version; what runs goes on.

    Its tasks are held as they come up, so that others go by. Takes an operator's login (BACKBEAT_OPERATOR_URL).
    """
    held = pausing.pause("workflow", name, reason)
    talk(f"workflow {name!r}: paused; {held} task{'' if held == 1 else 's'} held at once, others as they come up")


@workflow.command()
@click.argument("name")
def resume(name: str) -> None:
    """Let them start again. Takes an operator's login (BACKBEAT_OPERATOR_URL)."""
    pausing.resume("workflow", name)
    talk(f"workflow {name!r}: resumed")
