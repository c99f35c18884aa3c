"""Loops that outlive whatever they need: while something is away they say so once, wait, and go on."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from shared.errors import BackbeatError
from temporal_worker.constants import LONGEST_PAUSE

log = logging.getLogger("temporal-worker")


async def forever(name: str, beat: Callable[[], Awaitable[bool]], idle: float, stop: asyncio.Event) -> None:
    """Call `beat` until `stop`: at once again while it finds work, after `idle` seconds when it found none.

    A beat that is under way when `stop` comes is waited for: a call to Temporal that is cut off still calls back
    into Python, which may be gone by then.
    """
    failures = 0
    said = ""
    while not stop.is_set():
        try:
            busy = await beat()
        except Exception as error:
            failures += 1
            if (text := describe(error)) != said:
                log.warning("%s: %s (trying again)", name, text, exc_info=not isinstance(error, BackbeatError))
                said = text
            await nap(stop, pause(failures, idle))
            continue
        if failures:
            log.info("%s: works again after %d attempts", name, failures)
        failures, said = 0, ""
        if not busy:
            await nap(stop, idle)


async def nap(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not longer than until `stop`."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def pause(failures: int, first: float) -> float:
    """Seconds to wait after so many failures in a row: doubling, jittered, bounded."""
    return min(first * 2.0 ** min(failures, 10), LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311


def describe(error: BaseException) -> str:
    """One line for a person."""
    text = " ".join(str(error).split())
    return text if isinstance(error, BackbeatError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
