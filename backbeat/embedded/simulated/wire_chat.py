"""OpenAI-compatible Chat Completions as the openai SDK 3.54 reads them. Input counts include the cache."""

import json
from collections.abc import Iterator
from typing import Any

from backbeat.embedded.simulated import wire_openai
from backbeat.embedded.simulated.cache import HOUR, LIFE
from backbeat.embedded.simulated.exchange import Answer, Ask, BadRequestError, Block
from shared.domain.usage import Usage

VENDOR = "compatible"
_STOPS = {"end": "stop", "length": "length", "refusal": "content_filter"}
_TOLD = "JSON Schema"  # what a client that cannot send a schema calls the one it writes down

key = wire_openai.key
error = wire_openai.error
too_long = wire_openai.too_long
headers = wire_openai.headers


def parse(body: Any) -> Ask:
    """Read a request; the prefix order is schema, tools, messages. Raises BadRequestError."""
    if not isinstance(body, dict):
        raise BadRequestError("The request body is not a JSON object")
    for name, kind in (("model", str), ("messages", list)):
        if not isinstance(body.get(name), kind):
            raise BadRequestError(f"Missing required parameter: '{name}'.")
    form = body.get("response_format") or {}
    named = form.get("json_schema") or {} if form.get("type") == "json_schema" else {}
    first = [named["schema"]] if "schema" in named else []
    blocks = [Block(json.dumps(part, separators=(",", ":"))) for part in [*first, *(body.get("tools") or ())]]
    prompt, told = [], None
    for message in body["messages"]:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequestError("messages: each needs a role and content")
        texts = _blocks(message.get("content") or "")
        if message["role"] == "user":
            prompt += [block.text for block in texts]
        elif message["role"] == "system" and not first:
            told = _told(" ".join(block.text for block in texts))
        blocks += texts
    schema = named.get("schema", told)
    return Ask(
        model=body["model"],
        blocks=tuple(blocks),
        prompt="\n".join(prompt),
        schema=schema,
        schema_name=str(named.get("name") or (schema or {}).get("title", "")),
        max_output=body.get("max_completion_tokens", body.get("max_tokens")),
        stream=bool(body.get("stream")),
        thinking=0,
        automatic=not any(block.cache_seconds for block in blocks),
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


def _told(text: str) -> dict[str, Any] | None:
    """The schema at the end of a system prompt that asks for JSON in words."""
    start = text.find("{", text.find(_TOLD)) if _TOLD in text else -1
    try:
        found = json.loads(text[start:]) if start >= 0 else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def counted(input_tokens: int) -> dict[str, Any]:
    """Nobody who speaks this counts beforehand."""
    raise BadRequestError(f"There is no counting here, though these are {input_tokens} tokens")


def document(answer: Answer) -> dict[str, Any]:
    """A `chat.completion`."""
    refused = answer.stop == "refusal"
    message = {"role": "assistant", "content": None if refused else answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _STOPS[answer.stop]}
    return {**_frame(answer, "chat.completion"), "choices": [choice], "usage": _usage(answer.usage)}


def _frame(answer: Answer, kind: str) -> dict[str, Any]:
    return {"id": answer.id, "object": kind, "created": int(answer.created), "model": answer.model}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "completion_tokens": usage.output,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


def events(answer: Answer) -> Iterator[dict[str, Any]]:
    """A stream: the text in pieces, then the reason it ended, then the usage."""
    frame = _frame(answer, "chat.completion.chunk")
    for number, piece in enumerate(answer.pieces()):
        delta = {"content": piece} | ({"role": "assistant"} if number == 0 else {})
        yield {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": _STOPS[answer.stop]}]}
    yield {**frame, "choices": [], "usage": _usage(answer.usage)}
