"""Processes of the real programs, forked from one that has imported the libraries; see `forks`.

Long campaigns (BACKBEAT_SOAK=1) start real ones, as other systems than Linux do.
"""

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

FOREIGN = ("BACKBEAT_", "ANTHROPIC_", "OPENAI_", "_BACKBEAT_")  # settings of whoever runs the tests
_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "PSYCOPG_", "ANTHROPIC_LOG", "OPENAI_LOG")
_FORKING = sys.platform == "linux" and os.environ.get("BACKBEAT_SOAK") != "1"
_SURROUNDINGS = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}


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
        told = self._answer.recv(16)
        if not told:
            _forker.cache_clear()
            raise ChildProcessError(f"whoever forks for the tests is gone, and with it {self.args}: see its traceback")
        return int(told)


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
    if not _FORKING:
        given, *out = (subprocess.DEVNULL if file is None else file for file in (stdin, stdout, stderr))
        return subprocess.Popen(line, cwd=home, env=environ, stdin=given, stdout=out[0], stderr=out[1])
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with tempfile.TemporaryFile("w+") as request, Path(os.devnull).open("r+b") as nowhere, its:
            json.dump([module, arguments, str(home), dict(environ)], request)
            request.seek(0)
            files = [request, *(nowhere if file is None else file for file in (stdin, stdout, stderr)), its]
            socket.send_fds(_forker(), [b"x"], [file.fileno() for file in files])
        return Child(line, mine)
    except BaseException:
        mine.close()
        raise


def alike(settings: Mapping[str, str]) -> bool:
    """Whether a fork with these settings is what a process would be: none is read only at the start or an import."""
    return _FORKING and not any(name.startswith(_AT_START) for name in settings)


@cache
def _forker() -> socket.socket:
    """Leads to the one that forks for this test process, to its end."""
    mine, its = socket.socketpair()
    environ = {**_SURROUNDINGS, "PYTHONPATH": str(ROOT)}
    with its:
        script = [sys.executable, str(ROOT / "tests/support/forks.py"), str(its.fileno())]
        process = subprocess.Popen(script, pass_fds=[its.fileno()], env=environ, stdin=subprocess.DEVNULL)
    atexit.register(process.wait)
    atexit.register(mine.close)
    return mine
