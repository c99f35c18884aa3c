"""Admission: no call leaves on a limited route before Postgres gave it a moment of that route's rate.

    ask -> wait for the moment -> send -> tell what it took

The calls of a process that ask at the same time get a block of moments by one statement. A moment that is not used in
time is given back with the next one; those of a process that dies pass by themselves. A route without limits costs no
statement, until its vendor names some or says no.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Self
from weakref import WeakSet

from shared import clock
from shared.db import rates
from shared.db.pool import Database
from shared.db.together import Together
from shared.domain.outcome import Release
from shared.errors import BackbeatError
from shared.execution.interrupt import Interrupt
from shared.llm.classify import classify
from shared.llm.limits import read_limits
from shared.llm.protocol import Provider, Reply, Request
from shared.llm.routes import Route

LATE = 0.5  # seconds after which a moment has passed
NEWS = 5.0  # seconds between words on what calls took and how many are in flight; Postgres forgets them after 15
FULL = 0.3  # seconds between looks for a call in flight that has ended
PAUSE = 1.0  # seconds without calls after a 429 that names none
CIRCUIT = 900.0  # seconds without calls on a route whose key, bill or model is the fault
_SLOWS = ("rate_limited", "overloaded", "unavailable")


class LateError(ConnectionRefusedError):
    """The moment passed before the call could leave: nothing was sent, as `classify` sees by its kind."""


class Slot:
    """Leave to send one call now. It is sent or given back."""

    def __init__(self, desk: "Desk", wish: rates.Row, charged: Sequence[float] = ()) -> None:
        self._desk, self._wish, self._charged, self._until = desk, wish, charged, float("inf")
        self.opened = False  # whether its call was the one whose refusal shut the route for its own fault

    async def at(self, wait: float) -> Self:
        """The slot, once its moment has come."""
        self._until = clock.monotonic() + wait + LATE
        try:
            await clock.sleep(wait)
        except BaseException:
            self.give_back()
            raise
        return self

    def give_back(self) -> None:
        """The call did not leave. A moment that has passed is lost: given back, it would be sent beside a later one."""
        self._desk.ended(self, () if clock.monotonic() > self._until else self._charged)

    async def send(self, request: Request) -> Reply:
        """See `Provider.send`."""
        if clock.monotonic() > self._until:
            self.give_back()
            raise LateError(f"its moment on {self._desk.route.name} passed")
        try:
            reply = await self._desk.provider.send(request)
        except BaseException as error:
            self._desk.ended(self)
            self.opened = await self._desk.refused(error)
            raise
        took = self._desk.took(self._wish, reply)
        self._desk.ended(self, [charged - used for charged, used in zip(self._charged, took, strict=False)])
        await self._desk.heard(reply)
        return reply


class Desk:
    """One process at the rate of one route. `shut` hears for how many seconds nobody may take it, and why."""

    def __init__(self, db: Database, worker: str, shut: Callable[[str, float, str], None]) -> None:
        self._db, self._worker, self._shut = db, worker, shut
        self.route: Route
        self.provider: Provider
        self._limited = self._joint = False  # a vendor limits its calls; it counts input and output together
        self.busy_until = 0.0  # until which calls would have to wait for longer than tasks do inside a tick
        self._asks = Together(self._admit)
        self._slots: WeakSet[Slot] = WeakSet()  # those whose asker did not live to hear of them are in nobody's hands
        self._back = [0.0, 0.0, 0.0]
        self._told: list[float | None] = [None, None, None]
        self._seen: list[tuple[float, float]] = []
        self._teller: asyncio.Task[None] | None = None

    async def slot(self, wish: rates.Row) -> Slot | None:
        """Leave to send a call of `backbeat.admit`'s shape once its moment has come; None when the route is shut.

        Raises Interrupt(Release("rate")) when that would take longer than the wish's patience.
        """
        if not (self.route.limited or self._limited):
            return Slot(self, wish)
        if self._joint:
            wish = wish | {"input": wish["input"] + wish["output"], "joint": True}
        until = clock.monotonic() + wish["patience"]
        while True:
            left = max(until - clock.monotonic(), 0.0)
            answer: tuple[str, float, Slot] = await self._asks.ask(wish | {"patience": left})
            verdict, wait, slot = answer
            if verdict in ("go", "memo"):
                return await slot.at(wait) if verdict == "go" else slot
            if verdict == "blocked":
                self._shut(self.route.name, wait, "rate_limited")
                return None
            if verdict == "late" or left <= FULL:
                self.busy_until = clock.monotonic() + max(wait, FULL)
                raise Interrupt(Release("rate", after=max(wait, FULL)))
            await clock.sleep(FULL)

    def ended(self, slot: Slot, back: Sequence[float] = ()) -> None:
        """A call that had a moment is over, and took so much less than it was charged."""
        if slot in self._slots:
            self._slots.discard(slot)
            self._back = [sum(pair) for pair in zip(self._back, back, strict=True)] if back else self._back

    def took(self, wish: rates.Row, reply: Reply) -> tuple[float, float, float]:
        """What a call took of the rates. What Anthropic reads from its cache takes nothing."""
        free = reply.usage.cache_read if self.route.provider == "anthropic" else 0
        made = float(reply.usage.output)
        used = reply.usage.input - free + made * wish.get("joint", False)
        self._seen.append((used / max(wish["input"], 1), made / max(wish["output"], 1)))
        return 1.0, used, made

    def limit(self, told: Sequence[float | None]) -> None:
        """From now on calls need leave: the vendor has named limits, or refused a call for its rate."""
        self._limited, self._joint = True, bool(told[1] and not told[2])

    async def heard(self, reply: Reply) -> None:
        """Keep what a vendor said beside its answer."""
        limits, pause = read_limits(reply.limits, clock.wall())
        if any(limits):
            self._told = limits
            self.limit(limits)
        if pause:
            await self._block(pause, "used_up")

    async def refused(self, error: BaseException) -> bool:
        """Slow down for a vendor that says so; leave a route whose own fault it is: True for the first."""
        verdict = classify(error)
        if verdict.hold_route:
            return await self._block(CIRCUIT, verdict.reason)
        if verdict.reason == "rate_limited" or (verdict.delay and verdict.reason in _SLOWS):
            await self._block(PAUSE if verdict.delay is None else verdict.delay, verdict.reason)
        return False

    async def _block(self, seconds: float, why: str) -> bool:
        self._shut(self.route.name, seconds, why)
        self._limited |= why == "rate_limited"
        with contextlib.suppress(BackbeatError):
            return await rates.block(self._db, self.route.name, seconds, why, shrink=why == "rate_limited")
        return False

    async def _admit(self, wishes: Sequence[rates.Row]) -> dict[int, tuple[str, float, Slot]]:
        means = [sum(shares) / len(self._seen) for shares in zip(*self._seen, strict=True)]
        news = {"running": len(self._slots), "back": self._back, "told": self._told, "seen": [len(self._seen), *means]}
        self._back, self._seen = [0.0, 0.0, 0.0], []
        answers: dict[int, tuple[str, float, Slot]] = {}
        for row in await rates.admit(self._db, self._worker, self.route, news, list(wishes)):
            slot = Slot(self, wishes[row["n"] - 1], row["charged"])
            answers[row["n"]] = row["verdict"], row["wait"], slot
            if row["verdict"] == "go":
                self._slots.add(slot)
        self._teller = self._teller or asyncio.create_task(self._tell())
        return answers

    async def _tell(self) -> None:
        while True:
            await clock.sleep(NEWS)
            if self._slots or self._seen or any(self._back):
                with contextlib.suppress(BackbeatError):
                    await self._admit([])

    async def aclose(self) -> None:
        """Give back what is left over, and say that nothing is in flight any more."""
        if self._teller:
            self._teller.cancel()
        if self._teller or any(self._told):
            self._slots.clear()
            with contextlib.suppress(BackbeatError):
                await self._admit([])
