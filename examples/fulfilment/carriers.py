"""Activities of our own: what is only read, and may be read again."""

from temporalio import activity

from examples.fulfilment.models import Order, Quote

_BASE = {"tortoise": 390, "hare": 890, "swallow": 1290}


@activity.defn
async def check_address(order: Order) -> str:
    """The region that the order goes to."""
    return "home" if order.country == "NL" else "abroad"


@activity.defn
async def quote(carrier: str, order: Order) -> Quote:
    """What a carrier wants."""
    return Quote(carrier=carrier, cents=_BASE[carrier] + 100 * len(order.lines))


@activity.defn
async def tax(order: Order) -> int:
    """In cents."""
    return round(order.cents * 0.21)
