"""A detached process, known by pid and start time together, so that a recycled pid is never trusted or killed.

The process writes its own pid file before it becomes the engine: whoever started it may die at any
instruction without leaving an engine that nobody knows. It and its children also hold a lock file for
as long as one of them lives, so a data directory has one owner even after its main process was killed.
"""

import contextlib
import errno
import fcntl
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from backbeat.embedded.files import no_space
from shared.clock import monotonic, wall
from shared.errors import ConflictError, UnavailableError

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_RECORD = f"""{{ read -r stat </proc/self/stat && read -r boot <{_BOOT} &&
printf '%s\\n%s\\n' "$stat" "$boot" >"$0" && exec "$@"; }}"""
_MARK = "--- "
_ORPHANS_MAY_LIVE = 5.0  # seconds after their main process is gone
_KILLED = 10.0  # seconds in which the kernel ends what was killed, however busy the machine is


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this boot of the machine. `started` is in clock ticks after boot."""

    pid: int
    started: int
    boot: str

    @classmethod
    def parse(cls, stat: str, boot: str) -> Self:
        """Read a line of /proc/PID/stat. Raises ValueError when it is none."""
        pid, _, rest = stat.partition(" ")
        fields = rest.rpartition(")")[2].split()
        if len(fields) < 20 or not boot:
            raise ValueError("not a line of /proc/PID/stat")
        return cls(int(pid), int(fields[19]), boot)

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has this pid now. Raises OSError when none has; a zombie counts as none."""
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        if stat.rpartition(")")[2].split()[0] in "ZX":
            raise ProcessLookupError(f"process {pid} is a zombie")
        return cls.parse(stat, _BOOT.read_text(encoding="ascii").strip())

    def alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            return self == self.of(self.pid)
        except OSError:
            return False

    def signal(self, number: signal.Signals, wait: float = 0.0) -> bool:
        """Signal this process, never a successor of its pid; True when it is gone within `wait` seconds."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            # The handle is pinned before the identity is read, so the pid cannot be recycled in between.
            if not self.alive():
                return True
            signal.pidfd_send_signal(handle, number)
            waiting = select.poll()
            waiting.register(handle, select.POLLIN)
            return bool(waiting.poll(wait * 1000))
        except ProcessLookupError:
            return True
        finally:
            os.close(handle)


def recording(pid_file: Path, argv: Sequence[str]) -> list[str]:
    """A command that writes its own pid file and becomes `argv`, for children of a process that may be killed."""
    return ["/bin/sh", "-c", _RECORD, str(pid_file), *argv]


@dataclass(frozen=True, slots=True)
class Daemon:
    """A named detached process: `run` holds its pid and lock file, `log` takes what it prints."""

    name: str
    run: Path
    log: Path

    @property
    def pid_file(self) -> Path:
        """The process's own line of /proc/PID/stat, then the machine's boot id."""
        return self.run / f"{self.name}.pid"

    @property
    def process(self) -> Process | None:
        """The recorded process if it runs, else None."""
        try:
            process = Process.parse(*self.pid_file.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError, TypeError):
            return None
        return process if process.alive() else None

    def start(self, argv: Sequence[str], *, cwd: Path | None = None) -> Process:
        """Start it detached. Raises ConflictError when it runs, UnavailableError when it cannot be started."""
        with self._own() as lock, self.log.open("ab") as log:
            self.pid_file.unlink(missing_ok=True)
            log.write(f"{_MARK}{self.name} started {wall():%Y-%m-%d %H:%M:%S} UTC ---\n".encode())
            log.flush()
            subprocess.run(
                ["/bin/sh", "-c", f"{_RECORD} &", str(self.pid_file), *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd or self.run,
                start_new_session=True,
                pass_fds=(lock,),
                check=True,
            )
        return self._recorded()

    def stop(self, number: signal.Signals = signal.SIGTERM, *, grace: float = 10.0) -> bool:
        """Signal it, wait `grace` seconds, then SIGKILL; return once it is gone. False when it was not running."""
        process = self.process
        if process and not process.signal(number, grace) and not process.signal(signal.SIGKILL, _KILLED):
            what = f"{self.name} (pid {process.pid}) survived SIGKILL"
            raise UnavailableError(what, fix="It waits for a disk or a debugger; look there")
        self.clear()
        self.pid_file.unlink(missing_ok=True)
        return process is not None

    def clear(self) -> None:
        """Wait until the children of a killed process are gone too; ConflictError when it runs."""
        with self._own():
            pass

    def kill(self) -> bool:
        """SIGKILL it and return once it is gone (its children may outlive it a little); False when it did not run."""
        process = self.process
        return process is not None and process.signal(signal.SIGKILL, _KILLED)

    def ready(self, probe: Callable[[], str], *, within: float) -> None:
        """Wait until `probe` has no objection. Raises UnavailableError, with the log's end, when it dies or is late."""
        deadline = monotonic() + within
        while objection := probe():
            if self.process is None:
                if "No space left" in self.tail() or shutil.disk_usage(self.run).free < 2**20:
                    raise no_space(self.run)
                raise UnavailableError(f"{self.name} ended: {self.tail()}", fix=f"The whole log is {self.log}")
            if monotonic() > deadline:
                what = f"{self.name} is not ready after {within:.0f} s: {objection} / {self.tail()}"
                raise UnavailableError(what, fix=f"The whole log is {self.log}")
            time.sleep(0.02)

    def tail(self, lines: int = 3) -> str:
        """The last lines of what it printed since its last start, joined into one."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 4096))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return " / ".join(text.rpartition(_MARK)[2].splitlines()[1:][-lines:]) or "it printed nothing"

    def _recorded(self) -> Process:
        """The process that just wrote its pid file; it may already have ended."""
        deadline = monotonic() + 15.0
        while monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError, TypeError):
                return Process.parse(*self.pid_file.read_text(encoding="utf-8").splitlines())
            time.sleep(0.005)
        raise UnavailableError(f"{self.name} did not start: {self.tail()}", fix=f"See {self.log}")

    @contextlib.contextmanager
    def _own(self) -> Iterator[int]:
        """Hold the lock that all its processes inherit; orphans that outlive the main one too long are killed."""
        path = self.run / f"{self.name}.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _locked(lock, 0 if self.process else _ORPHANS_MAY_LIVE):
                if (running := self.process) is not None:
                    raise ConflictError(f"{self.name} already runs as pid {running.pid}", fix="Stop it first")
                for orphan in _holders(path):
                    orphan.signal(signal.SIGKILL, _KILLED)
                if not _locked(lock, 0):
                    raise ConflictError(f"another process holds {path}", fix=f"`fuser {path}` names it; stop it first")
            yield lock
        finally:
            os.close(lock)


def _locked(descriptor: int, patience: float) -> bool:
    deadline = monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            if monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _holders(lock: Path) -> list[Process]:
    """The orphans of a daemon: processes that hold its lock, not those that merely wait for it."""
    found = []
    target = str(lock.resolve())
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(link.readlink()) == target and "FLOCK" in (link.parents[1] / "fdinfo" / link.name).read_text():
                found.append(Process.of(int(link.parts[2])))
    return found
