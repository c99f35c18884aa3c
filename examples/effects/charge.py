"""A charge. The far side takes our key as `Idempotency-Key` and as a reference it can be asked for."""

import os
from typing import Any

import httpx2
from pydantic import BaseModel

from backbeat import Context, EffectRefusedError, bounded_loop, effect

# Of what failed, these do not say that nothing was charged: it took too long, or the first request is still at work.
DOUBTFUL = {408, 409}


class Order(BaseModel):
    customer: str
    cents: int


class Charged(BaseModel):
    charge: str


def _client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=os.environ["EFFECTS_CHARGE_URL"], timeout=10.0)


async def _perform(request: dict[str, Any], key: str) -> dict[str, Any]:
    async with _client() as client:
        try:
            answer = await client.post("/charges", json={**request, "reference": key}, headers={"Idempotency-Key": key})
        except httpx2.ConnectError as error:
            raise EffectRefusedError(f"nothing was sent: {error}") from error
    if answer.is_client_error and answer.status_code not in DOUBTFUL:
        raise EffectRefusedError(f"the charge was refused: {answer.status_code} {answer.text[:200]}")
    answer.raise_for_status()
    return {"charge": answer.json()["id"]}


async def _read_back(_request: dict[str, Any], key: str) -> dict[str, Any] | None:
    """Ask for our reference, not once more with the key: far sides forget keys after a day, references never."""
    async with _client() as client:
        answer = await client.get("/charges", params={"reference": key})
    answer.raise_for_status()
    return next(({"charge": one["id"]} for one in answer.json()), None)


async def _run(ctx: Context, order: Order) -> Charged:
    return Charged(**await ctx.effect("charge", "charge", order.model_dump()))


charge = effect("charge", perform=_perform, read_back=_read_back, timeout=10.0, settle=30.0)
charge_order = bounded_loop("charge_order", version=1, input=Order, output=Charged, tier="small", run=_run)
