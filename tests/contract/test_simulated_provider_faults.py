"""What goes wrong on purpose reaches the vendors' SDKs as they know it, and the log says what was billed."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import anthropic
import httpx2
import openai
import pytest

from backbeat.embedded.simulated import log
from shared.clock import monotonic
from tests.support.signals import until
from tests.support.simulated import Service, service

CLAUDE, GPT = "claude-sonnet-4-6", "gpt-6-luna"
Call = Callable[..., Any]
A, O = "anthropic", "openai"  # noqa: E741
VENDORS = (A, O)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    file = tmp_path_factory.mktemp("provider") / "calls.jsonl"
    with service("provider", file, "--latency", "0", "--window", "3000") as running:
        yield running


def call(running: Service, vendor: str, fault: str = "", *, prompt: str = "Hello there", **more: Any) -> Any:
    """One request through the vendor's SDK, with the fault asked for by header."""
    headers = {"x-simulated-fault": fault} if fault else {}
    headers["x-backbeat-call"] = more.pop("name", "call")
    if vendor == A:
        with anthropic.Anthropic(api_key="k", base_url=f"{running.url}/anthropic", max_retries=0) as claude:
            message: Any = [{"role": "user", "content": prompt}]
            answer = claude.messages.create(
                model=CLAUDE, max_tokens=200, messages=message, extra_headers=headers, **more
            )
            return list(answer) if more.get("stream") else answer
    with openai.OpenAI(api_key="k", base_url=f"{running.url}/openai/v1", max_retries=0) as gpt:
        answer = gpt.responses.create(model=GPT, input=prompt, extra_headers=headers, **more)
        return list(answer) if more.get("stream") else answer


def ignored(running: Service, fault: str, name: str) -> None:
    """A call that will not be answered."""
    with suppress(anthropic.APIError):
        call(running, A, fault, name=name)


@pytest.mark.parametrize(
    ("fault", "claude_says", "gpt_says"),
    [
        ("400", anthropic.BadRequestError, openai.BadRequestError),
        ("401", anthropic.AuthenticationError, openai.AuthenticationError),
        ("402", anthropic.PaymentRequiredError, openai.APIStatusError),
        ("403", anthropic.PermissionDeniedError, openai.PermissionDeniedError),
        ("404", anthropic.NotFoundError, openai.NotFoundError),
        ("413", anthropic.ContentTooLargeError, openai.APIStatusError),
        ("429", anthropic.RateLimitError, openai.RateLimitError),
        ("500", anthropic.InternalServerError, openai.InternalServerError),
        ("503", anthropic.ServiceUnavailableError, openai.InternalServerError),
        ("529", anthropic.OverloadedError, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_statuses(
    provider: Service, fault: str, claude_says: type[Exception], gpt_says: type[Exception], stream: bool
) -> None:
    name = uuid4().hex
    with pytest.raises(claude_says):
        call(provider, A, fault, stream=stream, name=name)
    with pytest.raises(gpt_says):
        call(provider, O, fault, stream=stream, name=name)
    outcomes = [(end["status"], end["fault"], end["billed"]) for end in provider.ends(call=name)]
    assert outcomes == [(int(fault), fault, False)] * 2


def test_errors_have_the_vendors_bodies_and_codes(provider: Service) -> None:
    with pytest.raises(anthropic.RateLimitError) as limited:
        call(provider, A, "429;retry-after=7;code=enforced_spend_limit_reached")
    assert (limited.value.type, limited.value.error_code) == ("rate_limit_error", "enforced_spend_limit_reached")
    assert limited.value.response.headers["retry-after"] == "7"
    assert limited.value.request_id
    assert limited.value.request_id.startswith("sim_")
    with pytest.raises(openai.RateLimitError) as quota:
        call(provider, O, "429;code=insufficient_quota")
    assert (quota.value.code, quota.value.type) == ("insufficient_quota", "insufficient_quota")
    with pytest.raises(openai.RateLimitError) as rate:
        call(provider, O, "429;retry-after=3")
    assert (rate.value.code, rate.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "3")


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "billed"), [("disconnect-before", False), ("disconnect-after", True), ("disconnect-mid", True)]
)
def test_cut_connections(provider: Service, vendor: str, stream: bool, fault: str, billed: bool) -> None:
    name = uuid4().hex
    with pytest.raises((anthropic.APIConnectionError, openai.APIConnectionError, httpx2.RemoteProtocolError)):
        call(provider, vendor, fault, stream=stream, name=name)
    (end,) = provider.ends(call=name)
    assert (end["billed"], end["output_tokens"] > 0) == (billed, billed)


@pytest.mark.parametrize("vendor", VENDORS)
def test_an_error_after_the_work_is_billed(provider: Service, vendor: str) -> None:
    name = uuid4().hex
    with pytest.raises((anthropic.InternalServerError, openai.InternalServerError)):
        call(provider, vendor, "502;after=1", name=name)
    (end,) = provider.ends(call=name)
    assert (end["status"], end["billed"]) == (502, True)


@pytest.mark.parametrize("vendor", VENDORS)
def test_texts_that_are_wrong(provider: Service, vendor: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    form = {"type": "json_schema", "schema": schema, "name": "a"}
    more: dict[str, Any] = {"output_config": {"format": form}} if vendor == A else {"text": {"format": form}}

    def said(fault: str) -> str:
        answer = call(provider, vendor, fault, **more)
        assert (answer.stop_reason if vendor == A else answer.status) in ("end_turn", "completed")
        return str(answer.content[0].text if vendor == A else answer.output_text)

    whole = said("")
    assert json.loads(whole).keys() == {"a"}
    assert said("truncated") == whole[: len(said("truncated"))] != whole
    assert json.loads(said("wrong-schema")).keys() == {"simulated"}
    with pytest.raises(json.JSONDecodeError):
        json.loads(said("invalid-json"))


def test_a_truncated_stream_ends_without_a_word(provider: Service) -> None:
    assert {event.type for event in call(provider, A, "truncated", stream=True)}.isdisjoint(
        {"message_delta", "message_stop"}
    )
    assert "response.completed" not in [event.type for event in call(provider, O, "truncated", stream=True)]


def test_refusals_and_limits(provider: Service) -> None:
    message = call(provider, A, "refusal")
    assert (message.stop_reason, message.stop_details.type) == ("refusal", "refusal")
    assert call(provider, O, "refusal").output[0].content[0].type == "refusal"
    assert call(provider, A, "length").stop_reason == "max_tokens"
    assert call(provider, O, "length").incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_delay_outlasts_the_clients_patience(provider: Service, vendor: str) -> None:
    name = uuid4().hex
    with pytest.raises((anthropic.APITimeoutError, openai.APITimeoutError)):
        call(provider, vendor, "delay=3", timeout=0.1, name=name)
    # Nobody waits any more, and it is billed all the same.
    (end,) = until(lambda: provider.ends(call=name), what="the end of an abandoned call")
    assert end["billed"]
    assert end["seconds"] > 2.9


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_prompt_beyond_the_window(provider: Service, vendor: str) -> None:
    with pytest.raises((anthropic.BadRequestError, openai.BadRequestError)) as refused:
        call(provider, vendor, prompt="word " * 4000)
    if vendor == A:
        assert "prompt is too long: 40" in str(refused.value)
        assert "> 3000 maximum" in str(refused.value)
    else:
        assert isinstance(refused.value, openai.BadRequestError)
        assert refused.value.code == "context_length_exceeded"


def test_requests_that_are_none(provider: Service) -> None:
    url = f"{provider.url}/anthropic/v1/messages"
    assert httpx2.post(url, content=b"{", headers={"x-api-key": "k"}).status_code == 400
    assert httpx2.post(url, json={"model": CLAUDE}, headers={"x-api-key": "k"}).status_code == 400
    body: dict[str, Any] = {"model": CLAUDE, "max_tokens": 1, "messages": []}
    form = {"format": {"type": "json_schema", "schema": {"$ref": "#/nowhere"}}}
    for wrong in ({**body, "system": 5}, {**body, "output_config": form}, [body]):
        answer = httpx2.post(url, json=wrong, headers={"x-api-key": "k"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert httpx2.post(url, json=body).json()["error"]["type"] == "authentication_error"
    assert httpx2.post(url, json=body, headers={"x-api-key": "k", "x-simulated-fault": "bang"}).status_code == 400


def test_a_plan_says_which_request_goes_wrong(tmp_path: Path) -> None:
    plan = tmp_path / "plan.jsonl"
    lines = (
        {"fault": "529", "where": {"call": "^one$"}, "skip": 1, "times": 1},
        {"fault": "500", "where": {"model": "^gpt-", "path": "responses$"}},
    )
    plan.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with service("provider", tmp_path / "log", "--latency", "0", "--faults", str(plan)) as running:
        call(running, A, name="one")
        call(running, A, name="two")
        with pytest.raises(anthropic.OverloadedError):
            call(running, A, name="one")
        call(running, A, name="one")
        for _ in range(2):
            with pytest.raises(openai.InternalServerError):
                call(running, O, name="one")


def test_rates_repeat_with_the_seed(tmp_path: Path) -> None:
    """Asking the same again draws anew, and a second run draws the same."""

    def outcomes(seed: str) -> list[int]:
        options = ("--latency", "0", "--seed", seed, "--faults", "0.4 429;retry-after=1")
        with service("provider", tmp_path / f"{uuid4()}.jsonl", *options) as running:
            for _ in range(24):
                with suppress(anthropic.RateLimitError):
                    call(running, A)
            return [end["status"] for end in running.ends()]

    first = outcomes("7")
    assert set(first) == {200, 429}
    assert outcomes("7") == first != outcomes("8")


def test_the_log_is_complete_after_kill_9(tmp_path: Path) -> None:
    """Answers that arrived have their end line; the call that was under way has its start line, and no end."""
    file = tmp_path / "calls.jsonl"
    answered: list[str] = []
    with service("provider", file, "--latency", "0") as running:

        def keep_asking() -> None:
            with anthropic.Anthropic(api_key="k", base_url=f"{running.url}/anthropic", max_retries=0) as claude:
                while True:
                    try:
                        message = claude.messages.create(
                            model=CLAUDE, max_tokens=50, messages=[{"role": "user", "content": "Hello there"}]
                        )
                    except anthropic.APIConnectionError:
                        return
                    answered.append(message.id)

        asking = [threading.Thread(target=keep_asking) for _ in range(4)]
        slow = threading.Thread(target=ignored, args=(running, "delay=30", "slow"))
        for thread in (*asking, slow):
            thread.start()
        until(lambda: len(answered) > 50 and [one for one in running.entries("start") if one["call"] == "slow"])
        running.kill()
        for thread in (*asking, slow):
            thread.join(timeout=10)
    ends = running.ends()
    assert set(answered) <= {end["answer"] for end in ends}
    assert running.ends(call="slow") == []
    totals = log.totals(file)
    assert totals.calls - totals.unanswered == totals.billed == len(ends)
    assert totals.unanswered >= 1
    assert totals.output_tokens == sum(end["output_tokens"] for end in ends) > 0


def test_sigterm_ends_it_while_calls_wait(tmp_path: Path) -> None:
    with service("provider", tmp_path / "log", "--latency", "60") as running:
        waiting = threading.Thread(target=ignored, args=(running, "", "waiting"))
        waiting.start()
        until(lambda: running.entries("start"))
        before = monotonic()
        running.process.terminate()
        assert running.process.wait(timeout=60) in (0, -signal.SIGTERM)
        assert monotonic() - before < 20
        waiting.join(timeout=10)


def test_it_starts_as_a_module_with_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "backbeat.embedded.provider", "--help"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0
    assert "--faults" in done.stdout
