"""The real command lines as processes, with nothing of the surroundings of whoever runs the tests."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.support.tree import ROOT

FOREIGN = ("BACKBEAT_", "ANTHROPIC_", "OPENAI_", "_BACKBEAT_")
AT_START = ("PYTHON", "LC_", "LANG")  # what an interpreter reads once, when it starts


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, which must be JSON and nothing else."""
        return json.loads(self.out)

    def refused(self, code: int) -> str:
        """The one line it refused with, after making sure that it is one, with this exit code and no data."""
        lines = self.err.splitlines()
        assert (self.code, self.out, len(lines)) == (code, "", 1), self
        return lines[0]

    def fine(self) -> "Done":
        """Itself, after making sure that it exited 0."""
        assert self.code == 0, self
        return self


def clean_environ(**environ: str) -> dict[str, str]:
    """This environment without settings, and with the source tree on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environ}


def command(
    module: str,
    *arguments: object,
    home: Path,
    environ: Mapping[str, str] | None = None,
    stdin: str | None = None,
    within: float = 90.0,
) -> Done:
    """Run `python -m module` in a directory, which decides what ./backbeat.toml it finds."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    around = clean_environ(**(environ or {}))
    if sys.platform == "linux" and not any(name.startswith(AT_START) for name in environ or {}):
        return _forked(line, home, around, stdin or "", within)
    done = subprocess.run(line, cwd=home, env=around, input=stdin or "", capture_output=True, text=True, timeout=within)
    return Done(done.returncode, done.stdout, done.stderr)


def _forked(line: list[str], home: Path, environ: dict[str, str], stdin: str, within: float) -> Done:
    """The same, sooner: in a process that has read the libraries; see `forks`."""
    mine, its = socket.socketpair()
    with ExitStack() as stack:
        answer = stack.enter_context(mine)
        request, given, out, err = (
            stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(4)
        )
        for file, text in ((request, json.dumps([line[2], line[3:], str(home), environ])), (given, stdin)):
            file.write(text)
            file.seek(0)
        with its:
            socket.send_fds(_forker(), [b"x"], [*(file.fileno() for file in (request, given, out, err)), its.fileno()])
        said = stack.enter_context(answer.makefile())
        answer.settimeout(within)
        pid = int(said.readline())
        try:
            code = int(said.readline())
        except BaseException as error:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(line, within) if isinstance(error, TimeoutError) else error from None
        return Done(code, _whole(out), _whole(err))


def _whole(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


@cache
def _forker() -> socket.socket:
    """This test process' own, to its end."""
    mine, its = socket.socketpair()
    with its:
        script = [sys.executable, str(ROOT / "tests/support/forks.py"), str(its.fileno())]
        process = subprocess.Popen(script, pass_fds=[its.fileno()], env=clean_environ(), stdin=subprocess.DEVNULL)
    atexit.register(process.wait)
    atexit.register(mine.close)
    return mine
