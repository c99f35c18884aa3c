"""A definition module: one origin that goes through everything there is, task, call, approval, effect, fan-outs."""

from typing import Any

from backbeat import Context, bounded_loop, orchestration
from tests.support.parcels import Order, Sorted


async def _begin(ctx: Context, order: Order) -> Any:
    found = await ctx.llm("look", output=Sorted, prompt=order.customer, tier="small")
    await ctx.effect("greet", "note", {"customer": order.customer})
    return ctx.escalate("errand", {"customer": found.shelf, "weight": order.weight})


async def _fork(ctx: Context, order: Order) -> Any:
    return ctx.fan_out([(leaf, Order(customer=f"{order.customer} {n}")) for n in range(2)])


async def _leaf(ctx: Context, order: Order) -> Any:
    return order


begin = bounded_loop("begin", version=1, input=Order, output=Order, tier="small", run=_begin)
fork = bounded_loop("fork", version=1, input=Order, output=Order, tier="small", run=_fork)
leaf = bounded_loop("leaf", version=1, input=Order, output=Order, tier="small", run=_leaf)
errand = orchestration("errand", version=1, input=Order, workflow="tests.support.errand:Errand")
gather = orchestration("gather", version=1, input=Order, workflow="tests.support.errand:Gather")
