"""`backbeat schedule`: tasks that come with the clock."""

import json
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

import click

from backbeat.cli.arguments import duration, json_value
from backbeat.cli.output import database, emit, output_option, run_async, talk

if TYPE_CHECKING:
    from shared.db.schedules import Schedule
    from shared.definitions import Definition

_LIST = ("name", "cron", "zone", "target", "state", "next_at", "note")
_name = click.argument("name")


@click.group()
def schedule() -> None:
    """Let tasks come with the clock.

    Every tick looks for slots that have come, and each is enqueued once, whoever ticks. Adding, removing, pausing and
    resuming takes the login that runs the migrations (BACKBEAT_DIRECT_URL).
    """


@schedule.command("list")
@output_option
def list_(output: str) -> None:
    """List schedules and what went wrong with them last."""

    async def main() -> "list[Schedule]":
        from backbeat.operate import schedules
        from shared.config import load

        async with database(load()) as db:
            return await schedules.find(db)

    rows = [_shown(each) for each in run_async(main())]
    emit(rows, columns=_LIST, output=output, title="schedules", fold=True)


@schedule.command()
@_name
@click.argument("cron")
@click.argument("workflow")
@click.option("--zone", default="UTC", show_default=True, metavar="ZONE", help="Such as Europe/Berlin.")
@click.option("--payload", type=json_value, metavar="JSON", help="The payload of each slot's one task.")
@click.option("--selector", type=click.File(encoding="utf-8"), help="A SELECT that finds payloads; - is stdin.")
@click.option("--timeout", type=duration, default="10s", show_default=True, help="How long that may run: 1s to 60s.")
@click.option("--version", type=click.IntRange(1), help="Of the definition; the newest if not given.")
@click.option("--tenant", default="default", show_default=True)
@click.option(
    "--class", "class_", type=click.Choice(["urgent", "high", "normal", "low"]), default="normal", show_default=True
)
@click.option(
    "--catch-up",
    type=click.Choice(["none", "last", "all"]),
    default="last",
    show_default=True,
    help="What comes late after an outage: nothing over 15 minutes old, the newest slot, or all (1000 at most).",
)
@click.option("--jitter", type=duration, metavar="10m", help="Start up to this long after the slot.")
@click.option("--once", is_flag=True, help="Enqueue equal payloads once, not once a slot.")
@output_option
def add(name: str, workflow: str, version: int | None, output: str, **how: Any) -> None:
    """Enqueue tasks of a definition at each slot of a cron expression of five fields.

    Payloads are checked against the definition, which must be in a module that BACKBEAT_DEFINITIONS names. A selector
    runs as the role backbeat_selector, read-only; it is tried now, and nothing is added when it fails.
    """
    if (how["payload"] is None) == (how["selector"] is None):
        raise click.UsageError("give either --payload or --selector")
    made, note = run_async(_add(name, workflow, version, how))
    if output == "json":
        emit(_shown(made), output=output)
    for line in filter(None, (note, f"schedule {name!r}: first at {made.next_at:%Y-%m-%d %H:%M}Z")):
        talk(line)


@schedule.command()
@_name
def remove(name: str) -> None:
    """Forget a schedule; the tasks it enqueued stay."""

    async def main() -> None:
        from backbeat.operate import schedules
        from shared.config import load

        async with database(load(), owner=True) as db:
            await schedules.remove(db, name)

    run_async(main())
    talk(f"schedule {name!r}: removed")


@schedule.command()
@_name
def pause(name: str) -> None:
    """Let no slot come until `backbeat schedule resume`."""

    async def main() -> None:
        from backbeat.operate import schedules
        from shared.config import load

        async with database(load(), owner=True) as db:
            await schedules.pause(db, name)

    run_async(main())
    talk(f"schedule {name!r}: paused")


@schedule.command()
@_name
def resume(name: str) -> None:
    """Let a paused schedule go on from now; slots of the pause do not come."""

    async def main() -> "Schedule":
        from backbeat.operate import schedules
        from shared.config import load
        from shared.domain import cron

        async with database(load(), owner=True) as db:
            found = await schedules.one(db, name)
            await schedules.resume(db, found, cron.next_slot(found.cron, found.zone, found.now))
            return await schedules.one(db, name)

    talk(f"schedule {name!r}: next at {run_async(main()).next_at:%Y-%m-%d %H:%M}Z")


@schedule.command("next")
@_name
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=5, show_default=True)
@output_option
def next_(name: str, count: int, output: str) -> None:
    """Show the coming slots, in the schedule's time zone and in UTC, and when their tasks may start."""
    from zoneinfo import ZoneInfo

    from shared.domain import cron

    found = run_async(_one(name))
    if found.paused:
        talk(f"note: schedule {name!r} is paused")
    rows = [
        {
            "slot": slot.astimezone(ZoneInfo(found.zone)).isoformat(" "),
            "zone": found.zone,
            "utc": slot,
            "starts": slot + cron.delay(name, slot, found.jitter_seconds),
        }
        for slot in islice(cron.slots(found.cron, found.zone, found.now), count)
    ]
    emit(rows, output=output)


@schedule.command("run-now")
@_name
@output_option
def run_now(name: str, output: str) -> None:
    """Enqueue what a slot would, now, beside the slots; paused schedules too."""
    rows, note = run_async(_run_now(name))
    if note:
        talk(note)
    emit(rows, output=output, title="tasks")


async def _one(name: str) -> "Schedule":
    from backbeat.operate import schedules
    from shared.config import load

    async with database(load()) as db:
        return await schedules.one(db, name)


async def _add(name: str, workflow: str, version: int | None, how: dict[str, Any]) -> "tuple[Schedule, str]":
    import re

    from backbeat.operate import schedules
    from backbeat.operate.cron import check
    from shared.config import load
    from shared.db import queue
    from shared.db.schedules import Schedule
    from shared.definitions import NAME_PATTERN
    from shared.domain import cron
    from shared.errors import InputError
    from shared.execution.payloads import checked
    from shared.execution.schedules import sift

    if not re.fullmatch(NAME_PATTERN, name):
        fix = "Use lower case letters, digits and underscores, and begin with a letter"
        raise InputError(f"{name!r} cannot be the name of a schedule", fix=fix)
    config = load()
    definition = _definition(config.definitions, workflow, version)
    check(how["cron"], how["zone"])
    async with database(config, owner=True) as db:
        now = await schedules.now(db)
        made = Schedule(
            name=name,
            workflow=definition.name,
            version=definition.version,
            payload=None if how["selector"] else checked(definition, how["payload"]),
            selector=how["selector"] and _query(how["selector"]),
            selector_seconds=_seconds(how["timeout"], 1, 60, "--timeout"),
            jitter_seconds=_seconds(how["jitter"] or timedelta(), 0, 86400, "--jitter"),
            watermark=now,
            next_at=cron.next_slot(how["cron"], how["zone"], now),
            now=now,
            **{key: how[key] for key in ("cron", "zone", "tenant", "class_", "catch_up", "once")},
        )
        await queue.register_definitions(db, "cron", [definition.row])
        async with schedules.adding(db, made) as rows:
            tried = sift(definition, rows, "")
            if rows and not tried.rows:
                raise InputError(f"the selector of {name!r} finds no payload: {tried.note}", fix="Correct the query")
        found = f"the selector finds {len(tried.rows)} payloads now. {tried.note}".strip()
        return made, "" if made.selector is None else found


async def _run_now(name: str) -> tuple[list[dict[str, Any]], str]:
    from backbeat.operate import schedules
    from backbeat.producer.submit import submit
    from shared.config import load
    from shared.errors import ConflictError
    from shared.execution.schedules import gather
    from shared.execution.telemetry import open_telemetry

    config = load()
    async with database(config) as db:
        found = await schedules.one(db, name)
        definition = _definition(config.definitions, found.workflow, found.version)
        salt = f"{name}@run-now {found.now.isoformat()}"
        batch = await gather(db, found, definition, found.watermark, salt)
        if batch is None:
            raise ConflictError(f"a tick is at a slot of {name!r}", fix="See what it enqueued, then try again")
        if not batch.rows:
            return [], batch.note
        telemetry = open_telemetry(config, "backbeat")
        try:
            added = await submit(
                *(db, telemetry, definition, [json.loads(payload) for payload, _ in batch.rows]),
                salt="" if found.once else salt,
                tenant=found.tenant,
                class_=found.class_,
            )
        finally:
            telemetry.close()
    return [{"task_id": each.task_id, "status": each.status, "new": each.created} for each in added], batch.note


def _definition(modules: tuple[str, ...], name: str, version: int | None) -> "Definition":
    from shared.definitions import load_definitions
    from shared.errors import DefinitionError

    registry = load_definitions(modules)
    found = registry.newest(name) if version is None else registry.tasks.get(f"{name}@{version}")
    if found is None:
        loaded = ", ".join(sorted(registry.tasks)) or "none"
        raise DefinitionError(f"no loaded module defines {name}@{version}", fix=f"Loaded: {loaded}")
    return found


def _query(file: TextIO) -> str:
    try:
        return file.read().rstrip().rstrip(";")
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{file.name} is not UTF-8: {error}", param_hint="--selector") from None


def _seconds(given: timedelta, least: int, most: int, option: str) -> int:
    if not least <= given.total_seconds() <= most:
        raise click.BadParameter(f"between {least}s and {most}s", param_hint=option)
    return round(given.total_seconds())


def _shown(each: "Schedule") -> dict[str, Any]:
    late = each.next_at < each.now - timedelta(minutes=15)
    state = "paused" if each.paused else "late" if late else "on"
    row = {name.rstrip("_"): getattr(each, name) for name in type(each).__slots__ if name != "now"}
    return row | {"target": each.target, "state": state}
