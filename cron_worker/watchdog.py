"""Ends a process that does not end by itself: whatever a task does, it cannot outlive its tick by much.

Waiting for a coroutine that swallows its cancellation, or for a thread that sleeps, would be waiting for ever. What
such a task held is taken back when its lease runs out, as a lost attempt.
"""

import asyncio
import faulthandler
import os
import sys
import threading
from typing import NoReturn

from shared.errors import EXIT_HUNG

LATE = 20.0  # seconds after budget + grace: settling waits up to 15 s for a Postgres that restarts
LEAVING = 5.0  # seconds for what tasks left running, once their work is settled


def leave(why: str) -> NoReturn:
    """End the process now, without waiting for any coroutine or thread."""
    sys.stderr.write(f"cron-worker: {why}; the process leaves, and rows that were running return as lost attempts\n")
    sys.stderr.flush()
    os._exit(EXIT_HUNG)


class Watchdog:
    """Leaves the process when it is not disarmed in time. Made inside the event loop that it watches."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._timer: threading.Timer | None = None

    def arm(self, seconds: float) -> None:
        """Begin anew: in `seconds` it is over."""
        self.disarm()
        self._timer = threading.Timer(seconds, self._bite)
        self._timer.daemon = True
        self._timer.start()
        # A C call that keeps the interpreter to itself lets no Python thread run; this one needs no interpreter.
        faulthandler.dump_traceback_later(seconds + 1.0, exit=True)

    def disarm(self) -> None:
        """All is well."""
        faulthandler.cancel_dump_traceback_later()
        if self._timer:
            self._timer.cancel()

    def _bite(self) -> None:
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._watched)  # noqa: SLF001  the documented name
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "an unknown place"
        who = f"task {task.get_name()} blocks" if task else "something that a task left running hangs"
        leave(f"{who} at {place}")
