"""A definition module whose rows are handled by the hundred."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from backbeat import BatchContext, Context, Dead, bounded_loop, bulk


class Charge(BaseModel):
    n: int


class Verdict(BaseModel):
    verdict: str


async def _judge(_ctx: Context, charge: Charge) -> Verdict:
    return Verdict(verdict=f"judged {charge.n}")


judge = bounded_loop("judge", version=1, input=Charge, output=Verdict, tier="small", run=_judge)


async def _screen(ctx: BatchContext, charges: Sequence[Charge]) -> list[Any]:
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
