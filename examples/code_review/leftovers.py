"""One demo a directory at a time, and what a killed one left in it: ticks, a worker, engines.

`DIRECTORY/demo` holds the demo's lock, the pid files of the processes it started, and a mark while it owns the
stack. `python -m examples.code_review.leftovers DIRECTORY` ends all of it, for `make clean-demo`.
"""

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from backbeat.embedded import stack
from backbeat.embedded.daemon import Daemon
from examples.code_review import interrupts
from shared.errors import BackbeatError, ConflictError, NotFoundError

Log = Callable[[str], object]
GRACE = 5.0  # seconds for a tick or a worker to end by itself; whatever is cut off then, Postgres knows


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[Path]:
    """Keep other demos out of the directory; gives where this one's pid files go. Raises ConflictError."""
    home = directory / "demo"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home / "lock").open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            what = f"a demo (pid {lock.read().strip()}) works in {directory}"
            raise ConflictError(what, fix="Wait for its end, or press Ctrl-C where it runs") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield home


def sweep(directory: Path, log: Log) -> None:
    """End the ticks and the worker of a demo that was killed, and the stack if it had started it."""
    left = [Daemon(file.stem, file.parent, file.with_suffix(".log")) for file in (directory / "demo").glob("*.pid")]
    mark = _mark(directory)
    if mark.exists() or any(daemon.process for daemon in left):
        log(f"stopping what a killed demo left in {directory}")
    for daemon in left:
        if process := daemon.process:
            process.signal(signal.SIGTERM)
    for daemon in left:
        daemon.stop(grace=GRACE)
    if mark.exists():
        stack.down(directory)
        mark.unlink()


@contextlib.contextmanager
def owned(directory: Path, log: Log) -> Iterator[None]:
    """Stop the stack at the end of the block, if nothing of it ran at its beginning; nothing interrupts that."""
    ours = not _runs(directory)
    if ours:
        _mark(directory).touch()
    try:
        yield
    finally:
        interrupts.deafen()
        if ours:
            if _runs(directory):
                stack.down(directory, log=log)
            _mark(directory).unlink(missing_ok=True)


def _mark(directory: Path) -> Path:
    return directory / "demo" / "owns-the-stack"


def _runs(directory: Path) -> bool:
    try:
        return any(engine.pid for engine in stack.status(directory).engines)
    except NotFoundError:
        return False


def main() -> int:
    """End everything in one directory."""
    directory = Path(sys.argv[1]).absolute()
    try:
        if directory.is_dir():
            with alone(directory):
                sweep(directory, lambda line: sys.stderr.write(f"{line}\n"))
                if _runs(directory):
                    stack.down(directory)
    except BackbeatError as error:
        sys.stderr.write(f"demo: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
