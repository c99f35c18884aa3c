"""`backbeat effect`: writes to the outside, and the word of a person where the machine cannot know."""

from typing import Any

import click

from backbeat.cli.arguments import json_value
from backbeat.cli.output import database, emit, os_user, output_option, run_async, talk

_COLUMNS = ("key", "kind", "status", "fires", "intended_at", "error")


@click.group()
def effect() -> None:
    """Inspect and resolve writes to the outside.

    An effect is intended before its far write, done after it, and unknown when its writer did not come back. An unknown
    one is looked up on the far side by itself where the definition can; else it waits for `effect resolve`.
    """


@effect.command("list")
@click.option("--status", type=click.Choice(["intended", "unknown", "done"]), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@output_option
def list_(status: str | None, limit: int, output: str) -> None:
    """List effects, the newest first."""

    async def main() -> list[dict[str, Any]]:
        from backbeat.operate import inspect
        from shared.config import load

        async with database(load()) as db:
            return await inspect.effects(db, status, limit)

    emit(run_async(main()), columns=_COLUMNS, output=output)


@effect.command()
@click.argument("key")
@output_option
def show(key: str, output: str) -> None:
    """Show one effect with what it sends."""

    async def main() -> dict[str, Any]:
        from backbeat.operate import inspect
        from shared.config import load

        async with database(load()) as db:
            return await inspect.effect(db, key)

    found = run_async(main())
    emit(found, output=output, columns=[name for name in found if name != "token"])


@effect.command()
@click.argument("key")
@click.option("--done", "outcome", type=json_value, metavar="JSON", help="It happened; this came of it.")
@click.option("--absent", is_flag=True, help="It certainly did not happen: it may be fired again.")
@click.option("--reason", metavar="TEXT", help="How you know; needed with --absent.")
def resolve(key: str, outcome: Any, absent: bool, reason: str | None) -> None:
    """Say what became of an effect, after looking at the far side yourself.

    Whoever waits for it goes on: with the outcome you give, or by firing once more. Takes an operator's login
    (BACKBEAT_OPERATOR_URL).
    """
    if absent == (outcome is not None):
        raise click.UsageError("say either --done JSON or --absent")
    if absent and not reason:
        raise click.UsageError("--absent needs --reason: it lets the write happen again")

    async def main() -> None:
        from backbeat.operate import actions, inspect
        from shared.config import load
        from shared.errors import ConflictError

        async with database(load(), operator=True) as db:
            found = await inspect.effect(db, key)
            if found["busy_seconds"] > 0 and found["status"] != "done":
                what = f"effect {key!r} may still be written by its worker for {found['busy_seconds']:.0f} s"
                raise ConflictError(what, fix="Look again after that")
            if not await actions.resolve_effect(db, key, outcome, reason or "", os_user()):
                raise ConflictError(f"effect {key!r} is done, or somebody took it up", fix="`backbeat effect show`")

    run_async(main())
    talk(f"effect {key!r}: {'may be fired again' if absent else 'done'}")


@effect.command()
@click.option("--reason", required=True, metavar="TEXT", help="Stands in the audit log.")
def restored(reason: str) -> None:
    """Say that Postgres came back as it was some time ago, before ticks and workers start again.

    Effects that were open are unknown from then on, and what tasks and workflows of before would fire, and the ledger
    does not know, is looked for on the far side first; where a definition cannot look, `effect resolve` decides. Takes
    an operator's login (BACKBEAT_OPERATOR_URL).
    """

    async def main() -> None:
        from backbeat.operate import actions
        from shared.config import load

        async with database(load(), operator=True) as db:
            await actions.note_restore(db, os_user(), reason)

    run_async(main())
    talk("noted: what may have been done since the backup is looked for before it is done; see `backbeat effect list`")
