"""What the adapters share: a call is one HTTP request through the vendor's SDK, which holds the pool of connections."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import httpx2

from shared.llm.protocol import CONNECT_SECONDS, Reply, Request, UnreadableReplyError


@dataclass(frozen=True, slots=True)
class SdkProvider:
    """One vendor, by the names of its SDK.

    `read` raises LookupError, TypeError, ValueError or AttributeError for what is no answer. `counter` takes what
    `create` takes, without `uncounted`.
    """

    name: str
    client: Any
    create: Callable[..., Awaitable[Any]]
    payload: Callable[[Request], dict[str, Any]]
    read: Callable[[Any, str | None, Request], Reply]
    id_header: str = "x-request-id"
    counter: Callable[..., Awaitable[Any]] | None = None
    uncounted: Collection[str] = ()

    async def send(self, request: Request) -> Reply:
        """Make the call, once; see `Provider.send`."""
        async with asyncio.timeout(request.timeout):
            raw = await self.create(**self.payload(request))
        try:
            reply = self.read(raw.http_response.json(), raw.headers.get(self.id_header), request)
            return replace(reply, limits=raw.headers)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UnreadableReplyError(f"{self.name} sent an unreadable reply: {error!r}") from error

    async def count(self, request: Request) -> int | None:
        """The input tokens of a request, which is not made; None where the vendor does not say."""
        if self.counter is None:
            return None
        asked = {key: value for key, value in self.payload(request).items() if key not in self.uncounted}
        return int((await self.counter(**asked)).input_tokens)

    async def aclose(self) -> None:
        """Close the connections."""
        await self.client.close()


def common(request: Request) -> dict[str, Any]:
    """Arguments that every SDK takes."""
    timeout = httpx2.Timeout(request.timeout, connect=min(CONNECT_SECONDS, request.timeout / 2))
    return {"model": request.model, "extra_headers": request.wire_headers, "timeout": timeout}
