"""`backbeat up`, `down`, `status`: the embedded engines in one directory."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backbeat.cli.output import emit, output_option, talk

if TYPE_CHECKING:
    from backbeat.embedded.stack import StackInfo

_COLUMNS = ("name", "state", "port", "pid", "log")
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
@output_option
@click.pass_context
def status(ctx: click.Context, directory: Path, output: str) -> None:
    """Show the embedded engines.

    Exits 1 unless all of them are ready.
    """
    from backbeat.embedded import stack

    info = stack.status(directory)
    _show(info, output)
    ctx.exit(any(engine.state != "ready" for engine in info.engines))


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
