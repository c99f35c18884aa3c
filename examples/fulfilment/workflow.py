"""An order from the shop's checkout to the customer's door, or back to where it was."""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

from backbeat import orchestrate as bb

with workflow.unsafe.imports_passed_through():
    from examples.fulfilment import carriers
    from examples.fulfilment.models import Done, Letter, Order, Quote, Risk

DEAR = 50_000  # cents, from which people decide
POLICY = {"groups": ["sales"]}
LIMIT = timedelta(days=3)


@workflow.defn(name="fulfil")
class Fulfil:
    """Judge it, pick it, pay it, ship it; when shipping fails, undo what was done."""

    @workflow.run
    async def run(self, order: Order) -> Done:
        """Twenty-three steps on the longest way."""
        abroad = await bb.tool("check_address", carriers.check_address, order) == "abroad"
        if await self._doubtful(order) and not await self._agreed(order):
            await self._tell(order, "declined", "We cannot take this order.")
            return Done(status="declined")
        lines = [("pick_line", line) for line in order.lines]
        picked = await bb.fan_out("pick", lines)
        quotes = await bb.barrier("quotes", *(self._quote(name, order) for name in ("tortoise", "hare", "swallow")))
        carrier = min(quotes, key=lambda one: one.cents).carrier
        tax = await bb.tool("tax", carriers.tax, order)
        try:
            parcel = await self._ship(order, carrier, tax, abroad=abroad)
        except ActivityError:
            await self._tell(order, "refunded", "We could not ship it, and have refunded you.")
            return Done(status="refunded", picked=picked.children)
        await self._tell(order, "shipped", f"It is on its way with {carrier}.")
        await bb.wait_until("rest", workflow.now() + timedelta(seconds=order.rest_seconds))
        letter = await bb.llm("thanks", output=Letter, prompt=f"Thank {order.customer} for an order.", tier="small")
        await bb.effect("mail:thanks", "mail", {"to": order.customer, "text": letter.text})
        return Done(status="shipped", parcel=parcel, picked=picked.children)

    async def _doubtful(self, order: Order) -> bool:
        ask = f"Is this order risky? {order.cents} cents to {order.country}"
        risk = await bb.llm("risk", output=Risk, prompt=ask, tier="small")
        if order.new_customer:
            second = f"{ask}. A colleague says: {risk.reason}"
            risk = await bb.llm("second_opinion", output=Risk, prompt=second, tier="small")
        return risk.risky or order.cents >= DEAR

    async def _agreed(self, order: Order) -> bool:
        shown = {"customer": order.customer, "country": order.country, "cents": order.cents}
        answer = await bb.approve(
            "agree", title=f"Take the order of {order.customer}", request=shown, policy=POLICY, deadline=LIMIT
        )
        return answer.approved

    async def _quote(self, carrier: str, order: Order) -> Quote:
        found: Quote = await bb.tool(f"quote:{carrier}", carriers.quote, carrier, order)
        return found

    async def _ship(self, order: Order, carrier: str, tax: int, *, abroad: bool) -> str:
        """All of it or nothing: whatever fails, the steps before it are undone, last first."""
        who = {"customer": order.customer}
        async with bb.saga() as steps:
            goods = {**who, "lines": [line.model_dump() for line in order.lines]}
            await steps.step("reserve", "reserve", goods, undo=("release", goods))
            if abroad:
                papers = {**who, "country": order.country, "cents": order.cents}
                await steps.step("declare", "declare", papers, undo=("withdraw", papers))
            money = {**who, "cents": order.cents + tax}
            await steps.step("charge", "charge", money, undo=("refund", money))
            await steps.step("invoice", "invoice", money, undo=("credit", money))
            if order.gift:
                await steps.step("wrap", "wrap", who)
            label = await steps.step("label", "label", {**who, "carrier": carrier}, undo=("void", who))
            await steps.step("pickup", "pickup", {**who, "label": label["id"]})
            # The point of no return comes last.
            parcel = await steps.step("ship", "ship", {**goods, "label": label["id"]})
        return str(parcel["id"])

    async def _tell(self, order: Order, how: str, text: str) -> None:
        await bb.effect(f"mail:{how}", "mail", {"to": order.customer, "text": text})
        await bb.effect(f"book:{how}", "book", {"customer": order.customer, "how": how})
