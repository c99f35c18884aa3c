"""`backbeat budget`: what a workflow or a tenant may use a UTC day, and one task or agent in its life."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, BinaryIO, TypeVar

import click

from backbeat.cli.arguments import MOST_ROWS, MOST_TOKENS, amount
from backbeat.cli.output import database, emit, os_user, output_option, run_async, say_what_is_simulated, talk

F = TypeVar("F", bound=Callable[..., Any])
_USD = ("scope", "key", "cap_usd", "spent_usd", "presumed_usd", "reserved_usd", "remaining_usd", "forecast_usd", "kind")
_TOKENS = tuple(name.replace("_usd", "_tokens") for name in _USD)
_LOST = ("call", "workflow", "model", "reserved_usd", "reserved_tokens", "opened_at", "error_class")
_SCOPES = click.Choice(["task", "agent", "workflow", "tenant"])
_BILL = ("cost_usd", "tokens")  # beside `call` or `response_id`


def _cap(command: F) -> F:
    command = click.option("--unseen", is_flag=True, help="Even if no such workflow or tenant was heard of yet.")(
        command
    )
    command = click.option("--tokens", type=click.IntRange(0, MOST_TOKENS), help="Input and output tokens.")(command)
    command = click.option("--usd", type=amount, metavar="AMOUNT", help="US dollars.")(command)
    return click.argument("scope", type=_SCOPES)(click.argument("key")(command))


@click.group()
def budget() -> None:
    """Show and set what may be used.

    A workflow and a tenant have a cap for each UTC day: over it, tasks are held until the next day or a raised cap.
    With the scope `task` or `agent`, KEY is a workflow, and the cap is for each of its tasks or agents: over it, they
    die.

    Setting takes an operator's login (BACKBEAT_OPERATOR_URL).
    A hard cap bounds spent + presumed + reserved, and is checked before a call leaves. Presumed is what calls may have
    cost whose end nobody knows. A soft cap reserves what a call is likely to cost, and may be passed by a little.
    """


@budget.command()
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="A UTC day; today if not given.")
@click.option("--scope", type=_SCOPES, help="Only these; `task` and `agent` list each one under a cap.")
@click.option("--tokens", is_flag=True, help="Tokens in place of dollars.")
@output_option
def show(day: Any, scope: str | None, tokens: bool, output: str) -> None:
    """Show every cap and what went against it.

    The forecast is for the end of the day: spent and presumed, and from now on the rate of the last three hours.
    """

    async def main() -> list[dict[str, Any]]:
        from backbeat.operate import inspect
        from shared.config import load

        say_what_is_simulated(config := load())
        async with database(config) as db:
            return await inspect.budgets(db, day and day.date(), scope)

    rows = run_async(main())
    emit(rows, columns=_TOKENS if tokens else _USD, output=output, title="budgets")
    for row in rows:
        if row["overrun_usd"]:
            talk(
                f"warning: calls of {row['scope']} {row['key']!r} cost {row['overrun_usd']} USD more than was reserved"
            )


@budget.command("set")
@_cap
@click.option("--soft/--hard", default=None, help="What a call reserves: what is likely, or the most.  [default: hard]")
@click.option("--no-usd", is_flag=True, help="Lift the cap in dollars.")
@click.option("--no-tokens", is_flag=True, help="Lift the cap in tokens.")
def set_(no_usd: bool, no_tokens: bool, usd: Decimal | None, tokens: int | None, **given: Any) -> None:
    """Set a cap for today and from now on; what is not named stays as it is.

    A change between soft and hard waits for a moment in which nothing is reserved, or for the next day.
    """
    if (usd is not None and no_usd) or (tokens is not None and no_tokens):
        raise click.UsageError("a cap is either set or lifted")
    lifted = {name for name, gone in (("usd", no_usd), ("tokens", no_tokens)) if gone}
    _change({"usd": usd, "tokens": tokens}, lifted=lifted, **given)


@budget.command("raise")
@_cap
def raise_(usd: Decimal | None, tokens: int | None, **given: Any) -> None:
    """Raise a cap to a new amount; tasks that waited for it go on. Refuses to lower one, or to less than is used."""
    _change({"usd": usd, "tokens": tokens}, only_up=True, **given)


def _change(
    wanted: dict[str, Any],
    *,
    scope: str,
    key: str,
    unseen: bool,
    soft: bool | None = None,
    lifted: set[str] | None = None,
    only_up: bool = False,
) -> None:
    lifted = lifted or set()
    if not lifted and soft is None and all(value is None for value in wanted.values()):
        raise click.UsageError("name an amount: --usd or --tokens")

    async def main() -> int:
        from backbeat.operate import actions, inspect
        from shared.config import load
        from shared.errors import NotFoundError

        async with database(load(), operator=True) as db:
            if not unseen and not await inspect.known(db, scope, key):
                kind = "tenant" if scope == "tenant" else "workflow"
                raise NotFoundError(f"no {kind} {key!r} has been heard of yet", fix="Check the name, or say --unseen")
            caps = await inspect.cap(db, scope, key)
            if only_up:
                used = [row for row in await inspect.budgets(db, None, scope) if row["key"] == key]
                _refuse_to_lower(f"{scope} {key!r}", wanted, caps, used[0] if used and used[0]["day"] else {})
            caps |= {name: value for name, value in wanted.items() if value is not None or name in lifted}
            soft_now = caps["soft"] if soft is None else soft
            return await actions.set_budget(db, scope, key, caps["usd"], caps["tokens"], os_user(), soft=soft_now)

    released = run_async(main())
    talk(f"{scope} {key!r}: set; {released} held task{'' if released == 1 else 's'} released")


def _refuse_to_lower(name: str, wanted: dict[str, Any], caps: dict[str, Any], used: dict[str, Any]) -> None:
    from shared.errors import ConflictError

    for unit, value in wanted.items():
        now = caps[f"granted_{unit}"] if caps[unit] is None else caps[unit]
        if value is None:
            continue
        if now is None or value < now:
            what = f"{name} has {'no cap' if now is None else f'a cap of {now}'} in {unit}"
            raise ConflictError(what, fix="`backbeat budget set` sets or lowers one")
        gone = used.get(f"spent_{unit}", 0) + used.get(f"presumed_{unit}", 0)
        if value < gone:
            what = f"{name} has used {gone} in {unit} today, more than {value}"
            raise ConflictError(what, fix=f"Raise it above {gone}, or nothing goes on before tomorrow (UTC)")


@budget.command()
@click.option("--call", metavar="OWNER/KEY[#SEQ]", help="The call, as this command lists it.")
@click.option("--cost", type=amount, metavar="AMOUNT", help="What it did cost, in US dollars; 0 if it was not billed.")
@click.option("--tokens", type=click.IntRange(0, MOST_ROWS), help="The tokens it did use, input and output.")
@click.option("--bill", type=click.File("rb"), help="A CSV: cost_usd, tokens, and call or response_id.")
@output_option
def reconcile(call: str | None, cost: Decimal | None, tokens: int | None, bill: BinaryIO | None, output: str) -> None:
    """Say what lost calls did cost, in place of what is presumed; without options, list them.

    A call is lost when its worker died or its connection broke: the provider may have billed it. Lines of a bill whose
    call is not lost are passed over.
    """
    if call and (bill or cost is None or tokens is None):
        raise click.UsageError("--call goes with --cost and --tokens")
    if not call and (cost is not None or tokens is not None):
        raise click.UsageError("--cost and --tokens go with --call")

    async def main() -> tuple[list[dict[str, Any]], int, int]:
        from backbeat.operate import actions, inspect
        from shared.config import load

        lines: list[dict[str, Any]] = [{"call": call, "cost_usd": cost, "tokens": tokens}] if call else []
        lines += _read(bill) if bill else []
        async with database(load(), operator=bool(lines)) as db:
            lost = await inspect.lost_calls(db)
            found = [(one, line) for line in lines if (one := _find(lost, line, must=call is not None))]
            written = 0
            for one, line in found:
                where = one["owner"], one["call_key"], one["seq"]
                written += await actions.reconcile(db, *where, line["cost_usd"], line["tokens"], os_user())
            return lost, written, len(lines) - written

    lost, written, passed = run_async(main())
    if call or bill:
        talk(f"{written} lost calls reconciled, {passed} lines of calls that are not lost passed over")
    else:
        rows = [{"call": f"{row['owner']}/{row['call_key']}#{row['seq']}", **row} for row in lost]
        emit(rows, columns=_LOST, output=output, title="lost calls")


def _find(lost: list[dict[str, Any]], line: dict[str, Any], *, must: bool) -> dict[str, Any] | None:
    from shared.errors import ConflictError, NotFoundError

    def named(row: dict[str, Any]) -> bool:
        if line.get("response_id"):
            return bool(row["response_id"] == line["response_id"])
        name = f"{row['owner']}/{row['call_key']}"
        return line["call"] in (name, f"{name}#{row['seq']}")

    found = [row for row in lost if named(row)]
    if len(found) > 1:
        raise ConflictError(f"call {line['call']!r} was lost {len(found)} times", fix="Add #1, #2, … to its name")
    if must and not found:
        raise NotFoundError(f"no lost call is named {line['call']!r}", fix="`backbeat budget reconcile` lists them")
    return found[0] if found else None


def _read(bill: BinaryIO) -> list[dict[str, Any]]:
    """A bill's lines; nothing is changed when one is bad."""
    from backbeat.cli.lines import csv_rows
    from shared.errors import InputError

    lines = []
    for number, row in csv_rows(bill):
        try:
            if isinstance(row, Exception):
                raise row
            if not (row.get("call") or row.get("response_id")) or not all(row.get(name) for name in _BILL):
                raise InputError(f"it needs {', '.join(_BILL)}, and call or response_id")
            lines.append(row | {name: _cell(name, row[name]) for name in _BILL})
        except InputError as error:
            where = f"{bill.name}, line {number}, {error}"
            raise InputError(where, fix="Correct the file; nothing was changed") from error
    return lines


def _cell(name: str, text: str) -> Decimal | int:
    from shared.errors import InputError

    try:
        if name == "cost_usd":
            return amount(text)
        if text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= MOST_ROWS:
            return int(text)
    except click.BadParameter as error:
        raise InputError(f"{name}: {error}") from error
    raise InputError(f"{name}: {text!r} is no whole number from 0 to {MOST_ROWS}")
