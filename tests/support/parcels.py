"""A definition module: the orchestrations of tests/support/journeys.py, and the tasks that they fan out."""

from typing import Any

from pydantic import BaseModel, Field

from backbeat import Context, bounded_loop, orchestration


class Order(BaseModel):
    customer: str = Field(min_length=1)
    weight: int = 1
    tolerate: int | None = 0


class Sorted(BaseModel):
    shelf: str


async def _run(ctx: Context, order: Order) -> Any:
    return order


parcel = bounded_loop("parcel", version=1, input=Order, output=Order, tier="small", run=_run, attempts=1)
_JOURNEYS = (
    ("ship", "Ship"),
    ("ask_first", "AskFirst"),
    ("ask_abroad", "AskAbroad"),
    ("judge", "Judge"),
    ("spread", "Spread"),
    ("undo", "Undo"),
    ("catch", "Catch"),
    ("twice", "Twice"),
    ("rest", "Rest"),
)
globals().update(
    {
        name: orchestration(name, version=1, input=Order, workflow=f"tests.support.journeys:{cls}")
        for name, cls in _JOURNEYS
    }
)
