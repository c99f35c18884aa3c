"""The simulated provider answers the vendors' own SDKs, over HTTP, as the vendors would."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel

from backbeat.embedded.simulated import tokens
from tests.support.simulated import Service, service

CLAUDE, GPT, OLD_GPT = "claude-sonnet-4-6", "gpt-6-luna", "gpt-5.4-mini"
PROMPT = """Find orders

diff --git a/orders/store.py b/orders/store.py
--- a/orders/store.py
+++ b/orders/store.py
@@ -1 +1,3 @@
 import sqlite3
+def find(db, name):
+    return db.execute(f"SELECT * FROM orders WHERE name = '{name}'")
"""
_numbers = itertools.count()


class Finding(BaseModel):
    path: str
    line: int
    severity: Literal["info", "minor", "major", "critical"]
    message: str


class Comments(BaseModel):
    comments: list[Finding]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    file = tmp_path_factory.mktemp("provider") / "calls.jsonl"
    with service("provider", file, "--latency", "0", "--window", "20000") as running:
        yield running


@pytest.fixture
def claude(provider: Service) -> Iterator[Anthropic]:
    with Anthropic(api_key="k", base_url=f"{provider.url}/anthropic", max_retries=0) as client:
        yield client


@pytest.fixture
def gpt(provider: Service) -> Iterator[OpenAI]:
    with OpenAI(api_key="k", base_url=f"{provider.url}/openai/v1", max_retries=0) as client:
        yield client


def handbook(words: int) -> str:
    """A system prompt of that many tokens that no other test has sent."""
    return f"{next(_numbers):04d} " + "word " * (words - 1)


def marked(text: str, **ttl: str) -> list[Any]:
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral", **ttl}}]


def expected() -> Comments:
    message = "SQL is built from strings, so input can become SQL; pass the values as parameters"
    return Comments(comments=[Finding(path="orders/store.py", line=3, severity="critical", message=message)])


def ask(client: Anthropic, **more: Any) -> Any:
    more = {"max_tokens": 500, "messages": [{"role": "user", "content": PROMPT}], **more}
    return client.messages.create(model=CLAUDE, **more)


def test_messages_obey_the_schema(claude: Anthropic, provider: Service) -> None:
    message = claude.messages.parse(
        model=CLAUDE,
        max_tokens=500,
        messages=[{"role": "user", "content": PROMPT}],
        output_format=Comments,
        extra_headers={"x-backbeat-call": "call=1", "idempotency-key": "same"},
    )
    assert message.parsed_output == expected()
    assert (message.model, message.stop_reason) == (CLAUDE, "end_turn")
    assert message.id.startswith("sim_")
    (end,) = provider.ends(id=message._request_id)
    assert (end["call"], end["idempotency_key"], end["schema"]) == ("call=1", "same", "Comments")
    assert (end["input_tokens"], end["output_tokens"]) == (message.usage.input_tokens, message.usage.output_tokens)


def test_responses_obey_the_schema(gpt: OpenAI, provider: Service) -> None:
    response = gpt.responses.parse(model=GPT, input=PROMPT, text_format=Comments)
    assert response.output_parsed == expected()
    assert (response.model, response.status) == (GPT, "completed")
    assert response.id.startswith("sim_")
    assert response.usage
    (end,) = provider.ends(id=response._request_id)
    assert (end["input_tokens"], end["output_tokens"]) == (response.usage.input_tokens, response.usage.output_tokens)


def test_chat_completions_obey_the_schema_whole_and_streamed(gpt: OpenAI, provider: Service) -> None:
    messages: Any = [{"role": "user", "content": PROMPT}]
    whole = gpt.chat.completions.parse(model="house", messages=messages, response_format=Comments)
    assert whole.choices[0].message.parsed == expected()
    assert whole.usage
    (end,) = provider.ends(id=whole._request_id)
    assert (end["vendor"], end["input_tokens"], end["output_tokens"]) == (
        "compatible",
        whole.usage.prompt_tokens,
        whole.usage.completion_tokens,
    )
    form: Any = {"type": "json_schema", "json_schema": {"name": "c", "schema": Comments.model_json_schema()}}
    with gpt.chat.completions.create(model="house", messages=messages, response_format=form, stream=True) as stream:
        chunks = list(stream)
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert Comments.model_validate_json(text) == expected()
    assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == "stop"
    assert chunks[-1].usage


def test_claude_counts_cached_input_apart(claude: Anthropic) -> None:
    system = marked(handbook(2000))
    first, second = ask(claude, system=system).usage, ask(claude, system=system).usage
    assert first.cache_read_input_tokens == 0
    assert first.cache_creation_input_tokens > 2000
    assert first.cache_creation.ephemeral_5m_input_tokens == first.cache_creation_input_tokens
    assert (second.cache_read_input_tokens, second.cache_creation_input_tokens) == (
        first.cache_creation_input_tokens,
        0,
    )
    assert first.input_tokens == second.input_tokens < 200


def test_gpt_counts_cached_input_within(gpt: OpenAI) -> None:
    system = handbook(2000)
    first, second = (gpt.responses.create(model=GPT, instructions=system, input=PROMPT).usage for _ in range(2))
    assert first
    assert second
    assert first.input_tokens == second.input_tokens > 2000
    assert (first.input_tokens_details.cached_tokens, second.input_tokens_details.cache_write_tokens) == (0, 0)
    assert second.input_tokens_details.cached_tokens == first.input_tokens_details.cache_write_tokens == 2048
    assert second.total_tokens == second.input_tokens + second.output_tokens


def test_older_gpts_bill_no_cache_writes(gpt: OpenAI) -> None:
    system = handbook(2000)
    details = []
    for _ in range(2):
        usage = gpt.responses.create(model=OLD_GPT, instructions=system, input=PROMPT).usage
        assert usage
        details.append((usage.input_tokens_details.cached_tokens, usage.input_tokens_details.cache_write_tokens))
    assert details == [(0, 0), (2048, 0)]


def test_a_prefix_is_cached_by_model_from_1024_tokens_and_for_an_hour_when_asked(claude: Anthropic) -> None:
    short, long = handbook(900), handbook(1500)
    assert [ask(claude, system=marked(short)).usage.cache_creation_input_tokens for _ in range(2)] == [0, 0]
    hour = ask(claude, system=marked(long, ttl="1h")).usage
    assert hour.cache_creation.ephemeral_1h_input_tokens == hour.cache_creation_input_tokens > 1500
    other = claude.messages.create(
        model="claude-haiku-4-5",
        max_tokens=9,
        system=marked(long),
        messages=[{"role": "user", "content": PROMPT}],
    )
    assert other.usage.cache_read_input_tokens == 0


def test_a_changed_schema_misses_the_cache(claude: Anthropic) -> None:
    system = marked(handbook(1500))
    form = {"format": {"type": "json_schema", "schema": Comments.model_json_schema()}}
    ask(claude, system=system)
    assert ask(claude, system=system, output_config=form).usage.cache_read_input_tokens == 0


def test_messages_stream(claude: Anthropic, provider: Service) -> None:
    with claude.messages.stream(
        model=CLAUDE, max_tokens=500, messages=[{"role": "user", "content": PROMPT}], output_format=Comments
    ) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert message.parsed_output == expected()
    assert kinds[0] == "message_start"
    assert kinds.count("text") > 1
    assert kinds[-1] == "message_stop"
    (end,) = provider.ends(answer=message.id)
    assert end["output_tokens"] == message.usage.output_tokens > 20


def test_responses_stream(gpt: OpenAI, provider: Service) -> None:
    with gpt.responses.stream(model=GPT, input=PROMPT, text_format=Comments) as stream:
        kinds = [event.type for event in stream]
        response = stream.get_final_response()
    assert response.output_parsed == expected()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert kinds.count("response.output_text.delta") > 1
    assert response.usage
    (end,) = provider.ends(answer=response.id)
    assert end["output_tokens"] == response.usage.output_tokens > 20


def test_both_count_tokens_as_they_bill_them(claude: Anthropic, gpt: OpenAI) -> None:
    counted = claude.messages.count_tokens(model=CLAUDE, messages=[{"role": "user", "content": PROMPT}]).input_tokens
    assert counted == ask(claude).usage.input_tokens
    usage = gpt.responses.create(model=GPT, input=PROMPT).usage
    assert usage
    assert gpt.responses.input_tokens.count(model=GPT, input=PROMPT).input_tokens == usage.input_tokens
    assert tokens.count(PROMPT) < counted < len(PROMPT)


def test_the_output_limit_is_honoured_and_said(claude: Anthropic, gpt: OpenAI) -> None:
    message = ask(claude, max_tokens=5)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 5)
    response = gpt.responses.create(model=GPT, input=PROMPT, max_output_tokens=5)
    assert response.status == "incomplete"
    assert response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage
    assert response.usage.output_tokens == 5


def test_thinking_is_output(claude: Anthropic, gpt: OpenAI) -> None:
    plain, usage = ask(claude).usage, ask(claude, thinking={"type": "adaptive"}).usage
    assert usage.output_tokens == plain.output_tokens + usage.output_tokens_details.thinking_tokens
    assert usage.output_tokens_details.thinking_tokens > 0
    counted = gpt.responses.create(model=GPT, input=PROMPT, reasoning={"effort": "low"}).usage
    assert counted
    assert 0 < counted.output_tokens_details.reasoning_tokens < counted.output_tokens


def test_rate_limits_are_announced_and_everything_is_labelled(claude: Anthropic, gpt: OpenAI) -> None:
    content: list[Any] = [{"role": "user", "content": PROMPT}]
    theirs = claude.messages.with_raw_response.create(model=CLAUDE, max_tokens=9, messages=content).headers
    for kind in ("requests", "input-tokens", "output-tokens"):
        limit, remaining = (theirs[f"anthropic-ratelimit-{kind}-{part}"] for part in ("limit", "remaining"))
        assert 0 <= int(remaining) < int(limit)
        assert theirs[f"anthropic-ratelimit-{kind}-reset"].endswith("Z")
    ours = gpt.responses.with_raw_response.create(model=GPT, input=PROMPT).headers
    for kind in ("requests", "tokens"):
        assert 0 <= int(ours[f"x-ratelimit-remaining-{kind}"]) < int(ours[f"x-ratelimit-limit-{kind}"])
        assert ours[f"x-ratelimit-reset-{kind}"].endswith("s")
    assert theirs["x-simulated"] == ours["x-simulated"] == "true"


def test_both_paths_and_health(provider: Service) -> None:
    body = {"model": CLAUDE, "max_tokens": 9, "messages": [{"role": "user", "content": "hello there"}]}
    for path in ("/v1/messages", "/anthropic/v1/messages"):
        assert httpx2.post(provider.url + path, json=body, headers={"x-api-key": "k"}).json()["type"] == "message"
    for path in ("/v1/responses", "/openai/v1/responses"):
        answer = httpx2.post(
            provider.url + path, json={"model": GPT, "input": "hi"}, headers={"authorization": "Bearer k"}
        )
        assert answer.json()["object"] == "response"
    health = httpx2.get(f"{provider.url}/health")
    assert health.json() == {"status": "ok", "service": "provider", "simulated": True}
    assert health.headers["x-simulated"] == "true"


def test_a_taken_port_and_bad_options_are_one_line(provider: Service, tmp_path: Path) -> None:
    port = provider.url.rpartition(":")[2]
    for arguments, words in (
        (["--port", port], f"provider: port {port} cannot be used"),
        (["--port", "0", "--latency", "soon"], "latency is 'soon'"),
        (["--port", "0", "--faults", "0.1 explode"], "fault 'explode' is unknown"),
        (["--port", "0", "--faults", "often 429"], "has no rate"),
    ):
        command = [sys.executable, "-m", "backbeat.embedded.provider", "--log", str(tmp_path / "log"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
