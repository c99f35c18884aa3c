"""Writes to the shop's services, each once: our key goes along as a reference, by which it can be found."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2

from backbeat import EffectRefusedError

URL = "FULFILMENT_URL"
_DOUBTFUL = (408, 409)  # of the refusals, those that do not say that nothing was done


def posts(kind: str) -> Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]]:
    """A write of this kind. It raises EffectRefusedError when the service said no."""

    async def perform(request: dict[str, Any], key: str) -> dict[str, Any]:
        async with _client() as client:
            try:
                answer = await client.post(f"/{kind}", json={**request, "reference": key})
            except httpx2.ConnectError as error:
                raise EffectRefusedError(f"nothing was sent: {error}") from error
        if answer.is_client_error and answer.status_code not in _DOUBTFUL:
            raise EffectRefusedError(f"{kind} was refused: {answer.status_code} {answer.text[:200]}")
        answer.raise_for_status()
        return {"id": answer.json()["id"]}

    return perform


def finds(kind: str) -> Callable[[dict[str, Any], str], Awaitable[dict[str, Any] | None]]:
    """Looks for what carries our reference."""

    async def read_back(_request: dict[str, Any], key: str) -> dict[str, Any] | None:
        async with _client() as client:
            answer = await client.get(f"/{kind}", params={"reference": key})
        answer.raise_for_status()
        return next(({"id": one["id"]} for one in answer.json()), None)

    return read_back


def _client() -> httpx2.AsyncClient:
    url = os.environ.get(URL)
    if not url:
        raise EffectRefusedError("the shop's services are not configured", fix=f"Set {URL}")
    return httpx2.AsyncClient(base_url=url, timeout=5.0)
