"""Loops that outlive whatever they need: while something is away they say so once, wait, and go on."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from shared import clock
from shared.errors import BackbeatError
from temporal_worker.constants import LONGEST_PAUSE

log = logging.getLogger("temporal-worker")


async def forever(name: str, beat: Callable[[], Awaitable[bool]], idle: float) -> None:
    """Call `beat` until cancelled: at once again while it finds work, after `idle` seconds when it found none."""
    failures = 0
    said = ""
    while True:
        try:
            busy = await beat()
        except Exception as error:
            failures += 1
            if (text := describe(error)) != said:
                log.warning("%s: %s (trying again)", name, text, exc_info=not isinstance(error, BackbeatError))
                said = text
            await clock.sleep(pause(failures, idle))
            continue
        if failures:
            log.info("%s: works again after %d attempts", name, failures)
        failures, said = 0, ""
        if not busy:
            await clock.sleep(idle)


def pause(failures: int, first: float) -> float:
    """Seconds to wait after so many failures in a row: doubling, jittered, bounded."""
    return min(first * 2.0 ** min(failures, 10), LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311


def describe(error: BaseException) -> str:
    """One line for a person."""
    text = " ".join(str(error).split())
    return text if isinstance(error, BackbeatError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


async def until(stop: asyncio.Event, *loops: Awaitable[None]) -> None:
    """Run loops until `stop` is set, or until one of them ends, which is then raised."""
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopping, *tasks):
            task.cancel()
        ended = await asyncio.gather(stopping, *tasks, return_exceptions=True)
    for end in ended:
        if isinstance(end, Exception):
            raise end
