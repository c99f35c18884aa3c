"""`backbeat route`: which model serves which tier, changing that while everything runs, and shutting one of them."""

import json
from typing import TYPE_CHECKING, Any

import click

from backbeat.cli import pausing
from backbeat.cli.output import emit, os_user, output_option, run_async, talk

if TYPE_CHECKING:
    from shared.llm.routes import Routes

_COLUMNS = ("tier", "route", "canary", "model", "limits", "left", "blocked_until", "held", "reason", "sunset")


@click.group()
def route() -> None:
    """See the routes of the tiers, change them without a deploy, and hold one.

    A route whose call cost more than was reserved is held by itself: no cap holds on it until somebody has looked.
    """


@route.command("list")
@output_option
def list_(output: str) -> None:
    """List the routes of every tier, best first, with what is left of their limits this minute."""
    from backbeat.operate import routes

    base = _file()
    rows = pausing.with_database(lambda db: routes.listing(db, base), operator=False)
    if output == "text":
        for row in rows:
            row |= {name: _few(row[name]) for name in ("limits", "left")}
            row["reason"] = row["reason"] or row["blocked_by"]
    emit(rows, columns=_COLUMNS, output=output)


@route.command("set")
@click.argument("tier")
@click.argument("routes", metavar="ROUTE,ROUTE…")
def set_(tier: str, routes: str) -> None:
    """Let these routes serve a tier, best first, whatever the routes file says. Workers follow within seconds.

    Takes an operator's login (BACKBEAT_OPERATOR_URL).
    """
    _say("tier", tier, {"routes": [name.strip() for name in routes.split(",") if name.strip()]})
    talk(f"tier {tier!r}: {routes}")


@route.command()
@click.argument("tier")
def unset(tier: str) -> None:
    """Let the routes file say again what serves a tier. Takes an operator's login (BACKBEAT_OPERATOR_URL)."""
    from shared.errors import ConflictError

    if not _say("tier", tier, {"routes": None}):
        raise ConflictError(f"tier {tier!r} is as the routes file says", fix="`backbeat route list` shows the tiers")
    talk(f"tier {tier!r}: as the routes file says")


@route.command()
@click.argument("tier")
@click.argument("name", required=False)
@click.option("--percent", type=click.IntRange(1, 100), help="How many of a hundred tasks take it.")
@click.option("--off", is_flag=True, help="Roll back: no task takes it any more.")
def canary(tier: str, name: str | None, percent: int | None, off: bool) -> None:
    """Let some of a tier's tasks try another route first. A task stays with its route when it is tried again.

    Takes an operator's login (BACKBEAT_OPERATOR_URL).
    """
    from shared.errors import ConflictError

    if off == bool(name) or bool(name) != bool(percent):
        raise click.UsageError("a canary takes a route and --percent, or --off")
    if not _say("tier", tier, {"canary": name, "percent": percent}) and off:
        raise ConflictError(f"tier {tier!r} has no canary", fix="`backbeat route list` shows them")
    talk(f"tier {tier!r}: {f'{percent} % take {name}' if name else 'no canary'}")


@route.command()
@click.argument("name")
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]…")
def change(name: str, pairs: tuple[str, ...]) -> None:
    """Change keys of a route (rpm=500, max_in_flight=20, model=…), or make a new one; KEY= takes the change back.

    Takes an operator's login (BACKBEAT_OPERATOR_URL).
    """
    new: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"{pair!r} is not KEY=VALUE, such as rpm=500")
        try:
            new[key] = json.loads(value) if value else None
        except ValueError:
            new[key] = value
    _say("route", name, new)
    talk(f"route {name!r}: changed")


@route.command()
@click.argument("name")
@output_option
def test(name: str, output: str) -> None:
    """Make one tiny call on a route and show its answer, its time and its cost, which counts against no budget."""
    emit(run_async(_tested(name)), output=output)


@route.command()
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Stands in the audit log and in `route list`.")
def hold(name: str, reason: str) -> None:
    """Let no call take a route; those under way end. The next route of the tier is taken, or its tasks are held.

    Takes an operator's login (BACKBEAT_OPERATOR_URL).
    """
    _known(name)
    pausing.pause("route", name, reason)
    talk(f"route {name!r}: held")


@route.command()
@click.argument("name")
def release(name: str) -> None:
    """Let calls take it again, whoever shut it; what waited goes on.

    Takes an operator's login (BACKBEAT_OPERATOR_URL).
    """
    from backbeat.operate import routes

    base = _file()
    rows = pausing.with_database(lambda db: routes.listing(db, base), operator=False)
    if any(row["route"] == name and row["blocked_until"] for row in rows):
        pausing.with_database(lambda db: routes.unblock(db, name))
        if not any(row["route"] == name and row["held"] for row in rows):
            talk(f"route {name!r}: released")
            return
    pausing.resume("route", name, "held")
    talk(f"route {name!r}: released")


def _file() -> "Routes":
    from shared.config import load
    from shared.llm.routes import load_routes

    return load_routes(load().routes_file)


def _say(scope: str, key: str, new: dict[str, Any]) -> bool:
    from backbeat.operate import routes

    base = _file()
    return pausing.with_database(lambda db: routes.change(db, base, scope, key, new, os_user()))


def _known(name: str) -> Any:
    """The route as it is now, whether it serves a tier or not. Raises NotFoundError."""
    from backbeat.operate import routes
    from shared.errors import NotFoundError

    base = _file()
    now = pausing.with_database(lambda db: routes.current(db, base), operator=False)
    if name not in (known := now.table["routes"]):
        raise NotFoundError(f"{now.source} has no route {name!r}", fix=f"It has {', '.join(sorted(known))}")
    return now.known("", name)


async def _tested(name: str) -> dict[str, Any]:
    import asyncio

    from shared import clock
    from shared.config import load
    from shared.errors import ConfigError, UnavailableError
    from shared.llm import prices
    from shared.llm.classify import classify
    from shared.llm.protocol import Request, make_provider

    one = await asyncio.to_thread(_known, name)
    vendors = load().providers
    if one.provider not in vendors:
        raise ConfigError(f"route {name!r} needs provider {one.provider!r}", fix="Configure it, with its API key")
    provider, started = make_provider(vendors[one.provider]), clock.monotonic()
    try:
        reply = await provider.send(
            Request(model=one.model, prompt="Answer with the word ok.", max_output_tokens=64, timeout=60.0)
        )
    except Exception as error:
        raise UnavailableError(f"route {name!r}: {classify(error).reason}: {error}", fix="Correct the route") from error
    finally:
        await provider.aclose()
    bill = prices.cost(one.provider, one.model, reply.usage, clock.wall(), price=one.price)
    return {
        "route": name,
        "model": reply.model,
        "answer": reply.text[:200],
        "stop": reply.stop,
        "seconds": round(clock.monotonic() - started, 3),
        "input": reply.usage.input,
        "output": reply.usage.output,
        "usd": bill.usd,
        "simulated": vendors[one.provider].simulated,
    }


def _few(limits: dict[str, int | None]) -> str | None:
    return " ".join(f"{name}={value}" for name, value in limits.items() if value is not None) or None
