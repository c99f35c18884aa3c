"""`backbeat route`: which model serves which tier, and letting no call take one of them."""

from typing import Any

import click

from backbeat.cli import pausing
from backbeat.cli.output import emit, output_option, talk

_COLUMNS = ("tier", "route", "provider", "model", "window", "max_output", "bounded", "held", "reason")


@click.group()
def route() -> None:
    """See the routes of the tiers, and hold one.

    A route whose call cost more than was reserved is held by itself: no cap holds on it until somebody has looked.
    """


@route.command("list")
@output_option
def list_(output: str) -> None:
    """List the routes of every tier, best first, as the routes file names them."""
    from shared.config import load
    from shared.db import calls
    from shared.llm.routes import load_routes

    held = pausing.with_database(calls.held_routes, operator=False)
    rows: list[dict[str, Any]] = []
    for tier, routes in load_routes(load().routes_file).tiers.items():
        for one in routes:
            shown = {name: getattr(one, name) for name in ("provider", "model", "window", "max_output", "bounded")}
            state = {"held": one.name in held, "reason": held.get(one.name)}
            rows.append({"tier": tier, "route": one.name, **shown, **state})
    emit(rows, columns=_COLUMNS, output=output)


@route.command()
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Stands in the audit log and in `route list`.")
def hold(name: str, reason: str) -> None:
    """Let no call take a route; those under way end. Tasks that ask for it are held, and look again every 15 minutes.

    Takes an operator's login (BACKBEAT_OPERATOR_URL).
    """
    from shared.config import load
    from shared.errors import NotFoundError
    from shared.llm.routes import load_routes

    routes = load_routes(load().routes_file)
    known = sorted({one.name for tier in routes.tiers.values() for one in tier})
    if name not in known:
        raise NotFoundError(f"{routes.source} has no route {name!r}", fix=f"It has {', '.join(known)}")
    pausing.pause("route", name, reason)
    talk(f"route {name!r}: held")


@route.command()
@click.argument("name")
def release(name: str) -> None:
    """Let calls take it again; what waited for it goes on. Takes an operator's login (BACKBEAT_OPERATOR_URL)."""
    pausing.resume("route", name, "held")
    talk(f"route {name!r}: released")
