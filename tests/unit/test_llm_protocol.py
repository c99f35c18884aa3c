"""What each adapter sends and understands, and what importing them costs."""

import subprocess
import sys
from typing import Any
from urllib.parse import parse_qs

import pytest

from shared.config import ProviderConfig
from shared.domain.usage import Usage
from shared.errors import ConfigError
from shared.llm.protocol import CALL_HEADER, Request, make_provider
from shared.llm.providers import anthropic, openai

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def request(**fields: Any) -> Request:
    return Request(**{"model": "m", "prompt": "p", "max_output_tokens": 9, "timeout": 30.0, **fields})


def test_importing_the_layer_loads_no_sdk() -> None:
    heavy = ("anthropic", "openai", "httpx2", "pydantic", "genai_prices", "opentelemetry", "asyncio")
    code = (
        "import sys\n"
        "from shared.llm import classify, prices, protocol, routes, structured\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
        "protocol.preload(['openai'])\n"
        "print('openai' in sys.modules, 'anthropic' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == ["[]", "True False"]


def test_the_call_header_survives_any_text() -> None:
    headers = request(
        metadata={"call": "comments:src/ä b.py", "task": "1&2=3"}, headers={"x-fault": "429"}
    ).wire_headers
    assert headers["x-fault"] == "429"
    assert headers[CALL_HEADER].isascii()
    assert parse_qs(headers[CALL_HEADER]) == {"call": ["comments:src/ä b.py"], "task": ["1&2=3"]}
    assert request().wire_headers == {}


def test_anthropic_payload() -> None:
    plain = anthropic.payload(request())
    assert plain["messages"] == [{"role": "user", "content": "p"}]
    assert plain["max_tokens"] == 9
    assert (plain["timeout"].read, plain["timeout"].connect) == (30.0, 5.0)
    assert not plain.keys() & {"system", "output_config"}
    full = anthropic.payload(request(system="s", schema=SCHEMA))
    assert full["system"] == [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]
    assert full["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert anthropic.payload(request(system="s", cache="1h"))["system"][0]["cache_control"]["ttl"] == "1h"
    assert anthropic.payload(request(system="s", cache=None))["system"] == [{"type": "text", "text": "s"}]


def test_openai_payload() -> None:
    plain = openai.payload(request())
    assert (plain["input"], plain["max_output_tokens"], plain["store"]) == ("p", 9, False)
    assert not plain.keys() & {"instructions", "prompt_cache_key", "text"}
    full = openai.payload(request(system="s", schema=SCHEMA, schema_name="Code review: ä" + "x" * 99))
    assert full["instructions"] == "s"
    assert full["text"]["format"]["strict"] is True
    assert full["text"]["format"]["schema"] == SCHEMA
    assert full["text"]["format"]["name"].startswith("Code_review___x")
    assert len(full["text"]["format"]["name"]) == 64
    same, other = (openai.payload(request(system=system, prompt="q"))["prompt_cache_key"] for system in ("s", "t"))
    assert full["prompt_cache_key"] == same != other
    assert "prompt_cache_key" not in openai.payload(request(system="s", cache=None))


def message(**fields: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "model": "claude-x",
        "content": [
            {"type": "thinking", "thinking": "hm"},
            {"type": "text", "text": "a"},
            {"type": "text", "text": "b"},
        ],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 10, "output_tokens": 3},
        **fields,
    }


def test_anthropic_counts_exclude_the_cache() -> None:
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 200,
        "cache_creation_input_tokens": 30,
        "output_tokens": 8,
        "output_tokens_details": {"thinking_tokens": 5},
    }
    reply = anthropic.read(message(usage=usage), "req_1")
    assert reply.usage == Usage(uncached=10, cache_read=200, cache_write=30, output=8, reasoning=5)
    assert (reply.text, reply.stop, reply.model) == ("ab", "end", "claude-x")
    assert (reply.response_id, reply.request_id) == ("msg_1", "req_1")
    nulls = {"input_tokens": 1, "cache_read_input_tokens": None, "output_tokens": 2, "output_tokens_details": None}
    assert anthropic.read(message(usage=nulls), None).usage == Usage(uncached=1, output=2)


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("end_turn", "end"),
        ("stop_sequence", "end"),
        ("max_tokens", "length"),
        ("tool_use", "tool"),
        ("model_context_window_exceeded", "context"),
        ("pause_turn", "unknown"),
        ("a_new_one", "unknown"),
        (None, "unknown"),
    ],
)
def test_anthropic_stops(reason: str | None, stop: str) -> None:
    reply = anthropic.read(message(stop_reason=reason), None)
    assert (reply.stop, reply.detail) == (stop, reason or "")


def test_anthropic_refusal_names_its_category() -> None:
    reply = anthropic.read(message(stop_reason="refusal", stop_details={"type": "refusal", "category": "cyber"}), None)
    assert (reply.stop, reply.detail) == ("refusal", "cyber")


def response(**fields: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "model": "gpt-x",
        "status": "completed",
        "output": [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "ab"}]}],
        "usage": {"input_tokens": 10, "output_tokens": 3},
        **fields,
    }


def test_openai_counts_include_the_cache() -> None:
    usage = {
        "input_tokens": 240,
        "input_tokens_details": {"cached_tokens": 200, "cache_write_tokens": 30},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 5},
    }
    reply = openai.read(response(usage=usage), "req_1")
    assert reply.usage == Usage(uncached=10, cache_read=200, cache_write=30, output=8, reasoning=5)
    assert (reply.text, reply.stop, reply.model) == ("ab", "end", "gpt-x")
    assert (reply.response_id, reply.request_id) == ("resp_1", "req_1")
    assert openai.read(response(), None).usage == Usage(uncached=10, output=3)


@pytest.mark.parametrize(
    ("fields", "stop", "detail"),
    [
        ({}, "end", "completed"),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            "length",
            "max_output_tokens",
        ),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "refusal", "content_filter"),
        ({"status": "incomplete", "incomplete_details": {"reason": "steered"}}, "unknown", "steered"),
        ({"status": "incomplete", "incomplete_details": None}, "unknown", "incomplete"),
        ({"status": "failed", "error": {"code": "server_error"}, "usage": None}, "error", "server_error"),
        ({"status": "failed", "error": None}, "error", "failed"),
        ({"status": "cancelled"}, "unknown", "cancelled"),
        ({"output": [{"type": "function_call"}]}, "tool", "completed"),
    ],
)
def test_openai_stops(fields: dict[str, Any], stop: str, detail: str) -> None:
    reply = openai.read(response(**fields), None)
    assert (reply.stop, reply.detail) == (stop, detail)
    assert reply.usage == (Usage() if fields.get("usage", 1) is None else Usage(uncached=10, output=3))


def test_openai_refusal_is_a_part_of_the_message() -> None:
    refusal = [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]
    reply = openai.read(response(output=refusal), None)
    assert (reply.stop, reply.text) == ("refusal", "no")


@pytest.mark.parametrize(
    "body", [None, [], "text", {}, message(usage=None), message(content=None), message(usage={"input_tokens": "?"})]
)
def test_a_body_that_is_no_message_is_not_read(body: Any) -> None:
    with pytest.raises((LookupError, TypeError, AttributeError, ValueError)):
        anthropic.read(body, None)


@pytest.mark.parametrize("body", [None, [], {}, response(usage=None), response(output=None), response(usage={"a": 1})])
def test_a_body_that_is_no_response_is_not_read(body: Any) -> None:
    with pytest.raises((LookupError, TypeError, AttributeError, ValueError)):
        openai.read(body, None)


def test_make_provider_refuses_what_it_cannot_reach() -> None:
    with pytest.raises(ConfigError, match=r"provider 'anthropic' has no API key\. Set ANTHROPIC_API_KEY"):
        make_provider(ProviderConfig("anthropic"))
    with pytest.raises(ConfigError, match="no provider is called 'acme'"):
        make_provider(ProviderConfig("acme", api_key="k"))
