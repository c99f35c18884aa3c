"""One orchestration in two releases: the second does more before it asks, so it cannot go on with runs of the first."""

from datetime import timedelta

from temporalio import workflow

from backbeat import orchestrate as bb

with workflow.unsafe.imports_passed_through():
    from tests.support.parcels import Order

POLICY = {"approvers": ["alice"]}
DAY = timedelta(days=1)


@workflow.defn(name="greet")
class Old:
    @workflow.run
    async def run(self, order: Order) -> str:
        await bb.approve("may", title="Greet", request={}, policy=POLICY, deadline=DAY)
        return "the old release"


@workflow.defn(name="greet")
class New:
    @workflow.run
    async def run(self, order: Order) -> str:
        await bb.effect("more", "note", {"customer": order.customer})
        await bb.approve("may", title="Greet", request={}, policy=POLICY, deadline=DAY)
        return "the new release"


@workflow.defn(name="carry")
class Carry:
    """Takes something large through a wait and hands it back."""

    @workflow.run
    async def run(self, order: Order) -> str:
        await bb.approve("may", title="Carry", request={}, policy=POLICY, deadline=DAY)
        return order.customer[::-1]
