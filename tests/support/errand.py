"""The workflow of tests/support/errands.py."""

from datetime import timedelta
from typing import Any

from temporalio import workflow

from backbeat import orchestrate as bb

with workflow.unsafe.imports_passed_through():
    from tests.support.parcels import Order, Sorted


@workflow.defn(name="errand")
class Errand:
    """Asks a model and people, writes, and lets tasks make tasks."""

    @workflow.run
    async def run(self, order: Order) -> dict[str, Any]:
        await bb.llm("again", output=Sorted, prompt=order.customer, tier="small")
        policy, day = {"rules": [{"approvers": ["alice"]}, {"approvers": ["bob"]}]}, timedelta(days=1)
        asked = await bb.approve("gate", title="Go on", request={"b": 2}, effect="note", policy=policy, deadline=day)
        await bb.effect("book", "note", {"customer": order.customer})
        joined = await bb.fan_out("forks", [("fork", {"customer": str(n)}) for n in range(order.weight)])
        return {"decision": asked.decision, "children": joined.children}


@workflow.defn(name="gather")
class Gather:
    """Asks people first, then a model; writes, waits for tasks, and writes again."""

    @workflow.run
    async def run(self, order: Order) -> dict[str, Any]:
        policy, day = {"approvers": ["alice"]}, timedelta(days=1)
        await bb.approve("gate", title="Go on", request={"b": 2}, policy=policy, deadline=day)
        found = await bb.llm("look", output=Sorted, prompt=order.customer, tier="small")
        await bb.effect("book", "note", {"customer": order.customer})
        joined = await bb.fan_out("leaves", [("leaf", {"customer": str(n)}) for n in range(order.weight)])
        children = await joined.results()
        await bb.effect("close", "note", {"shelf": found.shelf})
        return {"children": [child.result["customer"] for child in children]}
