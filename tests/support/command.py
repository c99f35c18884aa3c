"""The real command lines as processes, with nothing of the surroundings of whoever runs the tests."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import children
from tests.support.tree import ROOT


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
    kept = {name: value for name, value in os.environ.items() if not name.startswith(children.FOREIGN)}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environ}


def command(
    module: str,
    *arguments: object,
    home: Path,
    environ: Mapping[str, str] | None = None,
    stdin: str | None = None,
    within: float = 90.0,
) -> Done:
    """Run `python -m module` in a directory, which decides what ./backbeat.toml it finds.

    It is a fork (see `children`) unless one would not be what a new process is.
    """
    line, around = [module, *map(str, arguments)], clean_environ(**(environ or {}))
    if not children.alike(environ or {}):
        new = [sys.executable, "-m", *line]
        done = subprocess.run(
            new, cwd=home, env=around, input=stdin or "", capture_output=True, text=True, timeout=within
        )
        return Done(done.returncode, done.stdout, done.stderr)
    with ExitStack() as stack:
        given, out, err = (stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(3))
        given.write(stdin or "")
        given.seek(0)
        child = children.start(*line, home=home, environ=around, stdin=given, stdout=out, stderr=err)
        try:
            code = child.wait(within)
        finally:
            child.kill()
            child.wait()
        for file in (out, err):
            file.seek(0)
        return Done(code, out.read(), err.read())
