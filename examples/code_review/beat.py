"""What cron and systemd would do for the demo: start ticks at an interval, and keep the Temporal worker running."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared import clock

MOST_AT_ONCE = 3  # ticks side by side; on two cores more would only queue for the processor


class Beat:
    """Starts a tick when one is due; ticks overlap when one takes longer than the interval."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, interval: float) -> None:
        self._command = [sys.executable, "-m", "cron_worker", "tick", *arguments]
        self._environment = {**os.environ, **environment}
        self._log = log
        self._interval = interval
        self._due = clock.monotonic()
        self._ticks: list[subprocess.Popen[bytes]] = []
        self.started = 0
        self.overlapping = 0
        self.failed: list[int] = []

    def poll(self) -> None:
        """Start a tick if it is time, and collect those that ended."""
        for tick in [tick for tick in self._ticks if tick.poll() is not None]:
            self._ticks.remove(tick)
            # 75 is "Postgres is away": the next beat tries again.
            self.failed += [tick.returncode] if tick.returncode not in (0, 75) else []
        if clock.monotonic() < self._due or len(self._ticks) >= MOST_AT_ONCE:
            return
        self._due = clock.monotonic() + self._interval
        self.overlapping += bool(self._ticks)
        self.started += 1
        with self._log.open("ab") as log:
            self._ticks.append(
                subprocess.Popen(self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def stop(self) -> None:
        """Let the ticks that run end by themselves; those that do not within their limits are killed."""
        for tick in self._ticks:
            tick.send_signal(signal.SIGTERM)
        for tick in self._ticks:
            try:
                tick.wait(timeout=60)
            except subprocess.TimeoutExpired:
                tick.kill()
                tick.wait()
        self._ticks.clear()


class Service:
    """One long-lived process, started again when it dies."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._command = [sys.executable, *command]
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def poll(self) -> None:
        """Start it if it does not run."""
        if self._process is not None and self._process.poll() is None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after half a minute."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
