"""Many tasks at once: made as rows of the queue, run by ticks, waited for together, their results read in pages."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from pydantic import BaseModel
from temporalio.exceptions import ApplicationError

from backbeat.orchestrate.run import current, quick
from shared.orchestration.messages import Child, Chunk, Join, Page

CHUNK, CHUNK_BYTES = 200, 400_000  # of children made by one activity
PAGE = 100  # results read by one


class FanOutError(ApplicationError):
    """More children failed than the fan-out tolerates; those that still ran were cancelled."""

    def __init__(self, step: str, join: Join) -> None:
        super().__init__(
            f"{step}: {join.failed} of {join.children} children failed, {join.tolerated} are tolerated",
            type="FanOutFailed",
        )
        self.join = join


class Joined:
    """A fan-out whose children have all ended. `failed` says how many did not succeed."""

    def __init__(self, run: str, step: str, join: Join, again: Callable[[], Awaitable[Any]]) -> None:
        self._run, self._step, self._again = run, step, again
        self.children, self.failed = join.children, join.failed

    async def pages(self, size: int = PAGE) -> AsyncIterator[list[Child]]:
        """The results in order, so many at a time: what is large is not read at once."""
        for start in range(0, self.children, size):
            page = await quick("results", Page(self._run, self._step, start, size), list[Child])
            if len(page) < min(size, self.children - start) or any(child.status == "running" for child in page):
                # Postgres came back as it was before they had ended.
                await self._again()
                page = await quick("results", Page(self._run, self._step, start, size), list[Child])
            yield page

    async def results(self) -> list[Child]:
        """All of them."""
        return [child async for page in self.pages() for child in page]


async def fan_out(key: str, children: Iterable[tuple[Any, Any]], *, tolerate: int | None = 0) -> Joined:
    """Make tasks, (definition or its name, input) each, and wait until all have ended.

    They run in ticks like any other task, in this run's tenant, trace and origin; their model calls count against this
    run's cap too. `tolerate` is how many may fail (None: any number) before the others are cancelled and FanOutError
    raised. A workflow that ends takes its children with it.
    """
    run, chunks = current(), list(_chunks(children))

    async def make() -> Join:
        standing, made = Join(0, 0, 0, tolerate), 0
        for place, (name, version, payloads) in enumerate(chunks, 1):
            chunk = Chunk(run.id, key, made, name, version, payloads, tolerate, place == len(chunks))
            standing = await quick("fan_out", chunk, Join)
            made += len(payloads)
        return standing

    async def look() -> Join:
        """A join that Postgres does not know, or not whole, was lost in a restore: its children are made again."""
        found = await quick("join", Page(run.id, key), Join)
        return found if found.known else await make()

    def missing(found: Join) -> str | None:
        return None if found.broken or not found.left else f"tasks of {key!r}, {found.children} of them"

    async def again() -> None:
        with run.step(key, "fan_out") as note:
            await run.wait(note, look, missing)

    with run.step(key, "fan_out") as note:
        standing = await make()
        note.add(children=standing.children)
        if chunks:
            standing = await run.wait(note, look, missing)
            note.add(failed=standing.failed)
        if standing.broken:
            raise FanOutError(key, standing)
        return Joined(run.id, key, standing, again)


def _chunks(children: Iterable[tuple[Any, Any]]) -> Iterable[tuple[str, int | None, list[Any]]]:
    """Runs of children of one definition, none too large for an activity's argument."""
    now: tuple[str, int | None] | None = None
    chunk: list[Any] = []
    size = 0
    for made, value in children:
        kind = (made, None) if isinstance(made, str) else (made.name, made.version)
        payload = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        weight = len(json.dumps(payload))
        if chunk and now and (kind != now or len(chunk) == CHUNK or size + weight > CHUNK_BYTES):
            yield *now, chunk
            chunk, size = [], 0
        now = kind
        chunk.append(payload)
        size += weight
    if chunk and now:
        yield *now, chunk
