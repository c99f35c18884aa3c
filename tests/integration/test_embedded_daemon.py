"""Detached processes: recorded by themselves, never confused with a stranger, one owner of a directory."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbeat.embedded import daemon as daemon_module
from backbeat.embedded.daemon import Daemon, Process
from shared.errors import ConflictError, UnavailableError

SLEEPER = ["sleep", "60"]
STUBBORN = ["sh", "-c", "trap '' TERM; echo armed; while :; do sleep 60; done"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon("thing", tmp_path, tmp_path / "thing.log")
    yield made
    made.stop(signal.SIGKILL)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEPER) as process:
        yield process
        process.kill()


def _disguise(daemon: Daemon, pid: int, *, started: int | None = None, boot: str | None = None) -> None:
    """A pid file that names this process, save for what is given."""
    real = Process.of(pid)
    stat = f"{pid} (thing) S {' '.join('0' for _ in range(18))} {started or real.started} 0 0"
    daemon.pid_file.write_text(f"{stat}\n{boot or real.boot}\n")


def _printed(daemon: Daemon, word: str) -> str:
    return "" if word in daemon.tail() else f"no {word} yet"


def test_it_is_recorded_before_it_becomes_the_engine(daemon: Daemon) -> None:
    started = daemon.start(["sh", "-c", 'test -s "$0" && echo recorded; exec sleep 60', str(daemon.pid_file)])
    daemon.ready(lambda: _printed(daemon, "recorded"), within=30)
    assert daemon.process == started


def test_whoever_started_it_need_not_live_nor_reap_it(daemon: Daemon) -> None:
    started = daemon.start(SLEEPER)
    stat = Path(f"/proc/{started.pid}/stat").read_text().rpartition(")")[2].split()
    parent, session = int(stat[1]), int(stat[3])
    assert parent != os.getpid()
    assert session != os.getsid(0)


def test_the_pid_alone_is_not_trusted(daemon: Daemon, stranger: subprocess.Popen[bytes]) -> None:
    real = Process.of(stranger.pid)
    _disguise(daemon, stranger.pid)
    assert daemon.process == real  # the disguise is good: only what follows gives it away
    _disguise(daemon, stranger.pid, started=real.started - 1)
    assert daemon.process != real
    assert not daemon.kill()
    assert not daemon.stop()
    assert stranger.poll() is None


def test_a_pid_of_an_earlier_boot_is_not_trusted(daemon: Daemon, stranger: subprocess.Popen[bytes]) -> None:
    _disguise(daemon, stranger.pid, boot="00000000-0000-0000-0000-000000000000")
    assert daemon.process is None
    assert not daemon.stop()
    assert stranger.poll() is None


def test_a_signal_meant_for_a_dead_process_does_not_reach_its_successor(stranger: subprocess.Popen[bytes]) -> None:
    real = Process.of(stranger.pid)
    assert Process(real.pid, real.started - 1, real.boot).signal(signal.SIGKILL)
    assert stranger.poll() is None


def test_a_zombie_does_not_run(stranger: subprocess.Popen[bytes]) -> None:
    process = Process.of(stranger.pid)
    assert process.alive()
    assert process.signal(signal.SIGKILL, 5)
    assert stranger.returncode is None  # nobody has reaped it
    assert not process.alive()


@pytest.mark.parametrize("content", ["", "123", "123 (x) S\nboot\n", "not a pid\nfile\n", "1\n2\n3\n"])
def test_a_damaged_pid_file_names_nobody(daemon: Daemon, content: str) -> None:
    daemon.pid_file.write_text(content)
    assert daemon.process is None
    assert daemon.start(SLEEPER) == daemon.process


def test_stop_asks_first_and_leaves_no_pid_file(daemon: Daemon) -> None:
    daemon.start(["sh", "-c", "trap 'echo obeyed; exit' TERM; echo armed; while :; do sleep 0.01; done"])
    daemon.ready(lambda: _printed(daemon, "armed"), within=30)
    assert daemon.stop(grace=30)
    assert "obeyed" in daemon.tail()
    assert not daemon.pid_file.exists()
    assert not daemon.stop()


def test_what_ignores_the_signal_is_killed(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_module, "_ORPHANS_MAY_LIVE", 0.1)
    started = daemon.start(STUBBORN)
    daemon.ready(lambda: _printed(daemon, "armed"), within=30)
    assert daemon.stop(grace=0.1)
    assert not started.alive()


def test_a_second_start_is_refused_and_harms_nothing(daemon: Daemon) -> None:
    first = daemon.start(SLEEPER)
    with pytest.raises(ConflictError, match=f"already runs as pid {first.pid}"):
        daemon.start(SLEEPER)
    assert daemon.process == first


def test_it_waits_for_the_children_of_a_killed_one(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "_ORPHANS_MAY_LIVE", 60.0)
    os.mkfifo(gate := tmp_path / "gate")
    daemon.start(["sh", "-c", '(read -r line <"$0"; echo finished) & echo armed; wait', str(gate)])
    daemon.ready(lambda: _printed(daemon, "armed"), within=30)
    assert daemon.kill()
    with subprocess.Popen(["sh", "-c", 'sleep 0.2; echo go >"$0"', gate]):
        started = daemon.start(["sh", "-c", f"grep -c finished {daemon.log.name}; exec sleep 60"])
    daemon.ready(lambda: _printed(daemon, "1"), within=30)
    assert daemon.process == started


def test_an_orphan_that_does_not_end_is_killed_and_a_mere_waiter_is_not(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "_ORPHANS_MAY_LIVE", 0.2)
    daemon.start(["sh", "-c", "sleep 60 & echo orphan is $!; wait"])
    daemon.ready(lambda: _printed(daemon, "orphan"), within=30)
    orphan = Process.of(int(daemon.tail().split()[-1]))
    assert daemon.kill()
    assert orphan.alive()
    waiting = [sys.executable, "-c", "import sys; lock = open(sys.argv[1]); print(flush=True); sys.stdin.read()"]
    lock = str(daemon.run / "thing.lock")
    with subprocess.Popen([*waiting, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as waiter:
        assert waiter.stdout
        waiter.stdout.readline()
        daemon.start(SLEEPER)
        assert not orphan.alive()
        assert waiter.poll() is None
        waiter.kill()


def test_one_that_ends_at_once_is_named_with_the_end_of_this_runs_log(daemon: Daemon) -> None:
    for word in ("earlier", "later"):
        daemon.start(["sh", "-c", f"echo {word} words; exit 3"])
        with contextlib.suppress(UnavailableError):
            daemon.ready(lambda: "not ready", within=5)
    with pytest.raises(UnavailableError) as caught:
        daemon.ready(lambda: "not ready", within=5)
    assert str(caught.value) == f"thing ended: later words. The whole log is {daemon.log}"


def test_one_that_is_late_is_named_with_the_reason(daemon: Daemon) -> None:
    daemon.start(["sh", "-c", "echo thinking; exec sleep 60"])
    daemon.ready(lambda: _printed(daemon, "thinking"), within=5)
    with pytest.raises(UnavailableError, match=r"not ready after 0 s: says 503 / thinking"):
        daemon.ready(lambda: "says 503", within=0.05)


def test_a_command_that_is_not_there_is_named(daemon: Daemon) -> None:
    daemon.start(["no-such-engine"])
    with pytest.raises(UnavailableError, match="no-such-engine"):
        daemon.ready(lambda: "not ready", within=5)
