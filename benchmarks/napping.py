"""What benchmarks/telemetry.py gives a tick to do: a task that waits, and nothing else."""

import asyncio

from pydantic import BaseModel

from backbeat import Context, bounded_loop

SECONDS = 4.0


class Nap(BaseModel):
    n: int


async def _nap(_ctx: Context, nap: Nap) -> Nap:
    await asyncio.sleep(SECONDS)
    return nap


nap = bounded_loop("nap", version=1, input=Nap, output=Nap, tier="small", run=_nap)
