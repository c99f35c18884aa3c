"""What BACKBEAT_DEFINITIONS names: a task that ticks run, fifteen effects, and the orchestration."""

from decimal import Decimal

from backbeat import Context, bounded_loop, effect, orchestration
from examples.fulfilment.models import Line, Order, Picked
from examples.fulfilment.services import finds, posts

KINDS = (
    *("reserve", "release", "charge", "refund", "invoice", "credit", "declare", "withdraw"),
    *("label", "void", "pickup", "wrap", "ship", "mail", "book"),
)
effects = {kind: effect(kind, perform=posts(kind), read_back=finds(kind), timeout=2.0, settle=1.0) for kind in KINDS}
globals().update(effects)


async def _pick(_ctx: Context, line: Line) -> Picked:
    return Picked(sku=line.sku, shelf=f"{sum(line.sku.encode()) % 90:02}")


pick = bounded_loop("pick_line", version=1, input=Line, output=Picked, tier="small", run=_pick)

_CARRIERS = "examples.fulfilment.carriers"
fulfil = orchestration(
    "fulfil",
    version=1,
    input=Order,
    workflow="examples.fulfilment.workflow:Fulfil",
    activities=[f"{_CARRIERS}:check_address", f"{_CARRIERS}:quote", f"{_CARRIERS}:tax"],
    max_usd=Decimal("0.05"),
)
