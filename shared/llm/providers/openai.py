"""OpenAI's Responses API. Its input count includes cached tokens."""

import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from openai import AsyncOpenAI

from shared.config import ProviderConfig
from shared.domain.usage import Usage
from shared.llm.protocol import CALL_HEADER, Reply, Request, Stop
from shared.llm.providers.sdk import Requests, SdkBatches, SdkProvider, common

_UNCOUNTED = {"max_output_tokens", "store", "prompt_cache_key"}
_INCOMPLETE: dict[str | None, Stop] = {"max_output_tokens": "length", "content_filter": "refusal"}


def connect(config: ProviderConfig) -> SdkProvider:
    """A connection to the Responses API."""
    # The SDK's retries sleep through `retry-after`.
    client = AsyncOpenAI(api_key=config.api_key, base_url=config.base_url, max_retries=0)
    create, count = client.responses.with_raw_response.create, client.responses.input_tokens.count
    more: dict[str, Any] = {"batches": file_batches(client, "/v1/responses", payload), "uncounted": _UNCOUNTED}
    return SdkProvider(config.name, client, create, payload, read, counter=count, **more)


def file_batches(client: AsyncOpenAI, url: Any, payload: Callable[[Request], dict[str, Any]]) -> SdkBatches:
    """The batches of this vendor, and of who speaks like it: a file in, two out. The metadata has the tag."""

    async def submit(tag: str, requests: Requests) -> str:
        head = {"method": "POST", "url": url}
        lines = [json.dumps(head | {"custom_id": name, "body": payload(one)}) for name, one in requests.items()]
        file = await client.files.create(file=(f"{tag}.jsonl", "\n".join(lines).encode()), purpose="batch")
        named: dict[str, Any] = {"metadata": {"tag": tag}, "extra_headers": {CALL_HEADER: f"batch={tag}"}}
        made = client.batches.create(completion_window="24h", endpoint=url, input_file_id=file.id, **named)
        return (await made).id

    async def is_it(raw: Any, tag: str, _size: int) -> bool:
        return (raw.metadata or {}).get("tag") == tag

    async def answers(raw: Any, names: Collection[str]) -> AsyncIterator[tuple[str, Any]]:
        # A file that did not pass names its bad lines; the others were not tried either.
        bad = {error.line: error.code for error in (raw.errors and raw.errors.data) or ()}
        for line, name in enumerate(names if raw.status == "failed" else (), 1):
            yield name, bad.get(line) or ("batch_failed" if any(bad) else "invalid_file")
        for file in filter(None, (raw.output_file_id, raw.error_file_id)):
            for told in map(json.loads, (await client.files.content(file)).text.splitlines()):
                response = told.get("response") or {"body": None}
                error = told.get("error") or (response["body"] or {}).get("error") or {}
                word = str(error.get("code") or error.get("type") or response.get("status_code"))
                yield told["custom_id"], response["body"] if response.get("status_code") == 200 else word

    def stage(raw: Any) -> tuple[bool, bool, int]:
        ended = raw.status in ("completed", "failed", "expired", "cancelled")
        return ended, bool(raw.cancelling_at), raw.request_counts.completed if raw.request_counts else 0

    return SdkBatches(client.batches, submit, is_it, stage, answers)


def payload(request: Request) -> dict[str, Any]:
    """The arguments of `responses.create`."""
    arguments: dict[str, Any] = {
        **common(request),
        "max_output_tokens": request.max_output_tokens,
        "input": request.prompt,
        "store": False,
    }
    if request.system:
        arguments["instructions"] = request.system
        if request.cache:
            arguments["prompt_cache_key"] = hashlib.sha256(request.system.encode()).hexdigest()[:32]
    if request.schema:
        arguments["text"] = {"format": {"type": "json_schema", **named_schema(request)}}
    return arguments


def named_schema(request: Request) -> dict[str, Any]:
    """The schema as this vendor's APIs want it."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", request.schema_name)[:64]
    return {"name": name, "schema": request.schema, "strict": True}


def read(body: Any, request_id: str | None, _request: Request | None = None) -> Reply:
    """A Responses response as a Reply. Raises LookupError, TypeError or AttributeError when it is none."""
    parts = [part for item in body["output"] if item["type"] == "message" for part in item["content"]]
    refusals = [part["refusal"] for part in parts if part["type"] == "refusal"]
    stop, detail = _stop(body)
    return Reply(
        text="".join(part["text"] for part in parts if part["type"] == "output_text") or "".join(refusals),
        usage=_usage(body["usage"]) if body.get("usage") or stop != "error" else Usage(),
        stop="refusal" if refusals else stop,
        model=body["model"],
        response_id=body["id"],
        request_id=request_id,
        detail=detail,
    )


def _stop(body: Any) -> tuple[Stop, str]:
    status = body["status"]
    if status == "incomplete":
        reason = (body.get("incomplete_details") or {}).get("reason")
        return _INCOMPLETE.get(reason, "unknown"), reason or status
    if status == "failed":
        return "error", (body.get("error") or {}).get("code") or status
    if status != "completed":
        return "unknown", status
    return ("tool" if any(item["type"].endswith("_call") for item in body["output"]) else "end"), status


def _usage(usage: Any) -> Usage:
    details = usage.get("input_tokens_details") or {}
    read, write = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    return Usage(
        uncached=max(0, usage["input_tokens"] - read - write),
        cache_read=read,
        cache_write=write,
        output=int(usage["output_tokens"]),
        reasoning=(usage.get("output_tokens_details") or {}).get("reasoning_tokens") or 0,
    )
