"""`temporal-worker run` as a process of its own: killed, stopped, started with nothing there, misconfigured."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.common import VersioningBehavior

from backbeat.embedded import temporal
from temporal_worker.worker import Options
from tests.support.approvals import decide, start, token
from tests.support.databases import Database
from tests.support.temporal import FarSide, Server, asked, environment, eventually, finished, working

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "temporal_worker", "run"]


def surroundings(environ: dict[str, str]) -> dict[str, str]:
    """An environment in which only `environ` configures Backbeat."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BACKBEAT_", "TEMPORAL_"))}
    return {**inherited, "PYTHONPATH": str(ROOT), **environ}


class Process:
    """A worker whose log lines can be waited for."""

    def __init__(self, directory: Path, environ: dict[str, str], *arguments: str) -> None:
        command = [*COMMAND, *arguments]
        env = surroundings(environ)
        self.process = subprocess.Popen(command, cwd=directory, env=env, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()
        self.process.stderr.close()

    def says(self, text: str, within: float = 30.0) -> str:
        """The first line with that text."""
        with self._news:
            found = self._news.wait_for(lambda: next((line for line in self.lines if text in line), ""), within)
        assert found, f"{text!r} not in {self.lines}"
        return found

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


MARK = "SELECT mark FROM backbeat.side_effects"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def worker(tmp_path: Path, notes: Path, temporal_server: Server) -> Iterator[Callable[[Database], Process]]:
    started: list[Process] = []

    def run(database: Database) -> Process:
        environ = {
            **database.environ,
            "BACKBEAT_TEMPORAL_ADDRESS": temporal_server.address,
            "BACKBEAT_DEFINITIONS": "tests.support.noting",
            "BACKBEAT_TEST_NOTES": str(notes),
        }
        queue = f"process-{database.name}"
        started.append(Process(tmp_path, environ, "--task-queue", queue))
        return started[-1]

    yield run
    for process in started:
        process.process.kill()
        process.process.wait()


def noted(notes: Path) -> list[str]:
    return notes.read_text(encoding="utf-8").split() if notes.exists() else []


async def test_a_worker_killed_in_mid_wait_is_replaced(
    database: Database, worker: Callable[[Database], Process], notes: Path
) -> None:
    first = worker(database)
    workflow = start(database)
    request, shown = await asked(database, workflow)
    assert first.end(signal.SIGKILL) == -9
    decide(database, token(database, "alice"), request, "approve", shown)
    worker(database)
    done = await finished(database, workflow, within=40)
    mark = database.value(MARK)
    assert done["result"]["effect"] == {"noted": mark}
    assert noted(notes) == [mark]


async def test_a_worker_killed_after_the_far_write_posts_no_second_time(
    database: Database, worker: Callable[[Database], Process], notes: Path
) -> None:
    first = worker(database)
    notes.with_suffix(".hang").touch()
    workflow = start(database)
    request, shown = await asked(database, workflow)
    decide(database, token(database, "alice"), request, "approve", shown)
    await eventually(lambda: noted(notes))
    first.end(signal.SIGKILL)
    notes.with_suffix(".hang").unlink()
    worker(database)
    assert (await finished(database, workflow, within=40))["status"] == "completed"
    assert noted(notes) == [database.value(MARK)]
    assert database.sql("SELECT status, fires, resolved_by FROM backbeat.side_effects") == [("done", 1, "read-back")]


def test_a_worker_that_is_told_to_stop_says_goodbye(database: Database, worker: Callable[[Database], Process]) -> None:
    process = worker(database)
    process.says("running approve_effect")
    assert process.end(signal.SIGTERM) == 0
    process.says("stopping")
    assert all(line.startswith("temporal-worker: ") for line in process.lines)


async def test_postgres_may_be_away(
    private_server: object, private_database: Database, worker: Callable[[Database], Process], notes: Path
) -> None:
    database = private_database
    process = worker(database)
    workflow = start(database)
    request, shown = await asked(database, workflow)
    database.server.daemon.kill()
    process.says("relay: Postgres does not answer")
    process.says("dispatcher: Postgres does not answer")
    database.server.start()
    process.says("relay: works again")
    decide(database, token(database, "alice"), request, "approve", shown)
    assert (await finished(database, workflow))["status"] == "completed"
    assert noted(notes) == [database.value(MARK)]
    assert process.end(signal.SIGTERM) == 0
    assert not [line for line in process.lines if "Traceback" in line]


def test_it_waits_for_servers_that_are_not_there_yet(tmp_path: Path) -> None:
    nowhere = {
        "BACKBEAT_DATABASE_URL": "postgresql://x@127.0.0.1:1/x",
        "BACKBEAT_TEMPORAL_ADDRESS": "127.0.0.1:1",
        "BACKBEAT_DEFINITIONS": "tests.support.noting",
    }
    process = Process(tmp_path, nowhere)
    said = process.says("Temporal at 127.0.0.1:1")
    assert "(trying again)" in said
    assert process.end(signal.SIGTERM) == 0
    assert process.lines == [said]


def test_a_worker_without_effects_says_so(tmp_path: Path) -> None:
    """It would run, and every escalation would wait for ever."""
    nowhere = {"BACKBEAT_DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "BACKBEAT_TEMPORAL_ADDRESS": "127.0.0.1:1"}
    process = Process(tmp_path, nowhere)
    said = process.says("no effects are loaded")
    assert "set BACKBEAT_DEFINITIONS" in said
    assert process.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "database_url is not set"),
        ({"BACKBEAT_DATABASE_URL": "postgresql://x"}, "temporal_address is not set"),
        (
            {
                "BACKBEAT_DATABASE_URL": "postgresql://x",
                "BACKBEAT_TEMPORAL_ADDRESS": "127.0.0.1:1",
                "BACKBEAT_DEFINITIONS": "no_such_module",
            },
            "there is no definition module 'no_such_module'",
        ),
    ],
)
def test_wrong_settings_are_one_line_and_exit_2(tmp_path: Path, environ: dict[str, str], said: str) -> None:
    env = surroundings(environ)
    done = subprocess.run(COMMAND, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_presence_is_on_record(database: Database, worker: Callable[[Database], Process]) -> None:
    worker(database)
    query = "SELECT kind, loaded FROM backbeat.workers"
    assert await eventually(lambda: database.sql(query)) == [("temporal", ["approve_effect@1"])]


async def test_a_build_id_pins_workflows_to_their_release(database: Database, tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    client = await Client.connect(server.address)
    choose = [
        "worker",
        "deployment",
        "set-current-version",
        "--deployment-name",
        "backbeat",
        "--build-id",
        "v1",
        "--yes",
    ]
    command = [str(temporal.binary()), *choose, "--address", server.address, "--disable-config-file"]

    def chosen() -> bool:
        return subprocess.run(command, capture_output=True).returncode == 0

    try:
        async with environment(database, FarSide()) as env, working(env, client, Options("pinned", build_id="v1")):
            await eventually(chosen)
            workflow = start(database)
            request, shown = await asked(database, workflow)
            decide(database, token(database, "alice"), request, "reject", shown)
            done = await finished(database, workflow)
        described = await client.get_workflow_handle(done["temporal_id"]).describe()
    finally:
        server.kill()
    versioning = described.raw_description.workflow_execution_info.versioning_info
    assert versioning.behavior == VersioningBehavior.PINNED.value
    assert versioning.deployment_version.build_id == "v1"
