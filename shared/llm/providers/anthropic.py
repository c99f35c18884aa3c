"""Anthropic's Messages API. Its input count leaves cached tokens out."""

from collections.abc import AsyncIterator, Collection
from typing import Any

from anthropic import AsyncAnthropic

from shared.config import ProviderConfig
from shared.domain.usage import Usage
from shared.errors import UnavailableError
from shared.llm.protocol import CALL_HEADER, Reply, Request, Stop
from shared.llm.providers.sdk import Requests, SdkBatches, SdkProvider, common

_ENDS = {"expired": "batch_expired", "canceled": "batch_cancelled"}
BLOCK = 4096  # letters; a vendor looks back over 20 blocks for one that it knows
_STOPS: dict[str | None, Stop] = {
    "end_turn": "end",
    "stop_sequence": "end",
    "max_tokens": "length",
    "refusal": "refusal",
    "tool_use": "tool",
    "model_context_window_exceeded": "context",
}


def connect(config: ProviderConfig) -> SdkProvider:
    """A connection to the Messages API."""
    # The SDK's retries sleep through `retry-after`, and its spans would double ours.
    client = AsyncAnthropic(api_key=config.api_key, base_url=config.base_url, max_retries=0, open_telemetry=False)
    create, count = client.messages.with_raw_response.create, client.messages.count_tokens
    batches = _batches(client.messages.batches)
    return SdkProvider(config.name, client, create, payload, read, "request-id", count, {"max_tokens"}, batches)


def _batches(vendor: Any) -> SdkBatches:
    """They carry no tag; their custom ids do, which are told with the results only."""

    async def submit(tag: str, requests: Requests) -> str:
        entries = [{"custom_id": name, "params": payload(one)} for name, one in requests.items()]
        return str((await vendor.create(requests=entries, extra_headers={CALL_HEADER: f"batch={tag}"})).id)

    async def is_it(raw: Any, tag: str, size: int) -> bool:
        if sum(raw.request_counts.to_dict().values()) != size:
            return False
        if not raw.results_url:
            raise UnavailableError(f"{raw.id} may be it, which its results would tell; it is {raw.processing_status}")
        return any([line.custom_id.startswith(tag) async for line in await vendor.results(raw.id)])

    async def answers(raw: Any, _names: Collection[str]) -> AsyncIterator[tuple[str, Any]]:
        async for line in await vendor.results(raw.id):
            result = line.result.to_dict(mode="json")
            word = _ENDS.get(result["type"]) or result.get("error", {}).get("error", {}).get("type")
            yield line.custom_id, result.get("message") or word

    def stage(raw: Any) -> tuple[bool, bool, int]:
        return raw.processing_status == "ended", bool(raw.cancel_initiated_at), raw.request_counts.succeeded

    return SdkBatches(vendor, submit, is_it, stage, answers)


def payload(request: Request) -> dict[str, Any]:
    """The arguments of `messages.create`."""
    system: dict[str, Any] = {"type": "text", "text": request.system}
    if request.cache:
        system["cache_control"] = _mark(request)
    arguments: dict[str, Any] = {
        **common(request),
        "max_tokens": request.max_output_tokens,
        "messages": [{"role": "user", "content": _content(request)}],
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


def read(body: Any, request_id: str | None, _request: Request | None = None) -> Reply:
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
