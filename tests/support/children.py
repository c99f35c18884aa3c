"""Processes of the real programs, forked from one that has read the libraries; see `forks`."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, Union

from tests.support.tree import ROOT

_AT_START = ("PYTHON", "LC_", "LANG")  # what an interpreter reads once, when it starts


Process = Union["Child", "subprocess.Popen[bytes]"]


class Child:
    """As much of `subprocess.Popen` as tests need; it, too, is a process that can be killed."""

    def __init__(self, args: Sequence[str], answer: socket.socket) -> None:
        self.args, self._answer = args, answer
        self.returncode: int | None = None
        self.pid = self._told()

    def wait(self, timeout: float | None = None) -> int:
        """How it ended, negative by a signal. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self._answer.settimeout(timeout)
            try:
                self.returncode = self._told()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            self._answer.close()
        return self.returncode

    def poll(self) -> int | None:
        """How it ended, or None."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Signal it unless it ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)

    def _told(self) -> int:
        return int(self._answer.recv(16))


def start(
    module: str,
    *arguments: str,
    home: Path,
    environ: Mapping[str, str],
    stdin: IO[Any] | None = None,
    stdout: IO[Any] | None = None,
    stderr: IO[Any] | None = None,
) -> Process:
    """Begin `python -m module` in a directory with this environment; what is not given goes nowhere."""
    line = [sys.executable, "-m", module, *arguments]
    if sys.platform != "linux":
        given, *out = (subprocess.DEVNULL if file is None else file for file in (stdin, stdout, stderr))
        return subprocess.Popen(line, cwd=home, env=environ, stdin=given, stdout=out[0], stderr=out[1])
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with tempfile.TemporaryFile("w+") as request, Path(os.devnull).open("r+b") as nowhere, its:
        json.dump([module, arguments, str(home), dict(environ)], request)
        request.seek(0)
        files = [request, *(nowhere if file is None else file for file in (stdin, stdout, stderr)), its]
        socket.send_fds(_forker(), [b"x"], [file.fileno() for file in files])
    return Child(line, mine)


def alike(environ: Mapping[str, str]) -> bool:
    """Whether a fork would be what a new process would be."""
    return not any(name.startswith(_AT_START) for name in environ)


@cache
def _forker() -> socket.socket:
    """Leads to the one that forks for this test process, to its end."""
    mine, its = socket.socketpair()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BACKBEAT_")}
    with its:
        script = [sys.executable, str(ROOT / "tests/support/forks.py"), str(its.fileno())]
        process = subprocess.Popen(
            script, pass_fds=[its.fileno()], env={**kept, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL
        )
    atexit.register(process.wait)
    atexit.register(mine.close)
    return mine
