"""Anthropic Messages as its SDK 2.12 reads it. Input counts exclude what the cache read or wrote."""

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from backbeat.embedded.simulated.cache import HOUR, LIFE
from backbeat.embedded.simulated.exchange import Answer, Ask, BadRequestError, Block
from shared.clock import wall

VENDOR = "anthropic"
_STOPS = {"end": "end_turn", "length": "max_tokens", "refusal": "refusal"}
_EFFORT_TOKENS = {"low": 0, "medium": 0, "high": 256, "xhigh": 512, "max": 1024}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def key(headers: Mapping[str, str]) -> str | None:
    """`x-api-key`, or a bearer token."""
    return headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ") or None


def parse(body: Any) -> Ask:
    """Read a request; the prefix order is schema, tools, system, messages. Raises BadRequestError."""
    if not isinstance(body, dict):
        raise BadRequestError("The request body is not a JSON object")
    for name, kind in (("model", str), ("messages", list)):
        if not isinstance(body.get(name), kind):
            raise BadRequestError(f"{name}: Field required")
    config = body.get("output_config") or {}
    form = config.get("format") or {}
    schema = form.get("schema") if form.get("type") == "json_schema" else None
    blocks = [Block(json.dumps(part, separators=(",", ":")), _mark(part)) for part in body.get("tools") or ()]
    if schema is not None:
        blocks.insert(0, Block(json.dumps(schema, separators=(",", ":"))))
    blocks += _blocks(body.get("system") or ())
    prompt = []
    for message in body["messages"]:
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise BadRequestError("messages: each needs a role and content")
        texts = _blocks(message.get("content") or ())
        prompt += [block.text for block in texts if message["role"] == "user"]
        blocks += texts
    if body.get("cache_control") and blocks:
        blocks[-1] = Block(blocks[-1].text, _mark(body))
    thinking = (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
    return Ask(
        model=body["model"],
        blocks=tuple(blocks),
        prompt="\n".join(prompt),
        schema=schema,
        schema_name=str((schema or {}).get("title", "")),
        max_output=body.get("max_tokens"),
        stream=bool(body.get("stream")),
        thinking=_EFFORT_TOKENS.get(config.get("effort") or "high", 0) if thinking else 0,
    )


def _blocks(content: Any) -> list[Block]:
    if isinstance(content, str):
        return [Block(content)]
    return [Block(str(part.get("text", "")), _mark(part)) for part in content if isinstance(part, dict)]


def _mark(part: dict[str, Any]) -> float | None:
    control = part.get("cache_control")
    if not control:
        return None
    return HOUR if control.get("ttl") == "1h" else LIFE


def counted(input_tokens: int) -> dict[str, Any]:
    """The body of count_tokens."""
    return {"input_tokens": input_tokens}


def document(answer: Answer) -> dict[str, Any]:
    """A `message`."""
    return {
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [{"type": "text", "text": answer.text}],
        "stop_reason": _STOPS[answer.stop],
        "stop_sequence": None,
        "stop_details": _stop_details(answer),
        "usage": _usage(answer),
    }


def _stop_details(answer: Answer) -> dict[str, Any] | None:
    if answer.stop != "refusal":
        return None
    return {"type": "refusal", "category": "general_harms", "explanation": "Simulated refusal"}


def _usage(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    return {
        "input_tokens": usage.uncached,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write - answer.hour_writes,
            "ephemeral_1h_input_tokens": answer.hour_writes,
        },
        "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
        "service_tier": "standard",
    }


def events(answer: Answer) -> Iterator[dict[str, Any]]:
    """A stream: the message without its text, the text in pieces, then stop reason and usage."""
    begin = {**document(answer), "content": [], "stop_reason": None, "stop_details": None}
    yield {"type": "message_start", "message": {**begin, "usage": {**_usage(answer), "output_tokens": 1}}}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "ping"}
    for piece in answer.pieces():
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
    yield {"type": "content_block_stop", "index": 0}
    delta = {"stop_reason": _STOPS[answer.stop], "stop_sequence": None, "stop_details": _stop_details(answer)}
    yield {"type": "message_delta", "delta": delta, "usage": _usage(answer)}
    yield {"type": "message_stop"}


def error(status: int, code: str, message: str, request_id: str) -> dict[str, Any]:
    """`{"type": "error", "error": {"type", "message", "details"}}`; `code` becomes the details' error_code."""
    kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    details = {"error_code": code} if code else None
    return {
        "type": "error",
        "error": {"type": kind, "message": message, "details": details},
        "request_id": request_id,
    }


def too_long(input_tokens: int, window: int) -> tuple[str, str]:
    """There is no code for it, only these words."""
    return "", f"prompt is too long: {input_tokens} tokens > {window} maximum"


def headers(request_id: str, left: Mapping[str, int], limits: Mapping[str, int]) -> dict[str, str]:
    """`request-id` and `anthropic-ratelimit-*`, which are over at the end of the minute."""
    reset = (wall().replace(second=0, microsecond=0) + timedelta(minutes=1)).isoformat().replace("+00:00", "Z")
    found = {"request-id": request_id, "anthropic-organization-id": "simulated"}
    for name, count in (("requests", "requests"), ("input-tokens", "input"), ("output-tokens", "output")):
        found[f"anthropic-ratelimit-{name}-limit"] = str(limits[count])
        found[f"anthropic-ratelimit-{name}-remaining"] = str(left[count])
        found[f"anthropic-ratelimit-{name}-reset"] = reset
    return found
