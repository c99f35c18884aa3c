"""`backbeat retention`: how long finished work stays in Postgres."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import click

from backbeat.cli.arguments import duration
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


@retention.command()
@click.option("--idle", type=duration, default="1d", show_default=True, help="Leave alone what is younger.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@output_option
def payloads(idle: timedelta, dry_run: bool, output: str) -> None:
    """Remove large payloads (BACKBEAT_PAYLOAD_DIR) of workflows that Temporal has forgotten.

    A workflow that is open in Postgres keeps its files, whatever Temporal says. On a timer, once a day is enough.
    """

    async def main() -> list[dict[str, Any]]:
        from backbeat.operate import payloads as kept
        from shared.config import load
        from shared.errors import ConfigError

        config = load()
        if config.payload_dir is None or not config.payload_dir.is_dir():
            raise ConfigError("payload_dir is no directory", fix="Set BACKBEAT_PAYLOAD_DIR as the workers have it")
        async with database(config) as db:
            return [asdict(one) for one in await kept.clean(db, config, config.payload_dir, idle, dry=dry_run)]

    emit(run_async(main()), columns=("temporal_id", "size"), output=output)
