"""What a vendor's headers say that it still allows: `anthropic-ratelimit-*` and `x-ratelimit-*`."""

import re
from collections.abc import Mapping
from datetime import datetime

_COUNTS = ("requests", "input-tokens", "output-tokens")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def read_limits(headers: Mapping[str, str], now: datetime) -> tuple[list[float | None], float]:
    """Requests, input and output tokens a minute (None: not said), and the seconds in which nothing should be sent.

    A limit of input and none of output is one of both together, as OpenAI has.
    Something that is used up fills steadily until its reset: a tenth of that time, at most 6 s, brings enough to go on.
    """

    def told(name: str, what: str) -> str:
        return headers.get(f"anthropic-ratelimit-{name}-{what}") or headers.get(f"x-ratelimit-{what}-{name}") or ""

    said = [told(name, "limit") for name in _COUNTS]
    said[1] = said[1] or headers.get("x-ratelimit-limit-tokens", "")
    limits = [float(text) if text.isdecimal() else None for text in said]
    used_up = [name for name in (*_COUNTS, "tokens") if told(name, "remaining") == "0"]
    resets = [min(max(_seconds(told(name, "reset"), now) / 10, 1.0), 6.0) for name in used_up]
    return [limit or None for limit in limits], max(resets, default=0.0)


def _seconds(text: str, now: datetime) -> float:
    """To a moment such as 2026-11-22T10:00:00Z, or of 1m31s or 250ms; 0 of anything else."""
    if re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h))+", text):
        return sum(float(count) * _UNITS[unit] for count, unit in re.findall(r"([\d.]+)(ms|s|m|h)", text))
    try:
        return (datetime.fromisoformat(text) - now).total_seconds()
    except (ValueError, TypeError):
        return 0.0
