"""`backbeat erase`: what was written about a tenant or a task, taken out."""

from typing import Any
from uuid import UUID

import click

from backbeat.cli.arguments import Id
from backbeat.cli.output import database, emit, os_user, run_async, talk


@click.command()
@click.option("--tenant", metavar="NAME", help="All of one tenant.")
@click.option("--task", type=Id("task"), help="One task, and all that came of it.")
@click.option("--reason", required=True, help="For the audit log: who asked for it, or why.")
@click.option("--yes", is_flag=True, help="Erase. Without it this only counts.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def erase(tenant: str | None, task: UUID | None, reason: str, yes: bool, output: str) -> None:
    """Take out what was written about a tenant or a task.

    That is payloads, results, recorded answers, agents' steps, what approvers were shown, feedback, and telemetry.
    Without --yes it counts and changes nothing. Rows stay, with times and costs, without what was written in them;
    ClickHouse's spans and facts are deleted. It says what it cannot reach: Temporal's histories, backups, decisions and
    the audit log. What still goes on must end first. What waits here for ClickHouse is shipped first: exit 75 while
    that fails.
    """
    from backbeat.operate import erase as door
    from shared.config import load
    from shared.errors import InputError

    if (tenant is None) == (task is None):
        raise click.UsageError("give --tenant or --task, one of them")
    if not reason.strip():
        raise InputError("the reason is empty", fix="Say who asked for it, or why")
    config, scope = load(), door.Scope(tenant, task)

    async def looked() -> door.Found:
        async with database(config, operator=True) as db:
            return await door.look(db, scope)

    async def shipped() -> None:
        async with database(config) as db:
            await door.ship_what_waits(db, config)

    async def erased() -> dict[str, int]:
        async with database(config, operator=True) as db:
            return await door.erase(db, scope, found, os_user(), reason)

    found = run_async(looked())
    if yes and config.clickhouse_url:
        run_async(shipped())
    spans = door.telemetry(config.clickhouse_url, scope, really=yes) if config.clickhouse_url else {}
    if yes:
        run_async(erased())
    counted: list[dict[str, Any]] = [
        {"where": "postgres", "table": name, "rows": count} for name, count in found.counts.items()
    ]
    counted += [{"where": "clickhouse", "table": name, "rows": count} for name, count in spans.items()]
    emit({"erased": yes, "rows": counted} if output == "json" else counted, output=output)
    for line in _remains(found, bool(config.clickhouse_url)):
        talk(f"remains: {line}")
    if not yes:
        talk("nothing was erased; add --yes")


def _remains(found: Any, clickhouse: bool) -> list[str]:
    lines = []
    if found.histories:
        shown = ", ".join(found.histories[:3]) + (", …" if len(found.histories) > 3 else "")
        lines.append(
            f"Temporal's histories of {len(found.histories)} workflows ({shown}) until its retention ends them: "
            "`temporal workflow delete -w ID`; with payload keys, their texts are unreadable once the key is destroyed"
        )
    if found.decisions:
        lines.append(f"{found.decisions} decisions with their comments, and the audit log: both only grow")
    lines.append("backups, replicas' logs and files that were exported; idempotency keys, which are hashes of payloads")
    if clickhouse:
        lines.append("hourly sums, which name nobody; spool files that other hosts have not shipped: erase again after")
        lines.append("batches of spans that were set aside, in quarantine/ and in telemetry_outbox.refused")
    else:
        lines.append("spans that wait on disks and in telemetry_outbox")
    lines.append("what vendors, effects and messages have sent elsewhere")
    return lines
