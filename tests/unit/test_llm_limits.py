"""What vendors' headers say of their limits, as both of them write it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from shared.llm.limits import read_limits

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


def _anthropic(name: str, **told: str) -> dict[str, str]:
    return {f"anthropic-ratelimit-{name}-{what}": value for what, value in told.items()}


def _openai(name: str, **told: str) -> dict[str, str]:
    return {f"x-ratelimit-{what}-{name}": value for what, value in told.items()}


@pytest.mark.parametrize(
    ("headers", "limits", "pause"),
    [
        ({}, [None, None, None], 0.0),
        (_anthropic("requests", limit="50", remaining="49"), [50, None, None], 0.0),
        (
            _anthropic("input-tokens", limit="40000") | _anthropic("output-tokens", limit="8000"),
            [None, 40_000, 8_000],
            0.0,
        ),
        (_openai("requests", limit="500", remaining="499", reset="120ms"), [500, None, None], 0.0),
        # One limit for all tokens stands at the input's place, with none for the output.
        (_openai("tokens", limit="30000", remaining="29000"), [None, 30_000, None], 0.0),
        (
            _openai("requests", limit="500") | _openai("tokens", limit="30000", remaining="0", reset="20s"),
            [500, 30_000, None],
            2.0,
        ),
        # Anthropic's word for all tokens is only the narrower of the two.
        (_anthropic("tokens", limit="48000") | _anthropic("input-tokens", limit="40000"), [None, 40_000, None], 0.0),
        # Used up: a tenth of the time to the reset, 1 to 6 seconds.
        (_openai("tokens", remaining="0", reset="1m31s"), [None, None, None], 6.0),
        (_openai("requests", remaining="0", reset="20s"), [None, None, None], 2.0),
        (_openai("requests", remaining="0", reset="250ms"), [None, None, None], 1.0),
        (_anthropic("input-tokens", remaining="0", reset="2026-11-23T10:00:30Z"), [None, None, None], 3.0),
        (_anthropic("input-tokens", remaining="0", reset="2026-11-23T09:00:00Z"), [None, None, None], 1.0),
        (
            _openai("requests", remaining="0", reset="20s") | _openai("tokens", remaining="0", reset="40s"),
            [None] * 3,
            4.0,
        ),
        # What is no number or no moment says nothing.
        (_anthropic("requests", limit="many", remaining="none"), [None, None, None], 0.0),
        (_anthropic("requests", limit="0", remaining="0", reset="soon"), [None, None, None], 1.0),
        (_anthropic("requests", limit="-5"), [None, None, None], 0.0),
        (_anthropic("requests", remaining="0", reset="2026-11-23T10:00:30"), [None, None, None], 1.0),
    ],
)
def test_headers(headers: dict[str, str], limits: list[Any], pause: float) -> None:
    assert read_limits(headers, NOW) == (limits, pause)
