"""Forks processes that have read the libraries already: by hundreds of commands, that is most of what they do.

`children` starts it and asks. What is ours is read anew by every command, as by `python -m`; only what others wrote is
shared.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
import threading
import traceback
from pathlib import Path

LIBRARIES = (
    "anthropic",
    "click",
    "clickhouse_connect",
    "cronsim",
    "openai",
    "opentelemetry.sdk.trace",
    "psycopg",
    "psycopg_pool",
    "pydantic",
    "pytest",
    "rich.progress",
    "temporalio.worker",
)


def serve(control: socket.socket) -> list[int]:
    """Fork for every request, to the end of who asks. Returns in each fork: request, standard streams, who is told."""
    running: dict[int, tuple[int, socket.socket]] = {}  # by what tells that it ended
    while True:
        for ready in select.select([control.fileno(), *running], [], [])[0]:
            if ready in running:
                pid, asker = running.pop(ready)
                os.close(ready)
                _, status = os.waitpid(pid, 0)
                with asker:
                    _tell(asker, os.waitstatus_to_exitcode(status))
                continue
            asked, fds, _, _ = socket.recv_fds(control, 1, 5)
            if not asked:
                os._exit(0)
            if (pid := os.fork()) == 0:
                return fds
            asker = socket.socket(fileno=fds.pop())
            for fd in fds:
                os.close(fd)
            running[os.pidfd_open(pid)] = (pid, asker)
            _tell(asker, pid)


def _tell(asker: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # who asked gave up
        asker.sendall(b"%d" % number)


def main(control: socket.socket) -> None:
    """Serve; in a fork, be the command."""
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == len([*Path("/proc/self/task").iterdir()]) == 1, "a fork has no other threads"
    gc.freeze()
    request, *standard, asker = serve(control)
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
    for fd in (*standard, asker):
        os.close(fd)
    control.close()
    with os.fdopen(request, encoding="utf-8") as file:
        module, arguments, home, environ = json.load(file)
    os.chdir(home)
    os.environ.clear()
    os.environ.update(environ)
    sys.path[0] = home
    sys.argv = [module, *arguments]
    os._exit(_ended(module))


def _ended(module: str) -> int:
    """How it ended, with all that an interpreter does at its end but taking down what it holds: 0.1 s for libraries."""
    code: object = None
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return (code or 0) & 0xFF


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
