"""Which route a call takes: the first of its tier that has a key and that nothing speaks against.

What people and vendors say about routes is read from Postgres when a call chooses, every few seconds at most.
"""

import logging
from collections.abc import Collection
from datetime import timedelta
from uuid import UUID, uuid4

from shared import clock
from shared.db import rates
from shared.db.pool import Database
from shared.domain.outcome import Hold, Release
from shared.errors import ConfigError
from shared.execution.admission import CIRCUIT, Desk
from shared.execution.interrupt import Interrupt
from shared.llm.protocol import Provider
from shared.llm.routes import Route, Routes

REREAD = 5.0  # seconds
PATIENCE = 5.0  # seconds that a task waits for a route inside its tick
_PASSING = ("rate_limited", "overloaded", "unavailable", "used_up")


class Routing:
    """A process' view of the routes, and its desks at their rates."""

    def __init__(self, db: Database, base: Routes, providers: Collection[str]) -> None:
        self._db, self._base, self._providers = db, base, providers
        self.routes = base
        self._read_at, self._shut = float("-inf"), dict[str, tuple[float, str]]()
        self._worker, self._desks, self._limited = uuid4().hex, dict[str, Desk](), dict[str, list[float | None]]()

    async def choose(self, tier: str, task: UUID, patience: float, window: int = 0) -> Route:
        """The route for a call of this task, of `window` tokens if there is one, waiting a little for it to open.

        Raises ConfigError when none has a key, Interrupt with a free release while rates are in the way, with a hold
        while somebody must act.
        """
        await self.read()
        # The last bits of a uuid are random: a task keeps its place in every canary, also when it is tried again.
        routes = self.routes.for_tier(tier, self._providers, task.int % 100)
        candidates = [route for route in routes if route.window >= window] or routes
        if open_ := [route for route in candidates if self._against(route)[0] <= 0]:
            return open_[0]
        route = min(candidates, key=lambda one: (self._against(one)[1] not in _PASSING, self._against(one)[0]))
        wait, why = self._against(route)
        if why not in _PASSING:
            until = clock.wall() + timedelta(seconds=min(wait, CIRCUIT))
            raise Interrupt(Hold("route", route.name, until, f"{route.name}: {why}"))
        if wait > min(patience, PATIENCE):
            raise Interrupt(Release("rate", after=wait))
        await clock.sleep(wait)
        return route

    def elsewhere(self, tier: str, task: UUID, route: Route) -> bool:
        """Whether a route has been shut and another of its tier is open."""
        others = self.routes.for_tier(tier, self._providers, task.int % 100)
        return self._against(route)[0] > 0 and any(self._against(one)[0] <= 0 for one in others)

    def stalled(self, tier: str) -> bool:
        """Whether tasks of a tier would only be released again."""
        routes = [route for route in self.routes.tiers.get(tier, ()) if route.provider in self._providers]
        return bool(routes) and all(self._busy(route) for route in routes)

    def shut(self, route: str, seconds: float, why: str) -> None:
        """Let this process not take a route for a while; the others hear of it through Postgres."""
        self._shut[route] = clock.monotonic() + seconds, why

    def desk(self, route: Route, provider: Provider) -> Desk:
        """Where moments of a route's rate are given out."""
        desk = self._desks.setdefault(route.name, Desk(self._db, self._worker, self.shut))
        desk.route, desk.provider = route, provider
        if route.name in self._limited:
            desk.limit(self._limited[route.name])
        return desk

    async def aclose(self) -> None:
        """Give back what is left of the rates."""
        for desk in self._desks.values():
            await desk.aclose()

    def _against(self, route: Route) -> tuple[float, str]:
        until, why = self._shut.get(route.name, (0.0, ""))
        return until - clock.monotonic(), why

    def _busy(self, route: Route) -> bool:
        wait, why = self._against(route)
        desk = self._desks.get(route.name)
        return (wait > PATIENCE and why in _PASSING) or (desk is not None and clock.monotonic() < desk.busy_until)

    async def read(self) -> None:
        """Hear what is said of routes, unless that was done a moment ago."""
        if clock.monotonic() < self._read_at + REREAD:
            return
        self._read_at = clock.monotonic()
        said = await rates.said(self._db)
        now, ever = clock.monotonic(), float("inf")
        self._limited = {row["key"]: row["body"] for row in said if row["scope"] == "limited"}
        blocked = {row["key"]: (now + row["seconds"], row["body"]) for row in said if row["scope"] == "blocked"}
        self._shut = blocked | {row["key"]: (ever, "paused") for row in said if row["scope"] == "paused"}
        try:
            self.routes = self._base.over(said)
        except (ConfigError, LookupError, TypeError, ValueError) as error:
            logging.warning("what llm_routes says is left out: %s", error)
