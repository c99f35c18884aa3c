"""Anthropic's Messages API. Its input count leaves cached tokens out."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx2
from anthropic import AsyncAnthropic
from anthropic.resources.messages import AsyncMessages

from shared.config import ProviderConfig
from shared.domain.usage import Usage
from shared.llm.protocol import CONNECT_SECONDS, Reply, Request, Stop, UnreadableReplyError

BLOCK = 4096  # letters; a vendor looks back over 20 blocks for one that it knows
_STOPS: dict[str | None, Stop] = {
    "end_turn": "end",
    "stop_sequence": "end",
    "max_tokens": "length",
    "refusal": "refusal",
    "tool_use": "tool",
    "model_context_window_exceeded": "context",
}


class AnthropicProvider:
    """Sends requests to the Messages API."""

    def __init__(self, config: ProviderConfig) -> None:
        # The SDK's retries sleep through `retry-after`, and its spans would double ours.
        self._client = AsyncAnthropic(
            api_key=config.api_key, base_url=config.base_url, max_retries=0, open_telemetry=False
        )
        self._messages: AsyncMessages = self._client.messages

    async def send(self, request: Request) -> Reply:
        """Make the call, once; see `Provider.send`."""
        async with asyncio.timeout(request.timeout):
            raw = await self._messages.with_raw_response.create(**payload(request))
        try:
            return replace(read(raw.http_response.json(), raw.headers.get("request-id")), limits=raw.headers)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UnreadableReplyError(f"anthropic sent an unreadable reply: {error!r}") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


def payload(request: Request) -> dict[str, Any]:
    """The arguments of `messages.create`."""
    system: dict[str, Any] = {"type": "text", "text": request.system}
    if request.cache:
        system["cache_control"] = _mark(request)
    arguments: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_output_tokens,
        "messages": [{"role": "user", "content": _content(request)}],
        "extra_headers": request.wire_headers,
        "timeout": httpx2.Timeout(request.timeout, connect=min(CONNECT_SECONDS, request.timeout / 2)),
    }
    if request.system:
        arguments["system"] = [system]
    if request.schema:
        arguments["output_config"] = {"format": {"type": "json_schema", "schema": request.schema}}
    return arguments


def _content(request: Request) -> Any:
    """The prompt; one that grows in blocks of equal size, so that those of the call before are found in the cache."""
    whole = len(request.prompt) // BLOCK * BLOCK if request.grows and request.cache else 0
    if not whole:
        return request.prompt
    texts = [request.prompt[at : at + BLOCK] for at in range(0, len(request.prompt), BLOCK)]
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text} for text in texts]
    blocks[whole // BLOCK - 1]["cache_control"] = _mark(request)
    return blocks


def _mark(request: Request) -> dict[str, str]:
    return {"type": "ephemeral", **({"ttl": "1h"} if request.cache == "1h" else {})}


def read(body: Any, request_id: str | None) -> Reply:
    """A Messages response as a Reply. Raises LookupError, TypeError or AttributeError when it is none."""
    usage, stop = body["usage"], body.get("stop_reason")
    return Reply(
        text="".join(block["text"] for block in body["content"] if block["type"] == "text"),
        usage=Usage(
            uncached=int(usage["input_tokens"]),
            cache_read=usage.get("cache_read_input_tokens") or 0,
            cache_write=usage.get("cache_creation_input_tokens") or 0,
            output=int(usage["output_tokens"]),
            reasoning=(usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0,
        ),
        stop=_STOPS.get(stop, "unknown"),
        model=body["model"],
        response_id=body["id"],
        request_id=request_id,
        detail=(body.get("stop_details") or {}).get("category") or stop or "",
    )
