"""`backbeat stop` and `resume`: the kill switch."""

import click

from backbeat.cli.output import database, os_user, run_async, talk

_which = click.option("--all", "which", flag_value="all", help="Model calls and effects.")
_effects = click.option("--effects", "which", flag_value="effects", help="Effects alone.")


@click.command()
@_which
@_effects
@click.option("--reason", required=True, metavar="TEXT", help="What everybody who waits will read.")
def stop(which: str | None, reason: str) -> None:
    """Stop new model calls or effects, everywhere, now. Takes an operator's login (BACKBEAT_OPERATOR_URL).

    Holds inside running ticks too, within 2 seconds. Calls under way end and are paid; tasks go back to the queue and
    no attempt is counted.
    """
    name = _name(which)
    if not reason.strip():
        raise click.UsageError("--reason is empty")

    async def main() -> None:
        from backbeat.operate import actions
        from shared.config import load

        async with database(load(), operator=True) as db:
            await actions.throw_switch(db, name, reason, os_user())

    run_async(main())
    talk(f"stopped: no new {_MEANING[name]}. To lift it: backbeat resume --{name}")


@click.command()
@_which
@_effects
def resume(which: str | None) -> None:
    """Lift a stop. Takes an operator's login (BACKBEAT_OPERATOR_URL)."""
    name = _name(which)

    async def main() -> bool:
        from backbeat.operate import actions
        from shared.config import load

        async with database(load(), operator=True) as db:
            return await actions.release_switch(db, name, os_user())

    talk(f"resumed: {_MEANING[name]}" if run_async(main()) else f"nothing to resume: --{name} was not stopped")


_MEANING = {"all": "model calls and effects", "effects": "effects"}


def _name(which: str | None) -> str:
    if which is None:
        raise click.UsageError("say --all or --effects")
    return which
