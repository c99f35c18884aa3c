"""`backbeat approval comment | claim | unclaim | delegate | reassign | calendar`: everything around a decision."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from backbeat.cli.approval_sheet import comment_option, request_argument, token_option
from backbeat.cli.arguments import Id, duration
from backbeat.cli.output import database, run_async, talk

_WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@click.command()
@request_argument
@click.argument("text")
@token_option
def comment(request: UUID, text: str, token_file: Path | None) -> None:
    """Say something about a request; it is kept for ever and decides nothing."""
    talk(f"{_say(request, 'comment', token_file, comment=text)}: noted")


@click.command()
@request_argument
@click.option("--for", "time", type=duration, default="15m", show_default=True, metavar="15m", help="How long.")
@token_option
def claim(request: UUID, time: timedelta, token_file: Path | None) -> None:
    """Tell the others that you are looking at it. It binds nobody's decision and ends by itself."""
    body = {"seconds": int(time.total_seconds())}
    talk(f"{_say(request, 'claim', token_file, body=body)}: claimed for {body['seconds'] // 60} minutes")


@click.command()
@request_argument
@token_option
def unclaim(request: UUID, token_file: Path | None) -> None:
    """Tell the others that you are not looking at it any more."""
    talk(f"{_say(request, 'unclaim', token_file)}: no longer claimed")


@click.command()
@click.argument("user")
@click.option("--request", type=Id("request"), help="On this request only; on all if not given.")
@click.option("--for", "time", type=duration, metavar="7d", help="How long; until you take it back if not given.")
@comment_option
@token_option
def delegate(user: str, request: UUID | None, time: timedelta | None, comment: str, token_file: Path | None) -> None:
    """Hand your right to decide to USER. Name yourself to take it back.

    While it is USER's it is not yours, and USER cannot hand it on.
    """
    body = {"to": user} | ({"seconds": int(time.total_seconds())} if time else {})
    me = _say(request, "delegate", token_file, comment=comment, body=body)
    talk(f"{me}: {'took the right to decide back' if me == user else f'{user} decides in your place'}")


@click.command()
@click.argument("leaver", metavar="FROM")
@click.argument("heir", metavar="TO")
@click.option("--reason", required=True, metavar="TEXT", help="For the audit log.")
def reassign(leaver: str, heir: str, reason: str) -> None:
    """Somebody left: revoke FROM's tokens and let TO decide in FROM's place, everywhere.

    It says who may act as whom, so it takes the login that runs the migrations (BACKBEAT_DIRECT_URL).
    """

    async def main() -> int | None:
        from backbeat.operate.approvals import reassign as hand_over
        from shared.config import load

        async with database(load(), owner=True) as db:
            return await hand_over(db, leaver, heir, reason)

    talk(f"{heir} decides in place of {leaver}, on {run_async(main())} open requests and all to come")


@click.command()
@click.argument("name")
@click.option("--time-zone", required=True, metavar="ZONE", help="Europe/Berlin")
@click.option("--days", default="mon,tue,wed,thu,fri", show_default=True, metavar="DAYS")
@click.option("--hours", default="09:00-17:00", show_default=True, metavar="FROM-UNTIL")
@click.option("--holiday", "holidays", multiple=True, type=click.DateTime(["%Y-%m-%d"]), help="May be repeated.")
@click.option("--tenant", default="default", show_default=True)
def calendar(name: str, time_zone: str, days: str, hours: str, holidays: tuple[datetime, ...], tenant: str) -> None:
    """Set the working hours that policies name; it replaces what the calendar said before.

    Requests that wait keep the moments they have. Takes an operator's login (BACKBEAT_OPERATOR_URL).
    """
    numbers = [_WEEK.index(day) + 1 for day in days.split(",") if day in _WEEK]
    opens, sign, closes = hours.partition("-")
    if not sign or len(numbers) != len(days.split(",")):
        raise click.UsageError("days are mon,tue,… and hours 09:00-17:00")

    async def main() -> None:
        from backbeat.operate.approvals import set_calendar
        from shared.config import load

        params: dict[str, Any] = {"tenant": tenant, "name": name, "zone": time_zone, "days": numbers}
        params |= {"opens": opens, "closes": closes, "holidays": [day.date() for day in holidays]}
        async with database(load(), operator=True) as db:
            await set_calendar(db, params)

    run_async(main())
    talk(f"calendar {name}: {days} {hours} {time_zone}, {len(holidays)} holidays")


COMMANDS = (comment, claim, unclaim, delegate, reassign, calendar)


def _say(request: UUID | None, decision: str, file: Path | None, **more: Any) -> str:
    """Submit what is about no content; who said it."""
    from backbeat import tokens
    from shared.config import load

    config = load(token_file=file)
    token = tokens.read(config.token_file)

    async def main() -> str:
        from backbeat.decide import decide

        async with database(config) as db:
            return (await decide(db, token, request, decision, **more)).user

    return run_async(main())
