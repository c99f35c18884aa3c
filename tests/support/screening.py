"""A definition module whose rows are handled by the hundred."""

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from backbeat import BatchContext, Context, Dead, bounded_loop, bulk


class Charge(BaseModel):
    n: int


class Verdict(BaseModel):
    verdict: str


released = threading.Event()  # until then row 97 ignores that it is cancelled
judging: set[int] = set()  # what is under way in this process
beside: list[int] = []  # how many were, while a row that must run alone ran


async def _judge(_ctx: Context, charge: Charge) -> Verdict:
    judging.add(charge.n)
    await asyncio.sleep(0.05)
    judging.discard(charge.n)
    return Verdict(verdict=f"judged {charge.n}")


judge = bounded_loop("judge", version=1, input=Charge, output=Verdict, tier="small", run=_judge)


async def _screen(ctx: BatchContext, charges: Sequence[Charge]) -> list[Any]:
    if charges[0].n == 99 and ctx.tasks[0].alone:
        for _ in range(8):
            beside.append(len(judging))
            await asyncio.sleep(0.05)
    if charges[0].n == 98:
        raise asyncio.CancelledError
    while charges[0].n == 97 and not released.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)
    if any(charge.n == 13 for charge in charges):
        raise ArithmeticError("thirteen")
    return [_one(ctx, charge) for charge in charges]


def _one(ctx: BatchContext, charge: Charge) -> Any:
    if charge.n == 7:
        return Dead("refused", "seven")
    if charge.n % 100 == 50:
        return ctx.fan_out([(judge, charge)], result=Verdict(verdict="doubtful"))
    return Verdict(verdict="fine")


screen = bulk("screen", version=1, input=Charge, output=Verdict, run=_screen, rows=200)
