"""What the adapters share: a call is one HTTP request through the vendor's SDK, which holds the pool of connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx2

from shared.errors import UnavailableError
from shared.llm.protocol import CONNECT_SECONDS, Reply, Request, UnreadableReplyError

Requests = Mapping[str, Request]  # by custom id, each of which begins with the tag of their batch


@dataclass(frozen=True, slots=True)
class SdkBatches:
    """A vendor's batches, by the names of its SDK: `vendor` has retrieve, list and cancel.

    `submit(tag, requests)` makes one and returns its id; `is_it(raw, tag, size)` says whether one of a list is that, or
    raises UnavailableError; `stage(raw)` is whether it ended, whether it was cancelled, and how many answers it has.
    `answers(raw, custom ids)` gives, by custom id, what `read` takes, or the vendor's word for why there is nothing.
    """

    vendor: Any
    submit: Callable[[str, Requests], Awaitable[str]]
    is_it: Callable[[Any, str, int], Awaitable[bool]]
    stage: Callable[[Any], tuple[bool, bool, int]]
    answers: Callable[[Any, Collection[str]], AsyncIterator[tuple[str, Any]]]

    async def find(self, tag: str, size: int, since: float, others: Collection[str]) -> str | None:
        """The batch of this tag, made after `since` (epoch seconds) and none of `others`; None: surely there is none.

        Raises UnavailableError when it cannot be told, or not yet.
        """
        newest, doubt = float("-inf"), None
        async for one in self.vendor.list(limit=100):
            made = float(getattr(one.created_at, "timestamp", lambda at=one.created_at: at)())
            if made < min(since, newest := max(newest, made)):
                break  # the newest came first, then, and the rest is older still
            try:
                if made >= since and one.id not in others and await self.is_it(one, tag, size):
                    return str(one.id)
            except UnavailableError as error:
                doubt = error
        if doubt:
            raise doubt
        return None


@dataclass(frozen=True, slots=True, eq=False)
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
    batches: SdkBatches | None = None

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
    """Arguments that every SDK takes, and in a batch, which has no timeout, those of the call alone."""
    if not request.timeout:
        return {"model": request.model}
    timeout = httpx2.Timeout(request.timeout, connect=min(CONNECT_SECONDS, request.timeout / 2))
    return {"model": request.model, "extra_headers": request.wire_headers, "timeout": timeout}
