"""Forks processes that have imported the libraries already, which is most of what a short command does.

`children` starts it and asks; hundreds of commands share its imports. What is ours is imported anew by every one of
them, as by `python -m`. Temporal's SDK is not among the libraries: once it is loaded, the command line ends otherwise.
The standard library's fork server gives a child neither streams nor an environment of its own.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from dataclasses import dataclass
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
)


@dataclass(frozen=True, slots=True)
class Fork:
    """A child of ours. Whoever asked for it holds the other end of `asker` until it wants no more of it."""

    pid: int
    ends: int  # readable once it ended
    asker: socket.socket

    def tell(self, number: int) -> None:
        """Its pid, then how it ended."""
        with contextlib.suppress(OSError):  # who asked gave up
            self.asker.sendall(b"%d" % number)

    def tell_the_end(self) -> None:
        """It stays a zombie, whose pid is nobody else's, until who asked lets go."""
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        self.tell(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)

    def reap(self) -> None:
        """Nobody asks any more: it is to be gone."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.ends)
        self.asker.close()


def serve(control: socket.socket) -> list[int]:
    """Fork for every request, to the end of who asks. Returns in each fork: request, standard streams, who is told."""
    forks: dict[int, Fork] = {}  # by asker
    running: dict[int, Fork] = {}  # by what is readable once they ended
    while True:
        for ready in select.select([control.fileno(), *forks, *running], [], [])[0]:
            if ready in running:
                running.pop(ready).tell_the_end()
            elif ready in forks:
                fork = forks.pop(ready)
                running.pop(fork.ends, None)
                fork.reap()
                break  # its other number may be among the ready ones
            else:
                asked, fds, _, _ = socket.recv_fds(control, 1, 5)
                if not asked:
                    for fork in forks.values():
                        fork.reap()
                    os._exit(0)
                if (pid := os.fork()) == 0:
                    return fds
                fork = Fork(pid, os.pidfd_open(pid), socket.socket(fileno=fds.pop()))
                forks[fork.asker.fileno()] = running[fork.ends] = fork
                fork.tell(pid)
                for fd in fds:
                    os.close(fd)


def main(control: socket.socket) -> None:
    """Serve; in a fork, be the command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of whoever runs the tests: its children are still to be ended
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == len([*Path("/proc/self/task").iterdir()]) == 1, "a fork has no other threads"
    gc.freeze()
    request, *standard, _ = serve(control)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with os.fdopen(request, encoding="utf-8") as file:
        module, arguments, home, environ = json.load(file)
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
    control.detach()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(home)
    os.environ.clear()
    os.environ.update(environ)
    sys.path[0] = home
    sys.argv = [module, *arguments]
    os._exit(_ended(module))


def _ended(module: str) -> int:
    """Its exit code, after what an interpreter does at its end; what it holds is not taken down, which takes 0.1 s."""
    code: object = None
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return (code or 0) & 0xFF


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
