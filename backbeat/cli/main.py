"""The `backbeat` command: a table of command groups, each imported when it is asked for."""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

import click

from shared.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, BackbeatError


class Lazy(NamedTuple):
    """A command that is not imported yet: where it lives, and its line in the help."""

    home: str
    help: str


COMMANDS: Mapping[str, Lazy] = MappingProxyType(
    {
        "init": Lazy(
            "backbeat.cli.author:init", "Begin a project: a directory NAME with one task, a test of it and a README."
        ),
        "run": Lazy(
            "backbeat.cli.author:run",
            "Enqueue one task and wait for its result; or try a definition here, with --local.",
        ),
        "definitions": Lazy("backbeat.cli.author:definitions", "Look at the modules that BACKBEAT_DEFINITIONS names."),
        "up": Lazy("backbeat.cli.stack:up", "Start the embedded engines and migrate them."),
        "down": Lazy("backbeat.cli.stack:down", "Stop the embedded engines; their data stays."),
        "status": Lazy("backbeat.cli.stack:status", "Show the embedded engines, and how the database is."),
        "migrate": Lazy("backbeat.cli.migrate:migrate", "Bring the database schemas up to date."),
        "task": Lazy("backbeat.cli.task:task", "Enqueue, watch and cancel tasks."),
        "agent": Lazy(
            "backbeat.cli.agent:agent", "See what agents did and what it cost; cancel, resume and fork them."
        ),
        "schedule": Lazy("backbeat.cli.schedule:schedule", "Let tasks come with the clock."),
        "tenant": Lazy("backbeat.cli.tenant:tenant", "See, weigh, cap and pause tenants."),
        "route": Lazy(
            "backbeat.cli.route:route", "See the routes of the tiers, change them without a deploy, and hold one."
        ),
        "batch": Lazy(
            "backbeat.cli.batch:batch", "See the calls that go by batch; cancel a batch; say what became of one."
        ),
        "workflow": Lazy("backbeat.cli.workflow:workflow", "Run orchestrations; see and pause definitions."),
        "dead": Lazy("backbeat.cli.dead:dead", "See, requeue and discard tasks that ended in vain."),
        "approval": Lazy("backbeat.cli.approval:approval", "See what waits for a person, and decide."),
        "notify": Lazy("backbeat.cli.notify:notify", "Tell people what waits for them: mail, chat, webhooks."),
        "audit": Lazy("backbeat.cli.audit:audit", "Verify and export the record of what people decided and did."),
        "effect": Lazy("backbeat.cli.effect:effect", "Inspect and resolve writes to the outside."),
        "eval": Lazy("backbeat.cli.evaluate:evaluate", "Measure what the tiers get right."),
        "budget": Lazy("backbeat.cli.budget:budget", "Show and set what may be used."),
        "stop": Lazy("backbeat.cli.switch:stop", "Stop new model calls or effects, everywhere, now."),
        "resume": Lazy("backbeat.cli.switch:resume", "Lift a stop."),
        "retention": Lazy("backbeat.cli.retention:retention", "Show and set how long finished work is kept."),
        "erase": Lazy(
            "backbeat.cli.erase:erase",
            "Take out what was written about a tenant or a task.",
        ),
        "feedback": Lazy("backbeat.cli.feedback:feedback", "Say whether results were right."),
        "report": Lazy(
            "backbeat.cli.report:report", "Ask ClickHouse what work cost, how fast it was and what got worse."
        ),
        "query": Lazy("backbeat.cli.query:query", "Ask ClickHouse one SELECT; `-` reads it from stdin."),
        "trace": Lazy("backbeat.cli.report:trace", "Follow one task from its enqueuer to its effect."),
        "telemetry": Lazy("backbeat.cli.telemetry:telemetry", "Ship spans to ClickHouse."),
        "metrics": Lazy(
            "backbeat.cli.metrics:metrics",
            "Show queues, ticks, routes, budgets, outbox, approvals and spool as figures.",
        ),
        "codec": Lazy("backbeat.cli.codec:codec", "Show encrypted payloads in Temporal's own pages."),
        "token": Lazy("backbeat.cli.token:token", "Make and revoke the tokens of approvers."),
        "version": Lazy("backbeat.cli.version:version", "Print the version."),
    }
)

EPILOG = """\b
Exit codes:
  0   done
  1   failed, or the schema does not fit
  2   wrong usage, setting, definition or input
  3   there is no such row
  4   not authenticated, or not allowed
  5   conflict: already decided, finished, or held by somebody else
  6   what `report --fail-if` asks for holds
  75  a system is away; the same command may work later

\b
An id may be given by its first digits, 8 at least, where no other begins like that.
Settings come from flags, then BACKBEAT_* variables, then backbeat.toml.
Shell completion: eval "$(_BACKBEAT_COMPLETE=bash_source backbeat)"
"""

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class LazyGroup(click.Group):
    """A group that imports a command when it is invoked, and lists all without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].home.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings=CONTEXT)
def cli() -> None:
    """AI work in production on one Postgres."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; whatever goes wrong is one line on stderr."""
    code = _main(argv)
    if argv is None and "temporalio.bridge" in sys.modules:
        # Threads of the SDK's core may still be calling into Python: an ordinary exit then crashes, now and then.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    return code


def _main(argv: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        _all_text(sys.argv[1:] if argv is None else argv)
        code: Any = cli.main(args=argv, prog_name="backbeat", standalone_mode=False)
    except BackbeatError as error:
        return _refuse(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "backbeat"
        return _refuse(f"{error.format_message().rstrip('.')}. See `{where} --help`", EXIT_USAGE)
    except click.ClickException as error:
        return _refuse(error.format_message(), EXIT_FAILURE)
    except (click.Abort, KeyboardInterrupt):
        return _refuse("interrupted", 130)
    return code if isinstance(code, int) else EXIT_OK


def _all_text(argv: Sequence[str]) -> None:
    """What is no UTF-8 can be sent nowhere. Raises UsageError."""
    for at, argument in enumerate(argv, 1):
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise click.UsageError(f"argument {at} is not UTF-8 text: {argument!r}")


def _refuse(message: str, code: int) -> int:
    from backbeat.cli.output import talk

    talk(f"backbeat: {' '.join(message.split())}")
    return code
