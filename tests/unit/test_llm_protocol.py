"""What each adapter sends and understands, and what importing them costs."""

import json
import subprocess
import sys
from typing import Any
from urllib.parse import parse_qs

import pytest

from shared.config import ProviderConfig
from shared.domain.usage import Usage
from shared.errors import ConfigError
from shared.llm.protocol import CALL_HEADER, Request, make_provider
from shared.llm.providers import anthropic, compatible, openai

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


def completion(**fields: Any) -> dict[str, Any]:
    return {
        "id": "chat_1",
        "model": "some-model",
        "choices": [{"message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
        **fields,
    }


def choice(reason: str | None = "stop", **said: Any) -> list[dict[str, Any]]:
    return [{"message": {"content": "ab", **said}, "finish_reason": reason}]


def test_compatible_payload() -> None:
    plain = compatible.payload(request())
    assert plain["messages"] == [{"role": "user", "content": "p"}]
    assert plain["max_tokens"] == 9
    assert not plain.keys() & {"response_format", "seed", "max_completion_tokens", "store"}
    full = compatible.payload(request(system="s", schema=SCHEMA, schema_name="a b"))
    assert full["messages"][0] == {"role": "system", "content": "s"}
    named = {"name": "a_b", "schema": SCHEMA, "strict": True}
    assert full["response_format"] == {"type": "json_schema", "json_schema": named}
    marked = request(system="s", cache="1h", capabilities=("cache", "max_completion_tokens", "json_object"))
    sent = compatible.payload(marked)
    mark = {"type": "ephemeral", "ttl": "1h"}
    assert sent["messages"][0]["content"] == [{"type": "text", "text": "s", "cache_control": mark}]
    assert (sent["max_completion_tokens"], "max_tokens" in sent) == (9, False)
    seeds = [compatible.payload(request(prompt=p, capabilities=("seed",)))["seed"] for p in ("a", "a", "b")]
    assert seeds[0] == seeds[1] != seeds[2]
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_schema_that_an_endpoint_does_not_take_stands_at_the_end_of_the_prefix() -> None:
    told = compatible.payload(request(system="s", schema=SCHEMA, capabilities=()))
    assert told["messages"][0]["content"].startswith("s\n\nAnswer with one JSON object")
    assert told["messages"][0]["content"].endswith(json.dumps(SCHEMA))
    assert "response_format" not in told
    form = compatible.payload(request(schema=SCHEMA, capabilities=("json_object",)))["response_format"]
    assert form == {"type": "json_object"}


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        (
            {
                "prompt_tokens": 240,
                "completion_tokens": 8,
                "total_tokens": 248,
                "prompt_tokens_details": {"cached_tokens": 200, "cache_write_tokens": 30},
                "completion_tokens_details": {"reasoning_tokens": 5},
            },
            Usage(uncached=10, cache_read=200, cache_write=30, output=8, reasoning=5),
        ),
        # Gemini's: thinking is in the total alone.
        (
            {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 33},
            Usage(uncached=10, output=23, reasoning=20),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": None}, Usage(uncached=10, output=3)),
    ],
)
def test_compatible_counts_include_the_cache(usage: dict[str, Any], found: Usage) -> None:
    reply = compatible.read(completion(usage=usage), "req_1", request())
    assert reply.usage == found
    assert (reply.text, reply.stop, reply.model) == ("ab", "end", "some-model")
    assert (reply.response_id, reply.request_id) == ("chat_1", "req_1")


def test_an_endpoint_that_counts_nothing_is_billed_the_most_it_can_have_been() -> None:
    asked = request(prompt="p" * 100, capabilities=())
    usage = compatible.read(completion(usage=None), None, asked).usage
    assert usage.uncached >= 100
    assert usage.output >= len("ab")
    with pytest.raises(LookupError):
        compatible.read(completion(usage=None), None, request())


@pytest.mark.parametrize(
    ("fields", "stop", "detail"),
    [
        ({"choices": choice("stop")}, "end", "stop"),
        ({"choices": choice("length")}, "length", "length"),
        ({"choices": choice("content_filter", content=None)}, "refusal", "content_filter"),
        ({"choices": choice("stop", refusal="no", content=None)}, "refusal", "stop"),
        ({"choices": choice("tool_calls", content=None)}, "tool", "tool_calls"),
        ({"choices": choice("function_call", content=None)}, "tool", "function_call"),
        ({"choices": choice("a_new_one")}, "unknown", "a_new_one"),
        ({"choices": choice(None)}, "unknown", ""),
        ({"choices": [{"error": {"code": 502}, "finish_reason": "error"}]}, "error", "502"),
        ({"choices": [], "error": {"code": 429, "message": "slow"}, "usage": None}, "error", "429"),
    ],
)
def test_compatible_stops(fields: dict[str, Any], stop: str, detail: str) -> None:
    reply = compatible.read(completion(**fields), None, request())
    assert (reply.stop, reply.detail) == (stop, detail)
    assert reply.usage == (Usage() if fields.get("usage", 1) is None else Usage(uncached=10, output=3))


def test_a_bare_error_behind_a_200_is_a_failed_reply() -> None:
    reply = compatible.read({"error": {"code": 503, "message": "overloaded"}}, "req", request())
    assert (reply.stop, reply.detail, reply.model, reply.usage) == ("error", "503", "m", Usage())


@pytest.mark.parametrize(
    "body", [None, [], "text", {}, completion(choices=None), completion(choices=[]), completion(usage={"a": 1})]
)
def test_a_body_that_is_no_completion_is_not_read(body: Any) -> None:
    with pytest.raises((LookupError, TypeError, AttributeError, ValueError)):
        compatible.read(body, None, request())


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


async def test_an_endpoint_of_the_house_needs_no_key() -> None:
    await make_provider(ProviderConfig("llama", "http://127.0.0.1:1/v1", kind="compatible")).aclose()
