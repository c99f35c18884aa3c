"""A demo stopped in the middle, by Ctrl-C, SIGTERM or kill -9: nothing stays up for good, and the next one goes on."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from backbeat.embedded import stack
from backbeat.embedded.daemon import Process
from tests.support.signals import until

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def demo(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A demo under way; `--interactive` ones wait for people for ever."""
    options = ("--dir", str(directory), "--latency", "0-0.1", "--commits", "0", *arguments)
    command = [sys.executable, "-m", "examples.code_review", *options]
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def clear_away(directory: Path) -> subprocess.CompletedProcess[str]:
    """As `make clean-demo` does."""
    command = [sys.executable, "-m", "examples.code_review.leftovers", str(directory)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "var"
    clear_away(tmp_path / "var")


def pid_files(directory: Path) -> list[Path]:
    """Those of a demo's directory. Its own directories come and go, which `Path.glob` does not bear."""
    homes = ((Path(top), names) for top, _, names in os.walk(directory))
    return [top / name for top, names in homes if top.parent == directory for name in names if name.endswith(".pid")]


def living(directory: Path) -> dict[str, Process]:
    """What runs in a demo's directory, by the name of its pid file."""
    found = {}
    for file in pid_files(directory):
        try:
            process = Process.parse(*file.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError, TypeError):
            continue  # written just now, or a file of Postgres' own
        if process.alive():
            found[file.stem] = process
    return found


def at_work(process: subprocess.Popen[str], directory: Path, after: dict[str, Process]) -> dict[str, Process]:
    """All that runs once the engines and the Temporal worker do, if it is not what ran before."""
    assert process.poll() is None, process.communicate()[1]
    found = living(directory)
    ready = {*stack.ALL, "temporal-worker"} <= found.keys()
    return found if ready and found["postgres"] != after.get("postgres") else {}


@pytest.mark.timeout(420)
@pytest.mark.xdist_group("demo")
def test_nothing_stays_up_and_the_next_demo_goes_on(directory: Path) -> None:
    with demo(directory) as first:
        until(lambda: any(name[:5] == "tick-" for name in living(directory)), within=120, what="a tick runs")
        with demo(directory) as other:
            stdout, stderr = other.communicate(timeout=60)
        assert (other.returncode, stdout) == (5, "")
        assert f"a demo (pid {first.pid})" in stderr
        left = until(partial(at_work, first, directory, {}), within=120, what="it works on")
        first.kill()
        first.communicate()
    assert all(process.alive() for name, process in left.items() if not name.startswith("tick-"))

    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with demo(directory, "--interactive") as stopped:
            now = until(partial(at_work, stopped, directory, left), within=120, what="the next demo works")
            assert not [name for name, process in left.items() if process.alive()]
            left = now
            stopped.send_signal(number)
            stdout, stderr = stopped.communicate(timeout=60)
        assert (stopped.returncode, stdout) == (code, ""), stderr
        assert "Traceback" not in stderr
        assert [line for line in stderr.splitlines() if "interrupted" in line] == stderr.splitlines()[-1:]
        assert living(directory) == {}
        assert not [file for file in pid_files(directory) if file.parent.name == "demo"]

    with demo(directory, "--cron-only") as last:
        stdout, stderr = last.communicate(timeout=120)
    assert last.returncode == 0, stderr
    assert "by an earlier run" in stderr or "answered from stored results" in stderr
    totals = json.loads(stdout.splitlines()[-1])
    assert (totals["reviews"], totals["escalated"], totals["duplicate_effects"]) == (12, 5, 0)
    assert living(directory) == {}


@pytest.mark.xdist_group("demo")
def test_a_stack_that_was_up_before_stays_up(directory: Path) -> None:
    stack.up(directory, engines=stack.CRON_ONLY, latency="0-0.1")
    before = living(directory)
    with demo(directory, "--cron-only") as process:
        until(lambda: living(directory).keys() - before.keys(), within=120, what="a tick runs")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert living(directory) == before
    assert clear_away(directory).returncode == 0
    assert living(directory) == {}


def test_clearing_away_what_was_never_there(tmp_path: Path) -> None:
    done = clear_away(tmp_path / "var")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
