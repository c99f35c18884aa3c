"""`backbeat workflow`: runs of orchestrations; which definitions there are, and stopping one of them."""

import click

from backbeat.cli import pausing, runs
from backbeat.cli.output import emit, output_option, talk

_COLUMNS = ("workflow", "version", "runtime", "tier", "live", "seen_at", "paused", "reason")


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

    emit(pausing.with_database(tenants.workflows, operator=False), columns=_COLUMNS, output=output)


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
