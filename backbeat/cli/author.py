"""`backbeat init`, `run` and `definitions`: what authors do before anything is enqueued."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbeat.cli.arguments import Number
from backbeat.cli.output import database, emit, output_option, run_async, say_what_is_simulated, talk

if TYPE_CHECKING:
    from backbeat.local import Run
    from backbeat.operate.waiting import Seen
    from shared.config import Config
    from shared.definitions import Definition


@click.command()
@click.argument("name")
def init(name: str) -> None:
    """Begin a project: a directory NAME with one task, a test of it and a README. Replaces nothing."""
    from backbeat.scaffold import write

    for path in write(name, Path.cwd()):
        talk(f"wrote {path.relative_to(Path.cwd())}")
    click.echo(f'cd {name}\nexport BACKBEAT_DEFINITIONS={name} PYTHONPATH="$PWD"\nbackbeat definitions check')
    click.echo("backbeat up --profile cron-only\nbackbeat run support_triage --local --input", nl=False)
    click.echo(""" '{"subject": "Invoice", "body": "You charged me twice."}'""")


@click.command()
@click.argument("name")
@click.option("--input", "given", required=True, metavar="JSON|@FILE|-", help="The payload; - is stdin.")
@click.option("--version", type=click.IntRange(1), help="Of the definition; the newest if not given.")
@click.option("--local", is_flag=True, help="One attempt in this process, without a database.")
@click.option("--within", type=Number(1), default=600.0, show_default=True, help="Seconds to wait.")
@output_option
@click.pass_context
def run(
    ctx: click.Context, name: str, given: str, version: int | None, local: bool, within: float, output: str
) -> None:
    """Enqueue one task and wait for its result; or try a definition here, with --local.

    Enqueued, it is a task like any other: a worker must tick, and it goes on when this command is interrupted. With
    --local the models are asked, and paid, as a worker would; nothing is on record, no budget holds, and no effect is
    made: the run ends where it would write to the outside. Exits 0 when it succeeded or handed over, 1 when it failed
    or waits for somebody, 75 when it would be tried again or had not ended --within its time.
    """
    from backbeat.local import run as attempt_once
    from shared.config import load
    from shared.definitions import load_definitions
    from shared.errors import NotFoundError

    config = load()
    registry = load_definitions(config.definitions, config.prompt_tools)
    definition = registry.newest(name) if version is None else registry.tasks.get(f"{name}@{version}")
    if definition is None:
        raise NotFoundError(f"no loaded module defines {name}@{version}", fix=f"Loaded: {', '.join(registry.tasks)}")
    payload = _payload(given)
    if local:
        ctx.exit(_show(run_async(attempt_once(config, registry, definition, payload)), output))
    ctx.exit(_awaited(run_async(_wait(config, definition, payload, within)), output))


async def _wait(config: "Config", definition: "Definition", payload: Any, within: float) -> "Seen":
    from backbeat.operate.waiting import run as enqueue_and_wait
    from shared.execution.telemetry import open_telemetry

    async with database(config) as db:
        say_what_is_simulated(config)
        telemetry = open_telemetry(config, "backbeat")
        try:
            return await enqueue_and_wait(db, telemetry, definition, payload, within, talk)
        finally:
            telemetry.close()


def _awaited(seen: "Seen", output: str) -> int:
    from shared.errors import EXIT_TEMPORARY

    emit(seen, output=output)
    if not seen.ended:
        talk(f"it goes on: `backbeat task show {seen.task_id}`")
        return 1 if seen.status == "held" else EXIT_TEMPORARY
    return 0 if seen.status in ("succeeded", "escalated", "done") else 1


def _payload(given: str) -> Any:
    try:
        if given == "-":
            text = sys.stdin.read()
        elif given.startswith("@"):
            text = Path(given[1:]).read_text(encoding="utf-8")
        else:
            text = given
        return json.loads(text)
    except OSError as error:
        raise click.BadParameter(f"{error.filename}: {error.strerror}", param_hint="--input") from None
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"this is not JSON: {error}", param_hint="--input") from None


def _show(ran: "Run", output: str) -> int:
    from dataclasses import asdict

    from shared.domain.outcome import Escalate, FanOut, Release, Retry, Snooze, Succeed
    from shared.errors import EXIT_TEMPORARY

    outcome = ran.outcome
    said = {} if outcome is None else asdict(outcome)
    ended = type(outcome).__name__.lower() if outcome else "fenced"
    result = said.pop("result", None)
    if ran.simulated:
        talk(f"note: simulated provider, the answers are made up, no real money: {', '.join(ran.simulated)}")
    for effect in ran.effects:
        talk(f"an effect was wanted and not made: {effect['kind']} {json.dumps(effect['request'])}")
    sheet = {
        "outcome": ended,
        "result": result,
        **({"detail": said} if said else {}),
        "calls": len(ran.calls),
        "models": sorted({call["model"] for call in ran.calls}),
        "input_tokens": ran.tokens["uncached"] + ran.tokens["cache_read"] + ran.tokens["cache_write"],
        "output_tokens": ran.tokens["output"],
        "cost_usd": ran.usd,
        "simulated": bool(ran.simulated),
    }
    emit(sheet if output == "text" else {**sheet, "effects": ran.effects}, output=output)
    if isinstance(outcome, Succeed | Escalate | FanOut):
        return 0
    return EXIT_TEMPORARY if isinstance(outcome, Release | Snooze | Retry) else 1


@click.group()
def definitions() -> None:
    """Look at the modules that BACKBEAT_DEFINITIONS names."""


@definitions.command("check")
@output_option
@click.pass_context
def check_(ctx: click.Context, output: str) -> None:
    """Load every module and list all that is wrong, with file and line. Exits 0 when nothing is, else 2."""
    from backbeat.authoring_check import check
    from shared.config import load
    from shared.errors import EXIT_USAGE, ConfigError
    from shared.llm.routes import load_routes

    config = load()
    if not config.definitions:
        raise ConfigError("no definitions are named", fix="Set BACKBEAT_DEFINITIONS to your task modules")
    found = check(config.definitions, load_routes(config.routes_file))
    if output == "json":
        emit(found, output=output)
    else:
        for one in found.problems:
            place = f"{one.file}:{one.line}" if one.file else one.module
            named = f" {one.definition!r}:" if one.definition else ""
            click.echo(f"{place}:{named} {one.problem}. {one.fix}")
        talk(f"{len(found.declared)} declared, {len(found.problems)} problems")
    ctx.exit(EXIT_USAGE if found.problems else 0)
