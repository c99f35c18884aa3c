"""What the adapters share: a call is one HTTP request through the vendor's SDK, which holds the pool of connections."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import httpx2

from shared.llm.protocol import CONNECT_SECONDS, Reply, Request, UnreadableReplyError


class SdkProvider:
    """One vendor, by the names of its SDK: what `create` is given, how its answer is read, what counts without asking.

    `read` raises LookupError, TypeError, ValueError or AttributeError for what is no answer. `count` takes what
    `create` takes, without `uncounted`.
    """

    def __init__(
        self,
        name: str,
        client: Any,
        create: Callable[..., Awaitable[Any]],
        payload: Callable[[Request], dict[str, Any]],
        read: Callable[[Any, str | None, Request], Reply],
        *,
        id_header: str = "x-request-id",
        count: Callable[..., Awaitable[Any]] | None = None,
        uncounted: Collection[str] = (),
    ) -> None:
        self.name, self._client, self._create, self._payload, self._read = name, client, create, payload, read
        self._id_header, self._count, self._uncounted = id_header, count, uncounted

    async def send(self, request: Request) -> Reply:
        """Make the call, once; see `Provider.send`."""
        async with asyncio.timeout(request.timeout):
            raw = await self._create(**self._payload(request))
        try:
            return self._read(raw.http_response.json(), raw.headers.get(self._id_header), request)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UnreadableReplyError(f"{self.name} sent an unreadable reply: {error!r}") from error

    async def count(self, request: Request) -> int | None:
        """See `Counting.count`."""
        if self._count is None:
            return None
        asked = {key: value for key, value in self._payload(request).items() if key not in self._uncounted}
        return int((await self._count(**asked)).input_tokens)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


def common(request: Request) -> dict[str, Any]:
    """Arguments that every SDK takes."""
    timeout = httpx2.Timeout(request.timeout, connect=min(CONNECT_SECONDS, request.timeout / 2))
    return {"model": request.model, "extra_headers": request.wire_headers, "timeout": timeout}
