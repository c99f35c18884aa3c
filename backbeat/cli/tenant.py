"""`backbeat tenant`: whose work there is, what share of the workers it gets, and stopping it."""

import click

from backbeat.cli import pausing
from backbeat.cli.arguments import MOST_ROWS, Number
from backbeat.cli.output import emit, os_user, output_option, talk

UNKNOWN = "*"
_COLUMNS = ("tenant", "weight", "max_running", "paused", "ready", "running", "reason")
_weight = click.option(
    "--weight", type=Number(0.001, 1000), help="Its share, against the others' with work; new ones have 1."
)
_max_running = click.option(
    "--max-running", type=click.IntRange(0, MOST_ROWS), metavar="N", help="At most so many at once; 0 lifts the cap."
)


@click.group()
def tenant() -> None:
    """See, weigh, cap and pause tenants.

    Tasks of a tenant that nobody made are refused, unless `unknown create` was said.
    """


@tenant.command("list")
@output_option
def list_(output: str) -> None:
    """List all tenants; `*` stands for those that are made as their first task comes."""
    from backbeat.operate import tenants

    emit(pausing.with_database(tenants.tenants, operator=False), columns=_COLUMNS, output=output)


@tenant.command("set")
@click.argument("name")
@_weight
@_max_running
def set_(name: str, weight: float | None, max_running: int | None) -> None:
    """Make a tenant, or change one; what is not named stays as it is."""
    if name == UNKNOWN:
        raise click.UsageError(f"{UNKNOWN} is `backbeat tenant unknown`")
    _set(name, weight, max_running)
    talk(f"tenant {name!r}: set")


@tenant.command()
@click.argument("policy", type=click.Choice(["create", "refuse"]))
@_weight
@_max_running
def unknown(policy: str, weight: float | None, max_running: int | None) -> None:
    """Say what becomes of a task whose tenant nobody made: the tenant is made like this, or the task refused."""
    from backbeat.operate import tenants

    if policy == "create":
        _set(UNKNOWN, weight, max_running)
    elif (weight, max_running) != (None, None):
        raise click.UsageError("--weight and --max-running belong to `create`")
    else:
        pausing.with_database(lambda db: tenants.refuse_unknown_tenants(db, os_user()))
    talk(f"unknown tenants: {policy}")


@tenant.command()
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Stands in the audit log and in `tenant list`.")
def pause(name: str, reason: str) -> None:
    """Let no task of a tenant start any more; what runs goes on."""
    waiting = pausing.pause("tenant", name, reason)
    talk(f"tenant {name!r}: paused; {waiting} task{'' if waiting == 1 else 's'} went back to wait")


@tenant.command()
@click.argument("name")
def resume(name: str) -> None:
    """Let them start again."""
    pausing.resume("tenant", name)
    talk(f"tenant {name!r}: resumed")


def _set(name: str, weight: float | None, max_running: int | None) -> None:
    from backbeat.operate import tenants

    pausing.with_database(lambda db: tenants.set_tenant(db, name, weight, max_running, os_user()))
