"""Time that jumps to the next moment somebody waits for, in this process and in its database alike."""

import asyncio
import heapq
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pytest

from shared import clock
from shared.db import pool
from shared.db.pool import Database as Connection
from tests.support.databases import Database

TURNS = 20  # of the loop in which nobody may begin a statement before time jumps
STEP = 0.1  # seconds that it jumps at least


class Warp:
    """Stands in for `shared.clock`; `statements` are under way now."""

    def __init__(self, database: Database, patch: pytest.MonkeyPatch) -> None:
        self._database, self._shift, self.statements = database, 0.0, 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0
        patch.setattr(clock, "monotonic", self.monotonic)
        patch.setattr(clock, "wall", lambda: datetime.now(UTC) + timedelta(seconds=self._shift))
        patch.setattr(clock, "sleep", self.sleep)

    def monotonic(self) -> float:
        """Seconds, jumps included."""
        return time.monotonic() + self._shift

    async def sleep(self, seconds: float) -> None:
        """Until time has passed or jumped so far."""
        self._count += 1
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.monotonic() + seconds, self._count, future))
        await future

    async def run(self) -> None:
        """Let time jump whenever all wait for it."""
        with psycopg.connect(self._database.owner_url, autocommit=True) as owner:
            await self._jump(owner)

    async def _jump(self, owner: "psycopg.Connection[tuple[object, ...]]") -> None:
        quiet = 0
        while True:
            await asyncio.sleep(0 if quiet < TURNS else 0.001)
            quiet = 0 if self.statements else quiet + 1
            while self._sleepers and (self._sleepers[0][0] <= self.monotonic() or self._sleepers[0][2].done()):
                _, _, future = heapq.heappop(self._sleepers)
                quiet = 0
                if not future.done():
                    future.set_result(None)
            if quiet > TURNS and self._sleepers:
                quiet, by = 0, max(self._sleepers[0][0] - self.monotonic(), STEP)
                self._shift += by
                owner.execute("UPDATE backbeat.test_clock SET shift = shift + %s", [timedelta(seconds=by)])


class Watched(Connection):
    """A connection whose statements keep time from jumping."""

    warp: Warp

    async def rows(self, query: LiteralString, params: Any = None) -> list[Any]:
        self.warp.statements += 1
        try:
            return await super().rows(query, params)
        finally:
            self.warp.statements -= 1


@asynccontextmanager
async def warped(database: Database, warp: Warp) -> AsyncIterator[Connection]:
    """A worker's way into the database while time jumps."""
    async with pool.connect(database.worker_url, max_size=1) as db:
        watched = Watched(db.pool)
        watched.warp = warp
        yield watched
