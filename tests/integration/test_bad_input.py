"""What is wrong is one clear line on stderr that says what to do, with the documented exit code; nothing is lost.

Every case goes through the real command line. Cases of one command alone stand beside that command's tests:
payloads and unknown workflows in test_cli_task, a taken port in test_cli_stack, ClickHouse in test_cli_report.
"""

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import Done, clean_environ, command
from tests.support.databases import Database

TICKET = '{"subject": "Bill"}'
NOWHERE = "postgresql://somebody@127.0.0.1:9/backbeat"
BACKBEAT = ("backbeat", "task", "list")
TICK = ("cron_worker", "tick", "--budget", "60s", "--grace", "5s")
Run = Callable[..., Done]


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Run:
    """A command line on the test's database, with the definitions of tests.support.triage unless told otherwise."""

    def start(module: str, *arguments: object, **environ: str) -> Done:
        settings = {**database.environ, "BACKBEAT_DEFINITIONS": "tests.support.triage", **environ}
        return command(module, *arguments, home=tmp_path, environ=settings)

    return start


@pytest.fixture
def waiting(run: Run) -> str:
    """The id of a task that is ready."""
    task: str = run("backbeat", "task", "enqueue", "support_triage", "--payload", TICKET, "-o", "json").json[0][
        "task_id"
    ]
    return task


def _name(module: str) -> str:
    return module.replace("_", "-")


IMPOSSIBLE = """from pydantic import BaseModel
from backbeat import single_shot
class A(BaseModel): x: int
t = single_shot('t', version=1, input=A, output=A, tier='small', prompt='{y}')
"""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "there is no definition module 'broken'. Check BACKBEAT_DEFINITIONS, and that its directory is on"),
        ("import no_such\n", "broken.py:1: ModuleNotFoundError: No module named 'no_such'. Correct the module"),
        ("\ndef (:\n", "broken.py:2: invalid syntax. Correct the module"),
        ("import sys\n\nsys.exit(0)\n", "broken.py:3: SystemExit: 0. Correct the module"),
        ("import json\n\njson.loads('{')\n", "JSONDecodeError: Expecting property name"),
        (IMPOSSIBLE, "broken.py:4: 't': its prompt asks for 'y', which A has not. Correct the definition"),
    ],
    ids=["absent", "import", "syntax", "exits", "raises", "impossible"],
)
def test_definitions_that_do_not_load(
    run: Run, waiting: str, database: Database, tmp_path: Path, source: str | None, said: str
) -> None:
    if source is not None:
        (tmp_path / "broken.py").write_text(source, encoding="utf-8")
    broken = {"BACKBEAT_DEFINITIONS": "broken", "PYTHONPATH": f"{tmp_path}:{clean_environ()['PYTHONPATH']}"}
    for module, *arguments in (("backbeat", "task", "enqueue", "t", "--payload", "{}"), TICK):
        line = run(module, *arguments, **broken).refused(2)
        assert line.startswith(f"{_name(module)}: ")
        assert said in line
    assert database.sql("SELECT id::text, status FROM backbeat.simple_tasks") == [(waiting, "ready")]


@pytest.mark.parametrize(("module", "arguments"), [(BACKBEAT[0], BACKBEAT[1:]), (TICK[0], TICK[1:])])
def test_missing_migrations(empty_database: Database, tmp_path: Path, module: str, arguments: tuple[str, ...]) -> None:
    line = command(module, *arguments, home=tmp_path, environ=empty_database.environ).refused(1)
    assert line.startswith(f"{_name(module)}: the ")
    assert line.endswith(". Run `backbeat migrate up`")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backbeat", "stop", "--all", "--reason", "\udcff"], "argument 4 is not UTF-8 text: '\\udcff'. See `"),
        (["backbeat", "up", "--dir", "a#b"], "a#b' holds '#', which some engines misread in a path. Name another"),
        (["backbeat", "up", "--latency", "nan"], "latency is 'nan'. Use seconds, a range such as 0.2-2, or real"),
        (["backbeat", "task", "list", "--since", "999999w"], "'999999w' is more than a hundred years. See `"),
        (["cron_worker", "tick", "--budget", "nan"], "argument --budget: 'nan' is no duration between 0 and a week."),
        (["cron_worker", "tick", "--grace", "1e300h"], "argument --grace: '1e300h' is no duration between 0 and"),
        (["cron_worker", "tick", "--lease", "-5"], "argument --lease: '-5' is no duration between 0 and a week. See"),
    ],
    ids=" ".join,
)
def test_what_no_command_can_mean(tmp_path: Path, words: list[str], said: str) -> None:
    line = command(*words, home=tmp_path).refused(2)
    assert line.startswith(f"{_name(words[0])}: ")
    assert said in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("module", "arguments"), [(BACKBEAT[0], BACKBEAT[1:]), (TICK[0], TICK[1:])])
def test_settings_of_a_wrong_type(tmp_path: Path, module: str, arguments: tuple[str, ...]) -> None:
    (tmp_path / "backbeat.toml").write_text("database_url = 5\n")
    line = command(module, *arguments, home=tmp_path).refused(2)
    assert line == f"{_name(module)}: backbeat.toml: database_url must be a text. Correct it"


@pytest.mark.parametrize(("module", "arguments"), [(BACKBEAT[0], BACKBEAT[1:]), (TICK[0], TICK[1:])])
def test_unreachable_postgres(tmp_path: Path, module: str, arguments: tuple[str, ...]) -> None:
    line = command(module, *arguments, home=tmp_path, environ={"BACKBEAT_DATABASE_URL": NOWHERE}).refused(75)
    assert line.startswith(f"{_name(module)}: Postgres does not answer: ")
    assert line.endswith(". Check database_url and that it runs")


def test_migrating_an_unreachable_postgres_and_with_a_login_that_may_not(
    empty_database: Database, tmp_path: Path
) -> None:
    line = command("backbeat", "migrate", "up", home=tmp_path, environ={"BACKBEAT_DIRECT_URL": NOWHERE}).refused(75)
    assert line.startswith("backbeat: Postgres failed: connection failed: ")
    worker = {"BACKBEAT_DIRECT_URL": empty_database.direct_worker_url}
    done = command("backbeat", "migrate", "up", home=tmp_path, environ=worker)
    assert (done.code, done.out) == (1, "")
    said = "backbeat: migration 0001_base failed: permission denied for database "
    assert done.err.splitlines()[-1].startswith(said)


def test_an_unreachable_provider_gives_the_task_back(
    run: Run, waiting: str, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "backbeat.toml").write_text(
        '[providers.anthropic]\nbase_url = "http://127.0.0.1:9"\nsimulated = true\n'
    )
    run(*TICK).fine()
    query = "SELECT id::text, status IN ('pending', 'ready', 'delayed'), attempts FROM backbeat.simple_tasks"
    assert database.sql(query) == [(waiting, True, 0)]
    assert database.sql("SELECT DISTINCT status FROM backbeat.model_calls") == [("refused",)]
    assert (
        database.value("SELECT spent_usd + presumed_usd + reserved_usd FROM backbeat.budgets WHERE scope = 'tenant'")
        == 0
    )
    attempts = run("backbeat", "task", "show", waiting, "-o", "json").json["attempts"]
    assert {one["outcome"] for one in attempts} == {"release"}
    assert len(attempts) <= 2, "twice, should the tick take as long as the pause"


def test_a_budget_that_the_start_used_up_is_said(run: Run, waiting: str, database: Database) -> None:
    """Or a queue would stand still, and every tick exit 0 without a word."""
    done = run("cron_worker", "tick", "--budget", "1ms", "--grace", "5s").fine()
    assert "the start took the budget of 0.001 s: nothing is begun. Raise --budget" in done.err
    assert database.sql("SELECT attempts, status FROM backbeat.simple_tasks") == [(0, "ready")]


def test_no_provider_is_configured(run: Run, waiting: str, database: Database) -> None:
    done = run(*TICK).fine()
    assert "Traceback" not in done.err
    assert database.value("SELECT attempts FROM backbeat.simple_tasks") == 0
    (attempt,) = run("backbeat", "task", "show", waiting, "-o", "json").json["attempts"]
    assert "needs a provider: anthropic or openai. Configure one" in attempt["error"]


def _no_file_may_grow() -> None:
    """As on a full disk, every write of a byte fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def test_a_full_disk_loses_spans_and_no_task(database: Database, tmp_path: Path) -> None:
    environ = clean_environ(
        **database.environ,
        BACKBEAT_DEFINITIONS="tests.support.triage",
        BACKBEAT_TELEMETRY="spool",
        BACKBEAT_SPOOL_DIR=str(tmp_path / "spool"),
    )
    arguments = [sys.executable, "-m", "backbeat", "task", "enqueue", "support_triage", "--payload", TICKET]
    done = subprocess.run(
        arguments,
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        preexec_fn=_no_file_may_grow,
    )
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("telemetry: 1 spans shed, ")
    assert line.endswith("/spool cannot be written: [Errno 27] File too large")
    assert database.value("SELECT count(*) FROM backbeat.simple_tasks") == 1
    assert [path.name for path in (tmp_path / "spool").glob("*")] == [".shed"]


def test_a_repository_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        wide = {"COLUMNS": "999"}
        line = command("examples.code_review", "--repo", path, home=tmp_path, environ=wide).refused(2)
        assert line.startswith("demo: ")
        assert str(path) in line
    assert not (tmp_path / "var").exists()
