"""The simulated services as processes of their own, on free ports, with their logs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backbeat.embedded.simulated import log


@dataclass(frozen=True)
class Service:
    """A running service: its address and its log."""

    url: str
    log: Path
    process: "subprocess.Popen[str]"

    def ends(self, **wanted: Any) -> list[dict[str, Any]]:
        """The `end` lines of the request log that have these values."""
        return [one for one in self.entries("end") if all(one[name] == value for name, value in wanted.items())]

    def entries(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        return [one for one in log.read(self.log) if one["event"] == event]

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def service(name: Literal["provider", "recorder"], file: Path, *arguments: str) -> Iterator[Service]:
    """Start `backbeat.embedded.<name>`; it is listening when this yields, and gone when it ends."""
    command = [sys.executable, "-m", f"backbeat.embedded.{name}", "--port", "0", "--log", str(file), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"{name} ended at once"
        try:
            yield Service(line.split()[-1], file, process)
        finally:
            process.terminate()
            process.wait(timeout=60)
