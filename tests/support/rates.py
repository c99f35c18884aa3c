"""Processes that ask for leave, a vendor that notes when it was asked, and what a limit says to that."""

import asyncio
import bisect
from collections.abc import Sequence
from random import Random
from uuid import uuid4

from shared import clock
from shared.db.pool import Database as Connection
from shared.domain.outcome import Release
from shared.domain.usage import Usage
from shared.execution.admission import Desk, LateError
from shared.execution.interrupt import Interrupt
from shared.llm.protocol import Reply, Request
from shared.llm.routes import Route

REQUEST = Request(model="m", prompt="p", max_output_tokens=1, timeout=60.0)
UPPER, MOST = 4000, 500  # tokens, as they can be counted before


class Vendor:
    """Answers after a while. `log` has (seconds, input tokens, output tokens) of each request, as they came."""

    def __init__(self, dice: Random, latency: tuple[float, float] = (0.5, 3.0)) -> None:
        self._dice, self._latency = dice, latency
        self.log: list[tuple[float, int, int]] = []
        self.in_flight = self.most = 0

    async def send(self, request: Request) -> Reply:
        await clock.sleep(self._dice.uniform(0, 0.3))
        # Whoever asked may die; the vendor goes on.
        return await asyncio.shield(asyncio.ensure_future(self._answer(request)))

    async def _answer(self, request: Request) -> Reply:
        used, made = self._dice.randint(500, 1500), self._dice.randint(50, 150)
        self.log.append((clock.monotonic(), used, made))
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await clock.sleep(self._dice.uniform(*self._latency))
        self.in_flight -= 1
        return Reply("", Usage(uncached=used, output=made), "end", request.model, "sim_1")

    async def aclose(self) -> None:
        pass


class Process:
    """One process with calls to make, until it is killed."""

    def __init__(
        self, db: Connection, route: Route, vendor: Vendor, dice: Random, callers: int, stalls: float = 0.0
    ) -> None:
        self._dice, self.stalls = dice, stalls
        self.desk = Desk(db, uuid4().hex, lambda *_: None)
        self.desk.route, self.desk.provider = route, vendor
        self._callers = [asyncio.create_task(self._call()) for _ in range(callers)]

    async def _call(self) -> None:
        while True:
            wish = {"owner": str(uuid4()), "call_key": "k", "request_hash": "h", "input": UPPER, "output": MOST}
            try:
                slot = await self.desk.slot(wish | {"patience": 5.0})
                assert slot is not None
                if self._dice.random() < self.stalls:
                    await clock.sleep(self._dice.uniform(0, 30))  # it loads something, or swaps
                if self._dice.random() < 0.1:
                    slot.give_back()  # its money was refused, say
                else:
                    await slot.send(REQUEST)
            except Interrupt as refusal:
                match refusal.outcome:
                    case Release("rate", after):
                        await clock.sleep(after * self._dice.uniform(0.5, 1))
                    case _:
                        raise
            except LateError:
                continue

    async def kill(self) -> None:
        """As kill -9 does: what it was given it gives back to nobody."""
        if self.desk._teller:
            self.desk._teller.cancel()
        for caller in self._callers:
            caller.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)


def fullest(log: Sequence[tuple[float, float]], window: float) -> float:
    """The most that any sliding window of a log of (seconds, amount) holds."""
    times, sums = [at for at, _ in sorted(log)], [0.0]
    for _, amount in sorted(log):
        sums.append(sums[-1] + amount)
    return max(sums[bisect.bisect_left(times, at + window)] - sums[n] for n, at in enumerate(times))
