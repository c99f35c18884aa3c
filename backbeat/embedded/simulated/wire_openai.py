"""OpenAI Responses as its SDK 3.54 reads it. Input counts include what the cache read or wrote."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from backbeat.embedded.simulated.cache import LIFE
from backbeat.embedded.simulated.exchange import Answer, Ask, BadRequestError, Block
from shared.clock import wall

VENDOR = "openai"
_EFFORT_TOKENS = {"minimal": 32, "low": 64, "medium": 256, "high": 512, "xhigh": 1024, "max": 2048}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
_TYPES = {429: "requests", 500: "server_error", 503: "server_error"}
_BILLS_WRITES_FROM = (5, 6)  # gpt-5.6 and later price what enters the cache


def key(headers: Mapping[str, str]) -> str | None:
    """A bearer token."""
    return headers.get("authorization", "").removeprefix("Bearer ") or None


def parse(body: Any) -> Ask:
    """Read a request; the prefix order is schema, tools, instructions, input. Raises BadRequestError."""
    if not isinstance(body, dict):
        raise BadRequestError("The request body is not a JSON object")
    if not isinstance(body.get("model"), str):
        raise BadRequestError("Missing required parameter: 'model'.")
    form = (body.get("text") or {}).get("format") or {}
    schema = form.get("schema") if form.get("type") == "json_schema" else None
    first = [schema] if schema is not None else []
    blocks = [Block(json.dumps(part, separators=(",", ":"))) for part in [*first, *(body.get("tools") or ())]]
    if body.get("instructions"):
        blocks.append(Block(str(body["instructions"])))
    prompt = []
    for item in _items(body.get("input") or ""):
        texts = _blocks(item.get("content") or "")
        prompt += [block.text for block in texts if item.get("role", "user") == "user"]
        blocks += texts
    explicit = (body.get("prompt_cache_options") or {}).get("mode") == "explicit"
    effort = str((body.get("reasoning") or {}).get("effort"))
    return Ask(
        model=body["model"],
        blocks=tuple(blocks),
        prompt="\n".join(prompt),
        schema=schema,
        schema_name=str(form.get("name") or (schema or {}).get("title", "")),
        max_output=body.get("max_output_tokens"),
        stream=bool(body.get("stream")),
        thinking=_EFFORT_TOKENS.get(effort, 0),
        automatic=not explicit,
        bills_writes=_version(body["model"]) >= _BILLS_WRITES_FROM,
    )


def _items(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [item for item in given if isinstance(item, dict) and item.get("type", "message") == "message"]


def _blocks(content: Any) -> list[Block]:
    if isinstance(content, str):
        return [Block(content)]
    parts = [part for part in content if isinstance(part, dict)]
    return [Block(str(part.get("text", "")), LIFE if part.get("prompt_cache_breakpoint") else None) for part in parts]


def _version(model: str) -> tuple[int, int]:
    match = re.match(r"gpt-(\d+)(?:\.(\d+))?", model)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


def counted(input_tokens: int) -> dict[str, Any]:
    """The body of responses/input_tokens."""
    return {"object": "response.input_tokens", "input_tokens": input_tokens}


def document(answer: Answer) -> dict[str, Any]:
    """A `response`."""
    return _response(answer, "incomplete" if answer.stop == "length" else "completed")


def _response(answer: Answer, status: str) -> dict[str, Any]:
    usage, running = answer.usage, status == "in_progress"
    counts = {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }
    return {
        "id": answer.id,
        "object": "response",
        "created_at": int(answer.created),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": answer.model,
        "output": [] if running else [_message(answer)],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "metadata": {"simulated": "true"},
        "usage": None if running else counts,
    }


def _message(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"{answer.id}_m",
        "type": "message",
        "role": "assistant",
        "status": "incomplete" if answer.stop == "length" else "completed",
        "content": [_part(answer)],
    }


def _part(answer: Answer) -> dict[str, Any]:
    if answer.stop == "refusal":
        return {"type": "refusal", "refusal": "Simulated refusal"}
    return {"type": "output_text", "text": answer.text, "annotations": []}


def events(answer: Answer) -> Iterator[dict[str, Any]]:
    """A stream: the response begins, its one message grows, the response is complete."""
    for number, event in enumerate(_events(answer)):
        yield {**event, "sequence_number": number}


def _events(answer: Answer) -> Iterator[dict[str, Any]]:
    message, part = _message(answer), _part(answer)
    place = {"item_id": message["id"], "output_index": 0, "content_index": 0}
    empty = {**part, "text": ""} if "text" in part else {**part, "refusal": ""}
    kind, said = ("output_text", answer.text) if "text" in part else ("refusal", part["refusal"])
    extra: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
    started = {**message, "status": "in_progress", "content": []}
    yield {"type": "response.created", "response": _response(answer, "in_progress")}
    yield {"type": "response.in_progress", "response": _response(answer, "in_progress")}
    yield {"type": "response.output_item.added", "output_index": 0, "item": started}
    yield {"type": "response.content_part.added", **place, "part": empty}
    for piece in answer.pieces() if kind == "output_text" else [said]:
        yield {"type": f"response.{kind}.delta", **place, "delta": piece, **extra}
    yield {"type": f"response.{kind}.done", **place, "text" if extra else "refusal": said, **extra}
    yield {"type": "response.content_part.done", **place, "part": part}
    yield {"type": "response.output_item.done", "output_index": 0, "item": message}
    final = document(answer)
    yield {"type": f"response.{final['status']}", "response": final}


def error(status: int, code: str, message: str, request_id: str) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`; `insufficient_quota` is its own type."""
    code = code or _CODES.get(status, "")
    kind = code if code == "insufficient_quota" else _TYPES.get(status, "invalid_request_error")
    kind = "server_error" if status >= 500 else kind
    message = f"{message} (request id {request_id})"
    return {"error": {"message": message, "type": kind, "param": None, "code": code or None}}


def too_long(input_tokens: int, window: int) -> tuple[str, str]:
    """The code every client branches on."""
    words = f"Your input exceeds the context window of this model: {input_tokens} tokens, maximum {window}."
    return "context_length_exceeded", words


def headers(request_id: str, left: Mapping[str, int], limits: Mapping[str, int]) -> dict[str, str]:
    """`x-request-id` and `x-ratelimit-*`; resets are durations such as `31s`."""
    reset = f"{60 - wall().second}s"
    found = {"x-request-id": request_id, "openai-organization": "simulated", "openai-version": "2020-10-01"}
    for name in ("requests", "tokens"):
        counts = ("requests",) if name == "requests" else ("input", "output")
        found[f"x-ratelimit-limit-{name}"] = str(sum(limits[count] for count in counts))
        found[f"x-ratelimit-remaining-{name}"] = str(sum(left[count] for count in counts))
        found[f"x-ratelimit-reset-{name}"] = reset
    return found
