"""How long an answer takes: a range, or what a large model needs for so many tokens."""

from collections.abc import Callable

from shared.errors import ConfigError

Latency = Callable[[float, int, int], float]  # (dice in 0..1, input tokens, output tokens) -> seconds

LONGEST = 3600.0  # seconds
_REAL_FASTEST, _REAL_SLOWEST = 18.0, 35.0  # seconds, for a call with much context and a few thousand tokens out
_LONG_INPUT, _LONG_OUTPUT = 50_000, 4_000  # tokens at which a call is as slow as it gets


def parse(text: str) -> Latency:
    """`0`, `1.5`, `0.2-2` (seconds) or `real`. Raises ConfigError."""
    if text == "real":
        return _real
    try:
        low, _, high = text.partition("-")
        bounds = float(low), float(high or low)
        if not 0 <= bounds[0] <= bounds[1] <= LONGEST:
            raise ValueError(text)
    except ValueError as error:
        raise ConfigError(f"latency is {text!r}", fix="Use seconds, a range such as 0.2-2, or real") from error
    return lambda dice, _input, _output: bounds[0] + dice * (bounds[1] - bounds[0])


def _real(dice: float, input_tokens: int, output_tokens: int) -> float:
    """Half of the span is the size of the call, half is chance."""
    size = min(1.0, input_tokens / _LONG_INPUT / 2 + output_tokens / _LONG_OUTPUT / 2)
    return _REAL_FASTEST + (_REAL_SLOWEST - _REAL_FASTEST) * (size + dice) / 2
