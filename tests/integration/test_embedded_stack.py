"""The stack: up, down, status on real PostgreSQL and Temporal; whatever is killed or lost, the next up heals it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from backbeat.embedded import ports, roles, stack
from backbeat.embedded.daemon import Process
from backbeat.embedded.engines import CATALOGUE, Catalogue
from shared import config
from shared.errors import BackbeatError, ConfigError, ConflictError, NotFoundError, UnavailableError
from tests.support.engines import BROKEN_LAST, MUTE_LAST, ROOT, SERVICES, UP_MUTE

REAL = ("postgres", "temporal")
EVERY: Catalogue = {**BROKEN_LAST, **MUTE_LAST, **CATALOGUE}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "a stack"
    yield made
    stack.down(made, catalogue=EVERY)


def _services(directory: Path, **options: object) -> stack.StackInfo:
    return stack.up(directory, engines=tuple(SERVICES), catalogue=SERVICES, **options)  # type: ignore[arg-type]  # passed through


def _pids(info: stack.StackInfo) -> dict[str, int]:
    return {engine.name: engine.pid for engine in info.engines}


def _states(directory: Path) -> dict[str, str]:
    return {engine.name: engine.state for engine in stack.status(directory, catalogue=EVERY).engines}


def _until_loading(up: subprocess.Popen[bytes], directory: Path) -> None:
    log = directory / "log" / "mute.log"
    while "still loading" not in (log.read_text() if log.exists() else ""):
        assert up.poll() is None
        time.sleep(0.01)


def _listen(port: int) -> socket.socket:
    server = socket.create_server(("127.0.0.1", port))
    server.listen()
    return server


def test_up_again_down_and_up_again_on_real_engines(directory: Path) -> None:
    first = stack.up(directory, engines=REAL)
    assert first.changed == REAL
    assert "0001_base" in first.migrations
    settings = config.load({"BACKBEAT_CONFIG": str(first.config)})
    with psycopg.connect(settings.database_url) as app:
        row = app.execute("SELECT current_user::text, pg_has_role('backbeat_worker', 'member')").fetchone()
        assert row == (roles.APP, True)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("CREATE TABLE backbeat.mine ()")
    with psycopg.connect(settings.operator_url) as people:
        row = people.execute("SELECT current_user::text, pg_has_role('backbeat_operator', 'member')").fetchone()
        assert row == (roles.PEOPLE, True)
    with psycopg.connect(settings.migrator_url) as owner:
        owner.execute("CREATE TABLE kept AS SELECT 'a row' AS row")

    messages: list[str] = []
    again = stack.up(directory, engines=REAL, log=messages.append)
    assert (again.changed, again.migrations) == ((), ())
    assert _pids(again) == _pids(first)
    assert messages == [f"already running in {directory}"]
    assert _states(directory) == {"postgres": "ready", "temporal": "ready"}

    assert set(stack.down(directory).changed) == set(REAL)
    assert _states(directory) == {"postgres": "stopped", "temporal": "stopped"}
    assert stack.down(directory).changed == ()

    third = stack.up(directory, engines=REAL)
    assert [engine.port for engine in third.engines] == [engine.port for engine in first.engines]
    with psycopg.connect(settings.migrator_url) as owner:
        assert owner.execute("SELECT row FROM kept").fetchone() == ("a row",)


def test_kill_9_of_everything_heals(directory: Path) -> None:
    before = stack.up(directory)
    settings = config.load({"BACKBEAT_CONFIG": str(before.config)})
    with psycopg.connect(settings.migrator_url) as owner:
        owner.execute("CREATE TABLE kept AS SELECT 'committed' AS row")
    for name in stack.ALL:
        stack.kill(directory, name)
    assert _states(directory) == dict.fromkeys(stack.ALL, "died")
    with pytest.raises(NotFoundError, match="postgres does not run"):
        stack.kill(directory, "postgres")

    after = stack.up(directory)
    assert after.changed == stack.ALL
    assert {engine.state for engine in after.engines} == {"ready"}
    assert [engine.port for engine in after.engines] == [engine.port for engine in before.engines]
    with psycopg.connect(settings.migrator_url) as owner:
        assert owner.execute("SELECT row FROM kept").fetchone() == ("committed",)


def test_one_engine_is_killed_and_restarted_on_its_port(directory: Path) -> None:
    before = _services(directory)
    stack.kill(directory, "first")
    stack.restart(directory, "first", catalogue=SERVICES)
    after = stack.status(directory, catalogue=SERVICES)
    assert _pids(after)["first"] != _pids(before)["first"]
    assert _pids(after)["provider"] == _pids(before)["provider"]
    assert [(engine.name, engine.port, engine.state) for engine in after.engines] == [
        (engine.name, engine.port, "ready") for engine in before.engines
    ]
    with pytest.raises(NotFoundError, match="postgres never ran"):
        stack.restart(directory, "postgres")


def test_restart_does_not_move_an_engine_that_workers_know(directory: Path) -> None:
    port = _services(directory).engines[0].port
    stack.kill(directory, "first")
    with _listen(port), pytest.raises(ConflictError, match=f"port {port} for first is taken"):
        stack.restart(directory, "first", catalogue=SERVICES)


def test_two_ups_at_once_start_one_stack(directory: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(_services, [directory, directory])
    assert sorted([one.changed, other.changed]) == [(), tuple(SERVICES)]
    assert _pids(one) == _pids(other)


def test_an_up_killed_half_way_leaves_nothing_unknown(directory: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", UP_MUTE, directory], cwd=ROOT, start_new_session=True)
    with killed:
        _until_loading(killed, directory)
        os.killpg(killed.pid, signal.SIGKILL)
    found = stack.status(directory, catalogue=MUTE_LAST)
    processes = [Process.of(engine.pid) for engine in found.engines]
    assert [engine.name for engine in found.engines if engine.state in ("ready", "silent")] == list(MUTE_LAST)
    assert _services(directory).changed == ()
    assert set(stack.down(directory, catalogue=MUTE_LAST).changed) == set(MUTE_LAST)
    assert not any(process.alive() for process in processes)


def test_a_failing_engine_takes_down_what_this_up_started_and_nothing_else(directory: Path) -> None:
    kept = stack.up(directory, engines=("first",), catalogue=SERVICES)
    with pytest.raises(UnavailableError, match="broken ended: the moon is in the wrong house"):
        stack.up(directory, engines=tuple(BROKEN_LAST), catalogue=BROKEN_LAST)
    found = stack.status(directory, catalogue=BROKEN_LAST)
    assert _pids(found) == {"first": _pids(kept)["first"], "provider": 0, "broken": 0}


def test_an_interrupted_up_takes_its_engines_down(directory: Path) -> None:
    interrupted = subprocess.Popen([sys.executable, "-c", UP_MUTE, directory], cwd=ROOT, stderr=subprocess.PIPE)
    with interrupted:
        _until_loading(interrupted, directory)
        interrupted.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in interrupted.communicate()[1]
    assert not list(directory.rglob("*.pid"))


def test_a_remembered_port_that_is_taken_moves_and_says_so(directory: Path) -> None:
    port = _services(directory).engines[0].port
    stack.down(directory, catalogue=SERVICES)
    messages: list[str] = []
    with _listen(port):
        moved = _services(directory, log=messages.append).engines[0]
    assert moved.port != port
    assert f"first moves to port {moved.port}: its port {port} is taken by something else" in messages


def test_a_port_asked_for_that_is_taken_is_an_error(directory: Path) -> None:
    port = ports.find()
    with _listen(port), pytest.raises(ConflictError, match=f"port {port} for provider is taken"):
        _services(directory, ports={"provider": port})
    assert not list(directory.rglob("*.pid"))  # nothing was started
    running = _services(directory, ports={"provider": port}).engines[1]
    assert running.port == port
    with pytest.raises(ConflictError, match=f"already runs on port {port}"):
        _services(directory, ports={"provider": port + 1})


def test_a_new_latency_restarts_the_provider_only_and_is_remembered(directory: Path) -> None:
    before = _services(directory, latency="0-0")
    assert _services(directory).changed == ()
    after = _services(directory, latency="2-3")
    assert after.changed == ("provider",)
    assert after.latency == "2-3"
    with urllib.request.urlopen(f"http://127.0.0.1:{before.engines[1].port}/health") as answer:
        assert answer.read() == b"2-3"
    stack.down(directory, catalogue=SERVICES)
    assert _services(directory).latency == "2-3"


def test_what_an_engine_refuses_is_not_remembered(directory: Path) -> None:
    kept = stack.up(directory, engines=("provider",))
    with pytest.raises(UnavailableError, match=r"provider ended: .*soon"):
        stack.up(directory, engines=("provider",), latency="soon")
    assert stack.up(directory, engines=("provider",)).latency == kept.latency


def test_more_arguments_restart_their_engine_only_and_are_remembered(directory: Path) -> None:
    both = ("provider", "recorder")
    stack.up(directory, engines=both)
    assert stack.up(directory, engines=both, args={"recorder": ["--seed", "5"]}).changed == ("recorder",)
    assert stack.up(directory, engines=both, args={"recorder": ["--seed", "5"]}).changed == ()
    stack.down(directory)
    stack.up(directory, engines=both)
    process = stack.status(directory).engines[1].pid
    assert b"--seed\x005" in Path(f"/proc/{process}/cmdline").read_bytes()


def test_a_lost_stack_file_does_not_lose_the_engines(directory: Path) -> None:
    processes = [Process.of(pid) for pid in _pids(_services(directory)).values()]
    (directory / "stack.json").unlink()
    assert _services(directory).changed == tuple(SERVICES)
    assert not any(process.alive() for process in processes)
    (directory / "stack.json").unlink()
    assert set(stack.down(directory, catalogue=SERVICES).changed) == set(SERVICES)


def test_status_is_about_what_up_last_started(directory: Path) -> None:
    _services(directory)
    stack.down(directory, catalogue=SERVICES)
    stack.up(directory, engines=("first",), catalogue=SERVICES)
    assert _states(directory) == {"first": "ready"}
    stack.up(directory, engines=("provider",), catalogue=SERVICES)
    assert _states(directory) == {"first": "ready", "provider": "ready"}
    stack.down(directory, catalogue=SERVICES)
    assert _states(directory) == {"provider": "stopped"}


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%41", "a\nb"])
def test_a_directory_that_engines_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"which some engines misread in a path\. Name another --dir"):
        stack.up(tmp_path / name, engines=("first",), catalogue=SERVICES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"ports": []}',
        '{"ports": {"first": "5432"}}',
        '{"ports": {"first": 0}}',
        '{"args": {"first": "x"}}',
        '{"latency": 1}',
        '{"engines": "first"}',
        '{"else": 1}',
    ],
)
def test_a_stack_file_that_up_did_not_write(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content)
    with pytest.raises(ConfigError, match=r"stack\.json is damaged: .*Remove it"):
        stack.status(tmp_path, catalogue=SERVICES)
    (tmp_path / "stack.json").unlink()
    (tmp_path / "stack.json").mkdir()
    with pytest.raises(ConfigError, match=r"stack\.json cannot be read: Is a directory"):
        stack.status(tmp_path, catalogue=SERVICES)


def test_a_damaged_stack_file_is_named(directory: Path) -> None:
    directory.mkdir()
    (directory / "stack.json").write_text("{")
    with pytest.raises(ConfigError, match=r"stack\.json is damaged"):
        _services(directory)
    (directory / "stack.json").unlink()


def test_secrets_are_for_their_owner_only(directory: Path) -> None:
    stack.up(directory, engines=("postgres",))
    secrets = [directory / "backbeat.toml", directory / "postgres" / "password", *(directory / "secrets").iterdir()]
    assert len(secrets) == 5
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    assert directory.stat().st_mode & 0o777 == 0o700


def test_cron_only_imports_nothing_of_temporal_or_clickhouse(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from backbeat.embedded import stack
print(stack.up(Path(sys.argv[1]), engines=stack.CRON_ONLY).changed)
stack.down(Path(sys.argv[1]))
print(sorted({name.split(".")[0] for name in sys.modules} & {"temporalio", "clickhouse_connect", "chdb", "starlette"}))
"""
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "var")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "('postgres', 'provider', 'recorder')\n[]\n"
    assert done.stderr == ""
    found = config.load({"BACKBEAT_CONFIG": str(tmp_path / "var" / "backbeat.toml")})
    assert (found.temporal_address, found.clickhouse_url, found.telemetry) == ("", "", "off")
    left = {path.name for path in (tmp_path / "var").rglob("*")}
    assert not {name for name in left if "temporal" in name or "clickhouse" in name}


def test_what_is_not_there(directory: Path, tmp_path: Path) -> None:
    assert stack.down(directory).changed == ()
    assert not directory.exists()
    with pytest.raises(NotFoundError, match="there is no stack"):
        stack.status(directory)
    with pytest.raises(ConfigError, match=r"no engine 'mysql'\. Known engines: postgres, temporal"):
        stack.up(directory, engines=("mysql",))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Name a directory you may write"):
        stack.up(tmp_path / "file")


@pytest.mark.parametrize("size", ["8m", "160m"])
def test_a_full_disk_is_named(tmp_path: Path, size: str) -> None:
    """Too small for initdb; or full at the next start, and well again when there is room."""
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount += ['mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"', "sh", size, str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("this system permits no file system of a test's own")
    code = """
import contextlib, pathlib, sys
from backbeat.embedded import stack
directory = pathlib.Path(sys.argv[1])
def up_and_down():
    stack.up(directory, engines=("postgres",))
    stack.down(directory)
if sys.argv[2] != "8m":
    up_and_down()
    with contextlib.suppress(OSError), (directory / "filler").open("wb", 0) as filler:
        while filler.write(bytes(4096)):
            pass
try:
    up_and_down()
except Exception as error:
    print(error)
(directory / "filler").unlink(missing_ok=True)
if sys.argv[2] != "8m":
    up_and_down()
"""
    command = [*mount, sys.executable, "-c", code, str(tmp_path), size]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("no space left on the disk of "), done
    assert done.stderr == ""


def test_an_unprivileged_user_needs_no_namespace() -> None:
    if os.geteuid() != 0:
        pytest.skip("this run is unprivileged already: every other test here shows it")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-B", "-c"]
    if subprocess.run([*nobody, "import psycopg"], capture_output=True, cwd="/").returncode:
        pytest.skip(f"an unprivileged user cannot read {ROOT}")
    code = """
import pathlib, shutil, sys
from backbeat.embedded import stack
directory = pathlib.Path(sys.argv[1]) / "a stack"
shutil.which = lambda name: sys.exit("asked for " + name)
print(stack.up(directory, engines=("postgres",)).changed, stack.down(directory).changed)
"""
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, 65534, 65534)
        done = subprocess.run([*nobody, code, home], cwd=ROOT, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("('postgres',) ('postgres',)\n", "")


def test_errors_carry_their_exit_codes(directory: Path) -> None:
    def code(call: object) -> int:
        with pytest.raises(BackbeatError) as caught:
            call()  # type: ignore[operator]  # a lambda
        return caught.value.exit_code

    assert code(lambda: stack.status(directory)) == 3
    assert code(lambda: stack.up(directory, engines=("broken",), catalogue=BROKEN_LAST)) == 75
