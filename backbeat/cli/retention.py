"""`backbeat retention`: how long finished work stays in Postgres."""

from typing import Any

import click

from backbeat.cli.output import database, emit, os_user, output_option, run_async, talk


@click.group()
def retention() -> None:
    """Show and set how long finished work is kept.

    `finished` is the history of tasks, with their model calls and idempotency keys; `outbox` what was delivered to
    Temporal; `ticks` the records of ticks; `workflows` orchestrations that ended, with their steps, joins and model
    calls, and what people were told about approvals. Ticks remove what is older. Dead letters stay until a person
    resolves them; approvals, decisions, effects and the audit log stay.
    """


@retention.command()
@output_option
def show(output: str) -> None:
    """Show the policies and the oldest row of each."""

    async def main() -> list[dict[str, Any]]:
        from backbeat.operate import retention as kept
        from shared.config import load

        async with database(load()) as db:
            return await kept.policies(db)

    emit(run_async(main()), columns=("policy", "days", "oldest", "set_by"), output=output)


@retention.command("set")
@click.argument("policy", type=click.Choice(["finished", "outbox", "ticks", "workflows"]))
@click.argument("days", type=click.IntRange(1, 36500))
def set_(policy: str, days: int) -> None:
    """Keep what POLICY names for DAYS days from now on, as the login that owns the schema.

    When a task's history is gone its key is too: the same payload enqueued again runs again.
    """

    async def main() -> None:
        from backbeat.operate import retention as kept
        from shared.config import load

        async with database(load(), operator=True) as db:
            await kept.set_days(db, policy, days, os_user())

    run_async(main())
    talk(f"{policy}: kept for {days} day{'' if days == 1 else 's'}; ticks remove what is older")
