"""The definitions that are drained: they do nothing, so that what is measured is the queue."""

from collections.abc import Sequence

from pydantic import BaseModel

from backbeat import BatchContext, Context, bounded_loop, bulk


class Nothing(BaseModel):
    n: int


class Done(BaseModel):
    ok: bool


async def _many(_ctx: BatchContext, rows: Sequence[Nothing]) -> list[Done]:
    return [Done(ok=True) for _ in rows]


async def _one(_ctx: Context, _row: Nothing) -> Done:
    return Done(ok=True)


noop_bulk = bulk("noop_bulk", version=1, input=Nothing, output=Done, run=_many, rows=1000, idempotency=False)
noop_keyed = bulk("noop_keyed", version=1, input=Nothing, output=Done, run=_many, rows=1000)
noop_full = bounded_loop("noop_full", version=1, input=Nothing, output=Done, tier="small", run=_one)
