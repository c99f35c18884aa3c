"""`backbeat budget`: what a workflow or a tenant may spend a UTC day."""

from decimal import Decimal
from typing import Any

import click

from backbeat.cli.arguments import amount
from backbeat.cli.output import database, emit, os_user, output_option, run_async, say_what_is_simulated, talk

_COLUMNS = ("scope", "key", "cap_usd", "spent_usd", "presumed_usd", "reserved_usd", "calls", "cap_tokens")
_scope = click.argument("scope", type=click.Choice(["workflow", "tenant"]))
_usd = click.option("--usd", type=amount, metavar="AMOUNT", help="US dollars a UTC day.")
_tokens = click.option("--tokens", type=click.IntRange(0), help="Input and output tokens a UTC day.")


@click.group()
def budget() -> None:
    """Show and set what may be spent a day.

    Setting takes an operator's login (BACKBEAT_OPERATOR_URL).
    A hard cap bounds spent + presumed + reserved, and is checked before a call leaves. Presumed is what calls may have
    cost whose end nobody knows. A task over the cap is held until the next UTC day or a raised cap.
    """


@budget.command()
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="A UTC day; today if not given.")
@output_option
def show(day: Any, output: str) -> None:
    """Show every cap and what went against it."""

    async def main() -> list[dict[str, Any]]:
        from shared.config import load
        from shared.db import inspect

        say_what_is_simulated(config := load())
        async with database(config) as db:
            return await inspect.budgets(db, day and day.date())

    emit(run_async(main()), columns=_COLUMNS, output=output)


@budget.command("set")
@_scope
@click.argument("key")
@_usd
@_tokens
@click.option("--no-usd", is_flag=True, help="Lift the cap in dollars.")
@click.option("--no-tokens", is_flag=True, help="Lift the cap in tokens.")
def set_(scope: str, key: str, usd: Decimal | None, tokens: int | None, no_usd: bool, no_tokens: bool) -> None:
    """Set a cap for today and from now on; what is not named stays as it is."""
    if (usd is not None and no_usd) or (tokens is not None and no_tokens):
        raise click.UsageError("a cap is either set or lifted")
    lifted = {name for name, gone in (("usd", no_usd), ("tokens", no_tokens)) if gone}
    _change(scope, key, {"usd": usd, "tokens": tokens}, lifted=lifted)


@budget.command("raise")
@_scope
@click.argument("key")
@_usd
@_tokens
def raise_(scope: str, key: str, usd: Decimal | None, tokens: int | None) -> None:
    """Raise a cap to a new amount; tasks that waited for it go on. Refuses to lower one."""
    _change(scope, key, {"usd": usd, "tokens": tokens}, only_up=True)


def _change(
    scope: str, key: str, wanted: dict[str, Any], *, lifted: set[str] | None = None, only_up: bool = False
) -> None:
    lifted = lifted or set()
    if not lifted and all(value is None for value in wanted.values()):
        raise click.UsageError("name an amount: --usd or --tokens")

    async def main() -> int:
        from shared.config import load
        from shared.db import inspect, operate
        from shared.errors import ConflictError

        async with database(load(), operator=True) as db:
            caps = await inspect.cap(db, scope, key)
            for name, value in wanted.items():
                if only_up and value is not None and (caps[name] is None or value < caps[name]):
                    what = (
                        f"{scope} {key!r} has {'no cap' if caps[name] is None else f'a cap of {caps[name]}'} in {name}"
                    )
                    raise ConflictError(what, fix="`backbeat budget set` sets or lowers one")
                if value is not None or name in lifted:
                    caps[name] = value
            if not await inspect.known(db, scope, key):
                talk(f"note: no {scope} {key!r} has been heard of yet")
            return await operate.set_budget(db, scope, key, caps["usd"], caps["tokens"], os_user())

    released = run_async(main())
    talk(f"{scope} {key!r}: set; {released} held task{'' if released == 1 else 's'} released")
