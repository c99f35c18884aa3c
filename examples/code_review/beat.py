"""What cron and systemd would do for the demo: start ticks at an interval, and keep the Temporal worker running."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from backbeat.embedded.daemon import recording
from shared import clock

MOST_AT_ONCE = 3  # ticks side by side; on two cores more would only queue for the processor


class Beat:
    """Starts a tick when one is due; ticks overlap when one takes longer than the interval."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        interval: float,
        home: Path,
        most: int = MOST_AT_ONCE,
    ) -> None:
        self._command = [sys.executable, "-m", "cron_worker", "tick", *arguments]
        self._home = home
        self._environment = {**os.environ, **environment}
        self._log = log
        self._interval = interval
        self._most = most
        self._due = clock.monotonic()
        self._ticks: dict[Path, subprocess.Popen[bytes]] = {}
        self.started = 0
        self.overlapping = 0
        self.failed: list[int] = []

    def poll(self) -> None:
        """Start a tick if it is time, and collect those that ended."""
        for pid_file, tick in [pair for pair in self._ticks.items() if pair[1].poll() is not None]:
            del self._ticks[pid_file]
            pid_file.unlink(missing_ok=True)
            # 75 is "Postgres is away": the next beat tries again.
            self.failed += [tick.returncode] if tick.returncode not in (0, 75) else []
        if clock.monotonic() < self._due or len(self._ticks) >= self._most:
            return
        self._due = clock.monotonic() + self._interval
        self.overlapping += bool(self._ticks)
        self.started += 1
        pid_file = self._home / f"tick-{self.started}.pid"
        self._ticks[pid_file] = _start(self._command, self._environment, self._log, pid_file)

    def stop(self, grace: float = 60.0) -> None:
        """Let the ticks that run end by themselves; those that do not within `grace` seconds are killed."""
        for tick in self._ticks.values():
            tick.send_signal(signal.SIGTERM)
        for pid_file, tick in self._ticks.items():
            _end(tick, grace, pid_file)
        self._ticks.clear()


class Service:
    """One long-lived process, started again when it dies."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, pid_file: Path) -> None:
        self._command = [sys.executable, *command]
        self._environment = {**os.environ, **environment}
        self._log = log
        self._pid_file = pid_file
        self._process: subprocess.Popen[bytes] | None = None

    def poll(self) -> None:
        """Start it if it does not run."""
        if self._process is not None and self._process.poll() is None:
            return
        self._process = _start(self._command, self._environment, self._log, self._pid_file)

    def stop(self, grace: float = 30.0) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            _end(self._process, grace, self._pid_file)


def _start(
    command: Sequence[str], environment: Mapping[str, str], log: Path, pid_file: Path
) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            recording(pid_file, command), env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )


def _end(process: subprocess.Popen[bytes], grace: float, pid_file: Path) -> None:
    try:
        process.wait(timeout=grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    pid_file.unlink(missing_ok=True)
