"""The command line itself: its help, its speed, its refusals, its exit codes."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from backbeat.cli.main import COMMANDS, cli
from backbeat.reports.condition import EXIT_HOLDS
from shared import errors
from tests.support.command import Done, clean_environ, command

_LOADED = """
import sys
from backbeat.cli.main import main
code = main(["--help"])
heavy = {"asyncio", "psycopg", "pydantic", "rich", "temporalio", "clickhouse_connect", "opentelemetry", "anthropic"}
sys.exit(f"imported {heavy & sys.modules.keys()}" if heavy & sys.modules.keys() else code)
"""


@pytest.fixture
def run(tmp_path: Path) -> "Run":
    return Run(tmp_path)


class Run:
    """`backbeat` in an empty directory."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __call__(self, *arguments: str, **environ: str) -> Done:
        return command("backbeat", *arguments, home=self._home, environ=environ)


def test_help_names_every_command_and_exit_code(run: Run) -> None:
    out = run("--help").fine().out
    for name, lazy in COMMANDS.items():
        assert f"  {name} " in out
        assert lazy.help in out
    # A tick alone can hang; a report alone has conditions.
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")} - {errors.EXIT_HUNG} | {
        EXIT_HOLDS
    }
    assert {int(line.split()[0]) for line in out.splitlines() if line.strip()[:1].isdigit()} == codes
    assert max(map(len, out.splitlines())) <= 100


def test_help_imports_nothing_that_is_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", _LOADED], env=clean_environ(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(name: str) -> None:
    context = click.Context(cli)
    found = cli.get_command(context, name)
    assert found is not None
    assert found.name == name
    assert found.get_short_help_str(limit=100) == COMMANDS[name].help


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "backbeat: No such command 'frobnicate'. See `backbeat --help`"),
        (["task", "list", "--colour"], "backbeat: No such option '--colour'. See `backbeat task list --help`"),
        (["task", "show", "seven"], "backbeat: Invalid value for 'TASK_ID': 'seven' is no task id"),
        (["task", "enqueue", "x"], "backbeat: give one of --payload, --file and --from. See `backbeat task enqueue"),
        (
            ["task", "enqueue", "x", "--payload", "{"],
            "backbeat: Invalid value for '--payload' / '--input': this is not JSON: ",
        ),
        (["task", "list", "--since", "soon"], "backbeat: Invalid value for '--since': 'soon' is no duration such as"),
        (["stop", "--reason", "x"], "backbeat: say --all or --effects. See `backbeat stop --help`"),
        (["stop", "--all", "--reason", " "], "backbeat: --reason is empty. See `backbeat stop --help`"),
        (["stop", "--all"], "backbeat: Missing option '--reason'. See `backbeat stop --help`"),
        (["budget", "set", "workflow", "x"], "backbeat: name an amount: --usd or --tokens. See"),
        (["budget", "set", "workflow", "x", "--usd", "1", "--no-usd"], "backbeat: a cap is either set or lifted. See"),
        (["effect", "resolve", "k"], "backbeat: say either --done JSON or --absent. See"),
        (["effect", "resolve", "k", "--absent"], "backbeat: --absent needs --reason: it lets the write happen again"),
        (["up", "--port", "postgres"], "backbeat: Invalid value for --port: 'postgres' is not of the form"),
        (["up", "--latency", "fast"], "backbeat: latency is 'fast'. Use seconds, a range such as 0.2-2, or real"),
        (["up", "--port", "mysql=1"], "backbeat: Invalid value for --port: 'mysql=1' is not of the form postgres=5432"),
        (["task", "list"], "backbeat: database_url is not set. Set BACKBEAT_DATABASE_URL, or run `backbeat up` here"),
        (["migrate", "up"], "backbeat: direct_url is not set. "),
        (["report", "cost"], "backbeat: no ClickHouse is configured (telemetry is 'off'). "),
    ],
)
def test_wrong_usage_is_one_line_and_exits_2(run: Run, arguments: list[str], said: str) -> None:
    assert run(*arguments).refused(2).startswith(said)


def test_a_group_without_a_command_shows_its_help(run: Run) -> None:
    done = run("task")
    assert (done.code, done.out) == (2, "")
    assert "enqueue" in done.err


def test_version(run: Run) -> None:
    assert run("version").fine().out.startswith("backbeat 0.")
    assert run("version", "-o", "json").json.keys() == {"backbeat", "python"}


def test_a_broken_settings_file_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "backbeat.toml").write_text('databse_url = "x"\n')
    assert run("task", "list").refused(2).startswith("backbeat: backbeat.toml: unknown key 'databse_url'. Known keys: ")


def test_a_reader_that_goes_away_gets_no_traceback() -> None:
    line = '"$0" -m backbeat --help | true; exit "${PIPESTATUS[0]}"'
    done = subprocess.run(["bash", "-c", line, sys.executable], env=clean_environ(), capture_output=True, text=True)
    assert done.stderr == ""


def test_shells_complete(run: Run) -> None:
    done = run(_BACKBEAT_COMPLETE="bash_complete", COMP_WORDS="backbeat ta", COMP_CWORD="1")
    assert done.out.split() == ["plain,task"]
