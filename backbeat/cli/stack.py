"""`backbeat up`, `down`, `status`: the embedded engines in one directory."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backbeat.cli.output import database, emit, output_option, run_async, talk

if TYPE_CHECKING:
    from backbeat.embedded.stack import StackInfo
    from backbeat.operate.health import Check
    from shared.config import Config

_COLUMNS = ("name", "state", "port", "pid", "log")
_CHECKS = ("check", "state", "found", "fix")
_directory = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default="var",
    show_default=True,
    help="Where data, logs, passwords and backbeat.toml live.",
)


@click.command()
@_directory
@click.option("--profile", type=click.Choice(["full", "cron-only"]), default="full", show_default=True)
@click.option("--latency", metavar="SECONDS", help="Of the simulated provider: 0.2-2, a number, or real.")
@click.option("--port", "ports", metavar="ENGINE=PORT", multiple=True, help="Insist on a port; else any free one.")
@output_option
def up(directory: Path, profile: str, latency: str | None, ports: tuple[str, ...], output: str) -> None:
    """Start the embedded engines and migrate them.

    PostgreSQL, Temporal, ClickHouse, a simulated model provider and a recorder of effects, all on loopback. A second
    `up` is a no-op; after a crash it recovers. The profile cron-only leaves Temporal and ClickHouse out.
    """
    from backbeat.embedded import stack
    from backbeat.embedded.simulated.latency import parse

    if latency:
        parse(latency)
    engines = stack.ALL if profile == "full" else stack.CRON_ONLY
    wanted = dict(_port(text, engines) for text in ports)
    _show(stack.up(directory, engines=engines, latency=latency, ports=wanted, log=talk), output)
    talk("note: the models are simulated, unless ANTHROPIC_API_KEY or OPENAI_API_KEY is in the environment")
    if directory != Path("var"):
        talk(f"To use it: export BACKBEAT_CONFIG={shlex.quote(str(directory.absolute() / 'backbeat.toml'))}")


@click.command()
@_directory
@output_option
def down(directory: Path, output: str) -> None:
    """Stop the embedded engines; their data stays."""
    from backbeat.embedded import stack

    _show(stack.down(directory, log=talk), output)


@click.command()
@_directory
@click.option("--check", is_flag=True, help="Exit 1 when the database's health is wrong, too.")
@output_option
@click.pass_context
def status(ctx: click.Context, directory: Path, check: bool, output: str) -> None:
    """Show the embedded engines, and how the database is.

    Exits 1 unless all engines are ready, and where spans of this host wait for ClickHouse for 15 minutes or were set
    aside; what is wrong elsewhere, as with spans of other hosts, fails it with --check. The health is that of the
    database in the settings, embedded or not: work that waits, partitions, vacuum and what keeps it from its work.
    Nothing is needed beyond the workers' login; what that may not see is said.
    """
    from backbeat.embedded import stack
    from shared.config import load
    from shared.errors import NotFoundError

    own = directory / "backbeat.toml"
    config = load({**os.environ, "BACKBEAT_CONFIG": str(own)} if own.exists() else None)
    try:
        info = stack.status(directory)
    except NotFoundError:
        if not config.database_url:
            raise
        info = None
    health = run_async(_health(config))
    if output == "json":
        engines = (
            {}
            if info is None
            else {name: getattr(info, name) for name in ("directory", "config", "engines", "latency")}
        )
        emit({**engines, "health": health}, output=output)
    else:
        if info is not None:
            emit(info.engines, columns=_COLUMNS)
            click.echo()
        emit(health, columns=_CHECKS, fold=True)
    silent = info is not None and any(engine.state != "ready" for engine in info.engines)
    ctx.exit(silent or _late(config) or (check and any(one.state == "wrong" for one in health)))


async def _health(config: "Config") -> "list[Check]":
    from backbeat.operate.health import Check, examine
    from shared.errors import BackbeatError

    try:
        async with database(config) as db:
            return [*await examine(db), _models(config)]
    except BackbeatError as error:
        return [Check("database", "wrong", error.what, error.fix)]


def _models(config: "Config") -> "Check":
    """Models whose vendors stop to answer, or have stopped."""
    from backbeat.operate.health import Check
    from shared import clock
    from shared.llm.routes import load_routes

    lines = load_routes(config.routes_file).warnings(clock.wall().date())
    ended = any(" ended on " in line for line in lines)
    found = "; ".join(lines) or "none ends within 90 days"
    fix = "docs/how-to/routes.md" if lines else ""
    return Check("models", "wrong" if ended else "ok", found, fix)


def _late(config: "Config") -> bool:
    """Whether spans of this host wait for long, or were set aside, which is said."""
    from backbeat.cli.telemetry import say_what_was_set_aside
    from backbeat.operate.health import spool_is_old
    from shared.telemetry.spool import spool_status

    waiting = spool_status(config.spool_dir)
    say_what_was_set_aside(config.spool_dir)
    if not spool_is_old(waiting.oldest_seconds):
        return waiting.quarantined > 0
    minutes = (waiting.oldest_seconds or 0.0) / 60
    talk(f"{waiting.depth} spool files in {config.spool_dir} wait, the oldest for {minutes:.0f} min: telemetry ship")
    return True


def _show(info: "StackInfo", output: str) -> None:
    if output == "json":
        emit(info, output=output)
    else:
        emit(info.engines, columns=_COLUMNS)


def _port(text: str, engines: Sequence[str]) -> tuple[str, int]:
    engine, _, port = text.partition("=")
    if engine not in engines or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.BadParameter(f"{text!r} is not of the form {engines[0]}=5432", param_hint="--port")
    return engine, int(port)
