"""Every status, code, transport fault and stop reason, one row each: what it means for task, route and bill."""

import random
from typing import Any

import pytest

from shared.domain.usage import Usage
from shared.errors import ConfigError
from shared.llm.classify import backoff, classify
from shared.llm.protocol import Reply, Stop, UnreadableReplyError
from shared.llm.structured import OutputInvalidError


class StatusError(Exception):
    """Shaped like both SDKs' APIStatusError, of which `classify` may know only the attributes."""

    def __init__(self, status: int, headers: dict[str, str] | None = None, body: object = None, **fields: str) -> None:
        super().__init__(f"Error code: {status} - {body}")
        self.status_code = status
        self.body = body
        self.response = type("Response", (), {"headers": headers or {}})()
        self.__dict__.update(fields)


def transport(*names: str, timeout: bool = False) -> BaseException:
    """An exception chain as the SDKs raise it: their wrapper, caused by httpx2's error of these class names."""
    inner: type[Exception] = Exception
    for name in names:
        inner = type(name, (inner,), {})
    wrapper: BaseException = type("APITimeoutError" if timeout else "APIConnectionError", (Exception,), {})()
    wrapper.__cause__ = inner("far side")
    return wrapper


def anthropic_body(message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


STATUSES = [
    # status, error attributes, kind, reason, free, lost, hold_route
    (400, {}, "dead", "bad_request", False, False, False),
    (401, {}, "dead", "authentication", False, False, True),
    (402, {}, "hold_route", "unpaid", True, False, True),
    (403, {}, "dead", "permission", False, False, True),
    (404, {"code": "model_not_found"}, "dead", "not_found", False, False, True),
    (408, {}, "immediate", "timeout", False, True, False),
    (409, {}, "immediate", "conflict", False, False, False),
    (412, {}, "dead", "bad_request", False, False, False),
    (413, {}, "context_overflow", "context_length", False, False, False),
    (422, {}, "backoff", "unprocessable", False, False, False),
    (422, {"type": "invalid_request_error"}, "dead", "bad_request", False, False, False),
    (429, {"code": "rate_limit_exceeded"}, "immediate", "rate_limited", True, False, False),
    (429, {"error_code": "ramp_limit_exceeded"}, "immediate", "rate_limited", True, False, False),
    (429, {"code": "insufficient_quota"}, "hold_route", "unpaid", True, False, True),
    (429, {"error_code": "enforced_spend_limit_reached"}, "hold_route", "unpaid", True, False, True),
    (429, {"error_code": "contract_spend_limit_reached"}, "hold_route", "unpaid", True, False, True),
    (402, {"error_code": "linked_organization_spend_limit_reached"}, "hold_route", "unpaid", True, False, True),
    (400, {"error_code": "organization_on_hold"}, "hold_route", "unpaid", True, False, True),
    (403, {"type": "billing_error"}, "hold_route", "unpaid", True, False, True),
    (400, {"code": "context_length_exceeded"}, "context_overflow", "context_length", False, False, False),
    (400, {"type": "exceed_context_size_error"}, "context_overflow", "context_length", False, False, False),
    (400, {"code": "content_policy_violation"}, "dead", "content_policy", False, False, False),
    (400, {"code": "content_filter"}, "dead", "content_policy", False, False, False),
    (400, {"code": "invalid_prompt"}, "dead", "content_policy", False, False, False),
    (431, {}, "dead", "bad_request", False, False, False),
    (499, {}, "immediate", "timeout", False, True, False),
    (500, {}, "backoff", "server_error", False, False, False),
    (501, {}, "backoff", "server_error", False, False, False),
    (502, {}, "backoff", "gateway_error", False, True, False),
    (503, {}, "immediate", "unavailable", True, False, False),
    (504, {}, "immediate", "timeout", False, True, False),
    (520, {}, "backoff", "gateway_error", False, True, False),
    (524, {}, "backoff", "gateway_error", False, True, False),
    (529, {"type": "overloaded_error"}, "immediate", "overloaded", True, False, False),
    (599, {}, "backoff", "server_error", False, False, False),
]


@pytest.mark.parametrize(("status", "fields", "kind", "reason", "free", "lost", "hold"), STATUSES)
def test_status(
    status: int, fields: dict[str, str], kind: str, reason: str, free: bool, lost: bool, hold: bool
) -> None:
    verdict = classify(StatusError(status, None, None, **fields))
    assert (verdict.kind, verdict.reason) == (kind, reason)
    assert (verdict.free, verdict.lost, verdict.hold_route) == (free, lost, hold)
    assert verdict.delay is None


@pytest.mark.parametrize(
    ("message", "kind", "reason"),
    [
        ("prompt is too long: 212000 tokens > 200000 maximum", "context_overflow", "context_length"),
        (
            "input length and `max_tokens` exceed context limit: 190000 + 21333 > 200000",
            "context_overflow",
            "context_length",
        ),
        ("Your credit balance is too low to access the Anthropic API.", "hold_route", "unpaid"),
        ("messages.0: bad text 'your credit balance is too low'", "dead", "bad_request"),
    ],
)
def test_conditions_that_anthropic_only_puts_in_words(message: str, kind: str, reason: str) -> None:
    verdict = classify(StatusError(400, body=anthropic_body(message)))
    assert (verdict.kind, verdict.reason) == (kind, reason)


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        # vLLM, whose errors stand at the top of the body or in `error`
        (
            400,
            {"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you …"},
            "context_overflow",
            "context_length",
        ),
        (
            400,
            {"error": {"message": "The decoder prompt (length 9000) is longer than the maximum model length of 4096."}},
            "context_overflow",
            "context_length",
        ),
        # Gemini, whose errors come in a list
        (
            400,
            [{"error": {"code": 400, "message": "The input token count (9) exceeds the maximum number of tokens …"}}],
            "context_overflow",
            "context_length",
        ),
        (400, [{"error": {"message": "API key not valid. Please pass a valid API key."}}], "dead", "authentication"),
        (400, [], "dead", "bad_request"),
        # OpenRouter
        (402, {"message": "Insufficient credits"}, "hold_route", "unpaid"),
        (
            402,
            {"message": "…", "metadata": {"limit_source": "openrouter_in_flight_budget"}},
            "immediate",
            "rate_limited",
        ),
        (
            400,
            {"message": "Provider returned error", "metadata": {"raw": "prompt is too long: 9 tokens > 8 maximum"}},
            "context_overflow",
            "context_length",
        ),
        (403, {"code": 403, "message": "Your input was flagged", "metadata": {}}, "dead", "content_policy"),
        (403, {"code": 403, "message": "Only for accounts of another kind"}, "dead", "permission"),
        # Anthropic
        (400, anthropic_body("Output blocked by content filtering policy"), "dead", "content_policy"),
    ],
)
def test_what_others_put_in_words(status: int, body: object, kind: str, reason: str) -> None:
    verdict = classify(StatusError(status, body=body))
    assert (verdict.kind, verdict.reason) == (kind, reason)
    assert verdict.hold_route is (reason in ("authentication", "permission", "unpaid"))


def test_words_count_only_in_a_400_and_only_in_the_vendors_own_field() -> None:
    assert classify(StatusError(500, body=anthropic_body("prompt is too long"))).reason == "server_error"
    assert classify(StatusError(400, body="prompt is too long")).reason == "bad_request"
    assert classify(StatusError(400, body={"error": "prompt is too long"})).reason == "bad_request"


TRANSPORT = [
    (transport("TransportError", "ConnectError"), "not_sent", True, False),
    (transport("TransportError", "TimeoutException", "ConnectTimeout", timeout=True), "not_sent", True, False),
    (transport("TransportError", "TimeoutException", "PoolTimeout", timeout=True), "not_sent", True, False),
    (transport("TransportError", "ProxyError"), "not_sent", True, False),
    (transport("TransportError", "TimeoutException", "ReadTimeout", timeout=True), "timeout", False, True),
    (transport("TransportError", "TimeoutException", "WriteTimeout", timeout=True), "timeout", False, True),
    (TimeoutError(), "timeout", False, True),
    (transport("TransportError", "ReadError"), "connection_lost", False, True),
    (transport("TransportError", "WriteError"), "connection_lost", False, True),
    (transport("TransportError", "RemoteProtocolError"), "connection_lost", False, True),
    (type("RemoteProtocolError", (type("TransportError", (Exception,), {}),), {})(), "connection_lost", False, True),
    (ConnectionResetError(), "connection_lost", False, True),
    (ConnectionRefusedError(), "not_sent", True, False),
]


@pytest.mark.parametrize(("error", "reason", "free", "lost"), TRANSPORT)
def test_transport(error: BaseException, reason: str, free: bool, lost: bool) -> None:
    verdict = classify(error)
    assert (verdict.kind, verdict.reason, verdict.free, verdict.lost) == ("immediate", reason, free, lost)


def test_what_was_being_handled_does_not_make_a_lost_call_free() -> None:
    try:
        try:
            raise transport("TransportError", "ConnectError")
        except Exception:
            raise TimeoutError  # noqa: B904 - the second request fails while the first's error is handled
    except TimeoutError as error:
        verdict = classify(error)
    assert verdict.lost
    assert not verdict.free


@pytest.mark.parametrize("name", ["UnsupportedProtocol", "InvalidURL", "UnicodeEncodeError"])
def test_a_request_that_cannot_be_built_is_dead(name: str) -> None:
    assert classify(transport("TransportError", name)).reason == "bad_request"


def test_everything_else() -> None:
    unknown = classify(RuntimeError("a bug"))
    assert (unknown.kind, unknown.free, unknown.lost) == ("backoff", False, True)
    keyless = classify(ConfigError("provider 'openai' has no API key"))
    assert (keyless.kind, keyless.free, keyless.hold_route) == ("hold_route", True, True)
    unreadable = classify(UnreadableReplyError("anthropic sent an unreadable reply"))
    assert (unreadable.kind, unreadable.reason, unreadable.lost) == ("backoff", "reply_unreadable", True)
    assert classify(StatusError(200)) == unreadable  # an SDK's own validation error carries the 2xx status
    invalid = classify(OutputInvalidError(["answer: not JSON"], "x"))
    assert (invalid.kind, invalid.reason, invalid.free, invalid.lost) == ("backoff", "output_invalid", False, False)


def reply(stop: Stop, detail: str = "", usage: Usage | None = None) -> Reply:
    return Reply("", usage or Usage(uncached=9, output=1), stop, "model", "id", None, detail)


@pytest.mark.parametrize(
    ("stop", "detail", "kind", "reason"),
    [
        ("end", "end_turn", "ok", "end"),
        ("tool", "tool_use", "ok", "tool"),
        ("length", "max_tokens", "backoff", "output_truncated"),
        ("refusal", "cyber", "dead", "content_policy"),
        ("context", "model_context_window_exceeded", "context_overflow", "context_length"),
        ("unknown", "pause_turn", "backoff", "unfinished"),
        ("error", "server_error", "backoff", "server_error"),
        ("error", "vector_store_timeout", "backoff", "server_error"),
        ("error", "failed", "backoff", "server_error"),
        ("error", "rate_limit_exceeded", "immediate", "rate_limited"),
        ("error", "invalid_prompt", "dead", "content_policy"),
        ("error", "bio_policy", "dead", "content_policy"),
        ("error", "misalignment_policy_violation", "dead", "content_policy"),
        ("error", "image_content_policy_violation", "dead", "content_policy"),
        ("error", "data_residency_mismatch", "dead", "bad_request"),
        ("error", "image_too_large", "dead", "bad_request"),
        ("error", "502", "backoff", "gateway_error"),
        ("error", "503", "immediate", "unavailable"),
        ("error", "408", "immediate", "timeout"),
        ("error", "401", "dead", "authentication"),
        ("error", "599", "backoff", "server_error"),
    ],
)
def test_reply(stop: Stop, detail: str, kind: str, reason: str) -> None:
    verdict = classify(reply(stop, detail))
    assert (verdict.kind, verdict.reason, verdict.free, verdict.lost) == (kind, reason, False, False)


def test_a_rate_limited_reply_is_free_only_without_usage() -> None:
    assert classify(reply("error", "rate_limit_exceeded", Usage())).free
    assert classify(reply("error", "503", Usage())).free
    assert not classify(reply("error", "502", Usage())).lost


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "4294967"}, 3600.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250", "retry-after": "20"}, 0.25),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT", "date": "Sun, 22 Nov 2026 12:00:00 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT", "date": "Sun, 22 Nov 2026 12:00:00 GMT"}, 0.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, None),
    ],
)
def test_delay_is_the_vendors_wish(headers: dict[str, str], delay: float | None) -> None:
    assert classify(StatusError(429, headers)).delay == delay


def test_a_429_that_must_not_be_retried_holds_the_route() -> None:
    verdict = classify(StatusError(429, {"x-should-retry": "false", "retry-after": "7"}))
    assert (verdict.kind, verdict.delay) == ("hold_route", 7.0)


def test_backoff_doubles_within_equal_jitter_up_to_the_cap() -> None:
    rng = random.Random(7)
    for attempt, whole in [(0, 1.0), (1, 1.0), (2, 2.0), (5, 16.0), (7, 60.0), (10_000, 60.0)]:
        drawn = [backoff(attempt, rng) for _ in range(300)]
        assert whole / 2 <= min(drawn) < whole * 0.6
        assert whole * 0.9 < max(drawn) <= whole
    assert backoff(3, random.Random(1)) == backoff(3, random.Random(1))
