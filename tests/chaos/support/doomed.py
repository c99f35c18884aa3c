"""A tick that kills itself (SIGKILL) at one labelled step: `python -m tests.chaos.support.doomed STEP NTH tick …`.

The step is where a function of the worker is called or returns, for the NTH time; nothing in the worker knows of it.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
from psycopg.waiting import Wait

import cron_worker.tick
import shared.execution.batches
from backbeat.embedded.simulated import log
from cron_worker.__main__ import main
from shared.db import calls, effects, queue
from shared.llm.protocol import Request
from shared.llm.providers.sdk import SdkProvider
from shared.telemetry import recorder
from shared.telemetry.recorder import SpoolTelemetry

PROVIDER_LOG = "DOOMED_PROVIDER_LOG"

_settling = ContextVar("settling", default=False)


class Doom:
    """Counts how often the step was reached, and ends the process the `nth` time."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def near(self) -> bool:
        """Count; true when this time is the last."""
        self._left -= 1
        return self._left == 0

    def strike(self) -> None:
        """Die if the time has come."""
        if self.near():
            die()

    def before(self, module: Any, name: str, counts: Callable[..., bool] = lambda *_, **__: True) -> None:
        """Die instead of calling this function with arguments that count."""
        real = getattr(module, name)

        async def doomed(*given: Any, **named: Any) -> Any:
            if counts(*given, **named):
                self.strike()
            return await real(*given, **named)

        _replace(module, name, doomed)

    def after(self, module: Any, name: str, counts: Callable[[Any], bool] = lambda _: True) -> None:
        """Die when this function has returned something that counts."""
        real = getattr(module, name)

        async def doomed(*given: Any, **named: Any) -> Any:
            result = await real(*given, **named)
            if counts(result):
                self.strike()
            return result

        _replace(module, name, doomed)


def _replace(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def die() -> None:
    """kill -9 by one's own hand."""
    os.kill(os.getpid(), signal.SIGKILL)


def mid_call(doom: Doom) -> None:
    """The provider has the request, and has not answered."""
    real: Callable[[SdkProvider, Request], Awaitable[Any]] = SdkProvider.send
    path = Path(os.environ[PROVIDER_LOG])

    async def doomed(self: SdkProvider, request: Request) -> Any:
        call = asyncio.ensure_future(real(self, request))
        if doom.near():
            name = urlencode(request.metadata)
            while not any(one["call"] == name for one in log.read(path)):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            die()
        return await call

    _replace(SdkProvider, "send", doomed)


def mid_settle(doom: Doom) -> None:
    """The statement is sent, its answer is not read: Postgres may commit it or not."""
    real_settle, real_wait = queue.settle, psycopg.AsyncConnection.wait

    async def settle(*given: Any) -> Any:
        mark = _settling.set(doom.near())
        try:
            return await real_settle(*given)
        finally:
            _settling.reset(mark)

    async def wait(self: Any, gen: Any, *given: Any, **named: Any) -> Any:
        return await real_wait(self, _until_sent(gen) if _settling.get() else gen, *given, **named)

    _replace(queue, "settle", settle)
    _replace(psycopg.AsyncConnection, "wait", wait)


def _until_sent(gen: Any) -> Generator[Any, Any, Any]:
    """Psycopg's own steps of one statement, up to where it would wait for the answer."""
    state = next(gen)
    while state != Wait.R:
        state = gen.send((yield state))
    die()


def mid_submit(doom: Doom) -> None:
    """The provider has the batch, and has not answered."""
    from anthropic.resources.messages.batches import AsyncBatches

    real, path = AsyncBatches.create, Path(os.environ[PROVIDER_LOG])

    async def doomed(self: Any, **named: Any) -> Any:
        call = asyncio.ensure_future(real(self, **named))
        if doom.near():
            while not any(one.get("custom_ids") for one in log.read(path)):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            die()
        return await call

    _replace(AsyncBatches, "create", doomed)


def before_spool(doom: Doom) -> None:
    """Spans are recorded, and on no disk."""
    real = SpoolTelemetry.flush

    def doomed(self: SpoolTelemetry) -> None:
        doom.strike()
        real(self)

    _replace(SpoolTelemetry, "flush", doomed)


STEPS: dict[str, Callable[[Doom], None]] = {
    "after-claim": lambda doom: doom.after(queue, "claim", bool),
    "after-open": lambda doom: doom.after(calls, "open_call", lambda answer: answer.verdict == "open"),
    "mid-call": mid_call,
    "after-answer": lambda doom: doom.after(SdkProvider, "send"),
    "after-close": lambda doom: doom.after(calls, "close_call"),
    "before-submit": lambda doom: doom.before(shared.execution.batches, "_submit"),
    "mid-submit": mid_submit,
    "before-mark": lambda doom: doom.before(shared.execution.batches, "_mark"),
    "after-mark": lambda doom: doom.after(shared.execution.batches, "_mark"),
    "before-far-write": lambda doom: doom.after(effects, "begin_effect", lambda answer: answer.verdict == "fire"),
    "after-far-write": lambda doom: doom.before(effects, "finish_effect"),
    "after-done": lambda doom: doom.after(effects, "finish_effect"),
    "before-spool": before_spool,
    "before-settle": lambda doom: doom.before(queue, "settle"),
    "mid-settle": mid_settle,
    "after-settle": lambda doom: doom.after(queue, "settle"),
    "before-ship": lambda doom: doom.before(cron_worker.tick, "ship"),
}


if __name__ == "__main__":
    # A flush gives a slow disk up after 50 ms, and its spans with it when the process is killed then.
    recorder.FLUSH_SECONDS = 30.0
    step, nth, *rest = sys.argv[1:]
    STEPS[step](Doom(int(nth)))
    sys.exit(main(rest))
