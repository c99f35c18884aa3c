"""Orchestrations for tests: each a few steps around one thing that may go wrong."""

from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from temporalio import workflow
from temporalio.exceptions import ActivityError

from backbeat import orchestrate as bb

with workflow.unsafe.imports_passed_through():
    from tests.support.parcels import Order, Sorted


class Verdict(BaseModel):
    total: int
    failed: int = 0


@workflow.defn(name="ship")
class Ship:
    """Two writes and one fork."""

    @workflow.run
    async def run(self, order: Order) -> Verdict:
        first = await bb.effect("book", "note", {"customer": order.customer})
        if order.weight > 10:
            await bb.effect("lift", "note", {"weight": order.weight})
        return Verdict(total=first["id"])


@workflow.defn(name="ask_first")
class AskFirst:
    """People decide twice: on an effect, and on going on."""

    @workflow.run
    async def run(self, order: Order) -> dict[str, Any]:
        policy = {"approvers": ["alice"]}
        day = timedelta(days=1)
        post = await bb.approve("post", title="Post", effect="note", request={"a": 1}, policy=policy, deadline=day)
        twice = {"approvers": ["alice"], "four_eyes": True}
        gate = await bb.approve(
            "gate", title="Go on", request={"b": 2}, policy=twice, deadline=day, requested_by=order.customer
        )
        return {"post": post.decision, "outcome": post.outcome, "gate": gate.decision}


@workflow.defn(name="ask_abroad")
class AskAbroad:
    """People decide inside a saga, and inside a region."""

    @workflow.run
    async def run(self, order: Order) -> str:
        async with bb.saga() as steps:
            await steps.step("charge", "note", {"charge": 1}, undo=("note", {"refund": order.customer}))
            with bb.in_region("eu"):
                who, day = {"approvers": ["alice"]}, timedelta(days=1)
                gate = await bb.approve("gate", title="Go on", request={"a": 1}, policy=who, deadline=day)
        return gate.decision


SHELF = {"type": "object", "properties": {"shelf": {"type": "string"}}, "required": ["shelf"]}


@workflow.defn(name="judge")
class Judge:
    """A model is asked twice, and the second answer depends on the first."""

    @workflow.run
    async def run(self, order: Order) -> dict[str, Any]:
        first = await bb.llm("first", output=Sorted, prompt=f"Sort {order.customer}", tier="small")
        second = await bb.llm("second", output=SHELF, prompt=f"Again {first.shelf}", tier="small")
        return {"first": first.shelf, "second": second["shelf"]}


@workflow.defn(name="spread")
class Spread:
    """As many tasks as the order weighs."""

    @workflow.run
    async def run(self, order: Order) -> Verdict:
        children = [("parcel", {"customer": order.customer, "weight": n}) for n in range(order.weight)]
        joined = await bb.fan_out("parcels", children, tolerate=order.tolerate)
        results = await joined.results()
        return Verdict(
            total=sum(one.result["customer"] == order.customer for one in results if one.ok), failed=joined.failed
        )


@workflow.defn(name="undo")
class Undo:
    """Three writes, of which the third is refused: the first two are taken back, last first."""

    @workflow.run
    async def run(self, order: Order) -> Verdict:
        async with bb.saga() as steps:
            await steps.step("charge", "note", {"charge": 1}, undo=("note", {"refund": 1}))
            await steps.step("ship", "note", {"ship": 1}, undo=("note", {"recall": 1}))
            await steps.step("tell", "strict", {"tell": order.customer}, undo=("note", {"untell": 1}))
        return Verdict(total=3)


@workflow.defn(name="catch")
class Catch:
    """A refusal that the author catches; several steps side by side."""

    @workflow.run
    async def run(self, order: Order) -> dict[str, Any]:
        refused = ""
        try:
            await bb.effect("strict", "strict", {"a": 1})
        except ActivityError as error:
            refused = getattr(error.cause, "type", "")
        both = await bb.barrier("both", *(bb.effect(f"side {n}", "note", {"n": n}) for n in range(3)))
        return {"refused": refused, "both": len(both)}


@workflow.defn(name="twice")
class Twice:
    """Reserved in one region before the other, confirmed in both or in none."""

    @workflow.run
    async def run(self, order: Order) -> str:
        async with bb.saga() as steps:
            for region in ("eu", "us"):
                with bb.in_region(region):
                    await steps.step(f"reserve {region}", "note", {"reserve": region}, undo=("note", {"free": region}))
            for region in ("eu", "us"):
                with bb.in_region(region):
                    kind = "strict" if order.weight > 10 else "note"
                    await steps.step(f"confirm {region}", kind, {"confirm": region})
        return "confirmed"


@workflow.defn(name="rest")
class Rest:
    """A month of nothing, then a write."""

    @workflow.run
    async def run(self, order: Order) -> str:
        await bb.wait_until("month", workflow.now() + timedelta(days=30))
        await bb.effect("after", "note", {"customer": order.customer})
        return "rested"
