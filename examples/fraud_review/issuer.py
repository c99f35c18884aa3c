"""Asking the card's issuer to block a payment, once: our key goes along as a reference, by which it can be found."""

import os
from typing import Any

import httpx2

from backbeat import EffectRefusedError

URL = "FRAUD_ISSUER_URL"
_DOUBTFUL = (408, 409)  # of the refusals, those that do not say that nothing was blocked


async def block(request: dict[str, Any], key: str) -> dict[str, Any]:
    """Block the payment. Raises EffectRefusedError when it was certainly not blocked."""
    async with _client() as client:
        try:
            answer = await client.post("/blocks", json={**request, "reference": key})
        except httpx2.ConnectError as error:
            raise EffectRefusedError(f"nothing was sent: {error}") from error
    if answer.is_client_error and answer.status_code not in _DOUBTFUL:
        raise EffectRefusedError(f"the issuer refused: {answer.status_code} {answer.text[:200]}")
    answer.raise_for_status()
    return {"block": answer.json()["id"]}


async def find_block(_request: dict[str, Any], key: str) -> dict[str, Any] | None:
    """The block that carries our reference, or None when there is none."""
    async with _client() as client:
        answer = await client.get("/blocks", params={"reference": key})
    answer.raise_for_status()
    return next(({"block": one["id"]} for one in answer.json()), None)


def _client() -> httpx2.AsyncClient:
    url = os.environ.get(URL)
    if not url:
        raise EffectRefusedError("the issuer is not configured", fix=f"Set {URL}")
    return httpx2.AsyncClient(base_url=url, timeout=5.0)
