"""What an error or a reply of a model call means for the task, the route and the bill.

Vendors' errors are told apart by status, code and type name, so no SDK is imported here.

| kind | what to do |
|---|---|
| ok | use the text |
| immediate | again as soon as `delay` allows, jittered, in this tick if it fits |
| backoff | again after `backoff(attempt)` |
| hold_route | nobody pays: no call on this route until somebody lifts the hold; no task dies of it |
| dead | will not work however often it is tried |
| context_overflow | a route with a longer window, else smaller pieces, else dead |
"""

import math
import random
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from shared.errors import ConfigError
from shared.llm.protocol import Reply, UnreadableReplyError
from shared.llm.structured import OutputInvalidError

Kind = Literal["ok", "immediate", "backoff", "hold_route", "dead", "context_overflow"]
LONGEST_PAUSE = 3600.0  # seconds; a vendor that names more is asked again after this


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is a stable word for records and reports. `delay` is the vendor's wish in seconds, if it had one.

    `free`: no work was provably done, so the attempt does not count. `lost`: it was sent and its end is
    unknown, so it is presumed spent. `hold_route`: the cause is the route's (a key, a bill, a retired
    model), so every other task would fail on it the same way.
    """

    kind: Kind
    reason: str
    delay: float | None = None
    free: bool = False
    lost: bool = False
    hold_route: bool = False


_UNPAID = Verdict("hold_route", "unpaid", free=True, hold_route=True)
_OVERFLOW = Verdict("context_overflow", "context_length")
_POLICY = Verdict("dead", "content_policy")
_BAD_REQUEST = Verdict("dead", "bad_request")
_RATE_LIMITED = Verdict("immediate", "rate_limited", free=True)
_TIMEOUT = Verdict("immediate", "timeout", lost=True)
_NOT_SENT = Verdict("immediate", "not_sent", free=True)
_CONNECTION_LOST = Verdict("immediate", "connection_lost", lost=True)
_SERVER_ERROR = Verdict("backoff", "server_error")
_GATEWAY = Verdict("backoff", "gateway_error", lost=True)

_BY_STATUS = {
    **dict.fromkeys((408, 499, 504), _TIMEOUT),
    **dict.fromkeys((502, 520, 524), _GATEWAY),
    401: Verdict("dead", "authentication", hold_route=True),
    402: _UNPAID,
    403: Verdict("dead", "permission", hold_route=True),
    404: Verdict("dead", "not_found", hold_route=True),
    409: Verdict("immediate", "conflict"),
    413: _OVERFLOW,
    422: Verdict("backoff", "unprocessable"),
    429: _RATE_LIMITED,
    503: Verdict("immediate", "unavailable", free=True),
    529: Verdict("immediate", "overloaded", free=True),
}
_BY_STOP = {
    "end": Verdict("ok", "end"),
    "tool": Verdict("ok", "tool"),
    "length": Verdict("backoff", "output_truncated"),
    "refusal": _POLICY,
    "context": _OVERFLOW,
    "unknown": Verdict("backoff", "unfinished"),
}
_UNPAID_CODES = {"insufficient_quota", "organization_on_hold", "billing_error", "billing_not_active"}
_UNPAID_MARKS = ("spend_limit", "billing_hard_limit", "billing_unavailable")
_OVERFLOW_CODES = {"context_length_exceeded", "exceed_context_size_error"}
_POLICY_CODES = {"content_filter", "invalid_prompt"}
_FAILED = {"server_error": _SERVER_ERROR, "vector_store_timeout": _SERVER_ERROR, "failed": _SERVER_ERROR}

# Conditions that have no code, only a sentence: Anthropic's, Gemini's, vLLM's, OpenRouter's.
_SENTENCES = (
    (400, re.compile("^your credit balance is too low"), _UNPAID),
    (400, re.compile("^api key not valid"), _BY_STATUS[401]),
    (400, re.compile("prompt is too long|exceed context limit|exceeds the context window"), _OVERFLOW),
    (400, re.compile("maximum context length|exceeds the maximum number of tokens"), _OVERFLOW),
    (400, re.compile("longer than the maximum model length"), _OVERFLOW),
    (402, re.compile("in_flight_budget"), _RATE_LIMITED),
    (400, re.compile("^output blocked by content filtering"), _POLICY),
    (403, re.compile("flagged"), _POLICY),
)

_NOT_SENT_ERRORS = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "ConnectionRefusedError", "gaierror"}
_MALFORMED_ERRORS = {"UnsupportedProtocol", "InvalidURL", "UnicodeEncodeError"}
_TIMEOUT_ERRORS = {"TimeoutException", "APITimeoutError", "TimeoutError"}
_LOST_ERRORS = {"TransportError", "APIConnectionError", "ConnectionError"}


def classify(outcome: BaseException | Reply) -> Verdict:
    """Judge what `make_provider` or `Provider.send` raised or returned, or what `structured.parse` raised. Pure.

    What is in no table is taken for sent and lost: too dear at worst, never too cheap.
    """
    if isinstance(outcome, Reply):
        return _reply(outcome)
    if isinstance(outcome, ConfigError):
        return Verdict("hold_route", "misconfigured", free=True, hold_route=True)
    if isinstance(outcome, OutputInvalidError):
        return Verdict("backoff", "output_invalid")
    status = getattr(outcome, "status_code", None)
    if isinstance(status, int) and status >= 300:
        return _status(status, outcome)
    if isinstance(outcome, UnreadableReplyError) or isinstance(status, int):
        return Verdict("backoff", "reply_unreadable", lost=True)
    return _transport(outcome)


def backoff(attempt: int, rng: random.Random, *, base: float = 1.0, cap: float = 60.0) -> float:
    """Seconds to wait after failure number `attempt` (from 1): min(cap, base * 2**(attempt - 1)), half of it random."""
    half = min(cap, base * 2.0 ** min(max(attempt, 1) - 1, 60)) / 2
    return half + rng.uniform(0, half)


def _reply(reply: Reply) -> Verdict:
    if reply.stop != "error":
        return _BY_STOP[reply.stop]
    if reply.detail == "rate_limit_exceeded":
        return replace(_RATE_LIMITED, free=reply.usage.total == 0)
    if reply.detail.isdecimal():  # a status behind a 200, where the model failed late; the answer came, so none is lost
        verdict = _by_status(int(reply.detail))
        return replace(verdict, free=verdict.free and reply.usage.total == 0, lost=False)
    return _code({reply.detail}) or _FAILED.get(reply.detail, _BAD_REQUEST)


def _status(status: int, error: BaseException) -> Verdict:
    codes = {str(getattr(error, name, None)) for name in ("code", "error_code", "type")}
    verdict = _code(codes) or _sentence(status, error)
    if verdict is None and status == 429 and _headers(error).get("x-should-retry") == "false":
        verdict = _UNPAID
    if status == 422 and "invalid_request_error" in codes:  # the vendors' word; llama.cpp's is about its own answer
        verdict = verdict or _BAD_REQUEST
    return replace(verdict or _by_status(status), delay=_retry_after(_headers(error)))


def _by_status(status: int) -> Verdict:
    return _BY_STATUS.get(status) or (_SERVER_ERROR if status >= 500 else _BAD_REQUEST)


def _code(codes: set[str]) -> Verdict | None:
    if codes & _UNPAID_CODES or any(mark in code for code in codes for mark in _UNPAID_MARKS):
        return _UNPAID
    if codes & _OVERFLOW_CODES:
        return _OVERFLOW
    if codes & _POLICY_CODES or any("policy" in code for code in codes):
        return _POLICY
    return None


def _sentence(status: int, error: BaseException) -> Verdict | None:
    body: Any = getattr(error, "body", None)
    body = body[0] if isinstance(body, list) and body else body  # Gemini's
    inner = body.get("error", body) if isinstance(body, dict) else {}
    # OpenRouter hands on what the vendor behind it said as metadata.
    said = f"{inner.get('message', '')} {inner.get('metadata', '')}".lower() if isinstance(inner, dict) else ""
    return next((verdict for where, words, verdict in _SENTENCES if where == status and words.search(said)), None)


def _transport(error: BaseException) -> Verdict:
    names: set[str] = set()
    cause: BaseException | None = error
    # Only explicit causes: an error raised while another was being handled says nothing about this request.
    while cause is not None:
        names |= {kind.__name__ for kind in type(cause).__mro__}
        cause = cause.__cause__
    if names & _MALFORMED_ERRORS:
        return _BAD_REQUEST
    if names & _NOT_SENT_ERRORS:
        return _NOT_SENT
    if names & _TIMEOUT_ERRORS:
        return _TIMEOUT
    return _CONNECTION_LOST if names & _LOST_ERRORS else Verdict("backoff", "unexpected_error", lost=True)


def _headers(error: BaseException) -> Any:
    return getattr(getattr(error, "response", None), "headers", None) or {}


def _retry_after(headers: Any) -> float | None:
    """`retry-after-ms`, or `retry-after` in seconds, or as a date measured by the vendor's own `date`."""
    value, unit = headers.get("retry-after"), 1.0
    if headers.get("retry-after-ms"):
        value, unit = headers.get("retry-after-ms"), 1000.0
    try:
        seconds = float(value) / unit
    except TypeError:
        return None
    except ValueError:
        seconds = _until(value, headers.get("date"))
    return min(max(0.0, seconds), LONGEST_PAUSE) if math.isfinite(seconds) else None


def _until(then: str, now: str | None) -> float:
    from email.utils import parsedate_to_datetime

    try:
        return (parsedate_to_datetime(then) - parsedate_to_datetime(now or "")).total_seconds()
    except (ValueError, TypeError):
        return math.nan
