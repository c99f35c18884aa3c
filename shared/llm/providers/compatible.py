"""Chat Completions as many speak it: OpenRouter, Gemini's compatible endpoint, vLLM, llama.cpp.

Its input count includes cached tokens. What an endpoint can do is said by the route's capabilities.
"""

import json
import zlib
from typing import Any

from openai import AsyncOpenAI

from shared.config import ProviderConfig
from shared.domain.usage import Usage
from shared.llm.prices import upper_tokens
from shared.llm.protocol import Reply, Request, Stop
from shared.llm.providers.openai import file_batches, named_schema
from shared.llm.providers.sdk import SdkProvider, common

_STOPS: dict[str | None, Stop] = {
    "stop": "end",
    "length": "length",
    "content_filter": "refusal",
    "tool_calls": "tool",
    "function_call": "tool",
    "error": "error",
}
_TELL = "Answer with one JSON object that fits this JSON Schema, and nothing else:"


def connect(config: ProviderConfig) -> SdkProvider:
    """A connection to the endpoint at `config.base_url`; one of the house's own may want no key."""
    # The SDK's retries sleep through `retry-after`.
    client = AsyncOpenAI(api_key=config.api_key or "none", base_url=config.base_url, max_retries=0)
    create, batches = client.chat.completions, file_batches(client, "/v1/chat/completions", payload)
    return SdkProvider(config.name, client, create.with_raw_response.create, payload, read, batches=batches)


def payload(request: Request) -> dict[str, Any]:
    """The arguments of `chat.completions.create`."""
    able, system, form = request.capabilities, request.system, None
    if request.schema and "json_schema" in able:
        form = {"type": "json_schema", "json_schema": named_schema(request)}
    elif request.schema:
        told = (
            f"Answer with one JSON object that fits this JSON Schema, and nothing else:\n{json.dumps(request.schema)}"
        )
        system = f"{system}\n\n{told}".lstrip()
        form = {"type": "json_object"} if "json_object" in able else None
    content: Any = system
    if "cache" in able and request.cache:
        mark = {"type": "ephemeral", **({"ttl": request.cache} if request.cache != "5m" else {})}
        content = [{"type": "text", "text": system, "cache_control": mark}]
    messages = [{"role": "system", "content": content}] if system else []
    limit = "max_completion_tokens" if "max_completion_tokens" in able else "max_tokens"
    seed = {"seed": zlib.crc32("\0".join(request.texts).encode()) >> 1} if "seed" in able else {}
    return {
        **common(request),
        "messages": [*messages, {"role": "user", "content": request.prompt}],
        limit: request.max_output_tokens,
        **seed,
        **({"response_format": form} if form else {}),
    }


def read(body: Any, request_id: str | None, request: Request) -> Reply:
    """A chat completion as a Reply. Raises LookupError, TypeError or AttributeError when it is none."""
    error: Any = body.get("error")  # where a 200 was sent before the model failed
    choice: Any = body["choices"][0] if body.get("choices") or not error else {"finish_reason": "error"}
    message, error = choice.get("message") or {}, error or choice.get("error") or {}
    text, refusal, stop = message.get("content") or "", message.get("refusal"), choice.get("finish_reason")
    if body.get("usage"):
        usage = _usage(body["usage"])
    elif error:
        usage = Usage()
    elif "usage" in request.capabilities:
        raise LookupError("usage")
    else:
        # Nobody counted: what it can have been at most.
        usage = Usage(uncached=upper_tokens(*request.texts), output=upper_tokens(text))
    return Reply(
        text=text or refusal or "",
        usage=usage,
        stop="error" if error else "refusal" if refusal else _STOPS.get(stop, "unknown"),
        model=body.get("model") or request.model,
        response_id=body.get("id") or "",
        request_id=request_id,
        detail=str(error.get("code") or stop or ""),
    )


def _usage(usage: Any) -> Usage:
    """Gemini leaves thinking out of the completion's count, though not out of the total."""
    details, made = usage.get("prompt_tokens_details") or {}, int(usage["completion_tokens"])
    cached, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    output = max(made, (usage.get("total_tokens") or 0) - usage["prompt_tokens"])
    return Usage(
        uncached=max(0, usage["prompt_tokens"] - cached - written),
        cache_read=cached,
        cache_write=written,
        output=output,
        reasoning=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or output - made,
    )
