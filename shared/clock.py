"""Time as an input: the one place where Python reads a clock.

Deadlines that must hold across machines are Postgres' (`backbeat.now()`); what is here serves
budgets and time-outs inside one process, and span times.
"""

import asyncio
import time
from datetime import UTC, datetime


def monotonic() -> float:
    """Seconds of a clock that never goes back; for durations inside this process."""
    return time.monotonic()


def wall() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


def wall_ns() -> int:
    """Nanoseconds since the epoch, as spans carry them."""
    return time.time_ns()


async def sleep(seconds: float) -> None:
    """Give up the processor for that many seconds."""
    await asyncio.sleep(seconds)
