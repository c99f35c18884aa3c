"""A vendor's calls are spread over pools of connections, each small enough to be looked through at every request."""

import asyncio
from typing import Any

from shared.domain.usage import Usage
from shared.llm.protocol import POOL, Pools, Reply, Request

REQUEST = Request(model="m", prompt="?", max_output_tokens=1, timeout=1.0)


class Pool:
    """Answers once it may, and knows how many waited at most."""

    def __init__(self) -> None:
        self.busy, self.most, self.open, self.closed = 0, 0, asyncio.Event(), False

    async def send(self, request: Request) -> Reply:
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await self.open.wait()
        finally:
            self.busy -= 1
        return Reply("", Usage(), "end", "m", "id")

    async def aclose(self) -> None:
        self.closed = True


async def test_no_pool_has_more_than_its_share_and_the_first_is_used_first() -> None:
    made: list[Pool] = []

    def connect() -> Any:
        made.append(Pool())
        return made[-1]

    pools = Pools(connect)
    assert len(made) == 1
    calls = [asyncio.create_task(pools.send(REQUEST)) for _ in range(2 * POOL + 1)]
    await asyncio.sleep(0)
    assert [pool.busy for pool in made] == [POOL, POOL, 1]
    calls[0].cancel()
    await asyncio.wait(calls[:1])
    again = asyncio.create_task(pools.send(REQUEST))
    await asyncio.sleep(0)
    assert [pool.busy for pool in made] == [POOL, POOL, 1]
    for pool in made:
        pool.open.set()
    await asyncio.gather(again, *calls[1:])
    assert [pool.most for pool in made] == [POOL, POOL, 1]
    await pools.aclose()
    assert all(pool.closed for pool in made)
