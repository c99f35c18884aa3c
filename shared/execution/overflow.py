"""A prompt that is longer than a window: a route with a longer one, else pieces if the author says so, else dead."""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from shared.domain.outcome import Dead
from shared.execution.environment import Environment
from shared.execution.interrupt import Interrupt
from shared.llm import prices
from shared.llm.protocol import Counting, Request

if TYPE_CHECKING:
    from shared.execution.call import Ask

MOST_PIECES = 32
OVERLAP = 0.05  # of a piece, said again by the next
MARGIN = 0.6  # of the room: one piece has more tokens a character than another
COUNTING = 10.0  # seconds
_PART = "This is part {n} of {of} of a longer text; the parts overlap a little. Answer for this part.\n\n{text}"
_MERGE = (
    "A text was too long to be read at once. These are the answers to its {of} parts, in order; the parts overlap a "
    "little.\n\n{answers}\n\nAnswer for the whole text, in the same form."
)
Answer = Callable[["Ask"], Awaitable[Any]]


class TooLongError(Exception):
    """No route takes it. `tokens` is None where only the vendor, who refused it, knows; `window` was too short."""

    def __init__(self, tokens: int | None, window: int) -> None:
        super().__init__(tokens, window)
        self.tokens, self.window = tokens, window


async def answer_fitting(env: Environment, ask: "Ask", answer: Answer, whole: Answer) -> Any:
    """`answer` by a route whose window suffices, else, if `ask.overflow` allows, merged from pieces `whole` answers.

    Raises Interrupt with a dead letter that names the sizes.
    """
    longest = max(route.window for route in env.routes.for_tier(ask.tier, env.config.providers))
    try:
        tokens, window = await _needed(env, ask)
        while window <= longest:
            try:
                return await answer(replace(ask, window=window))
            except TooLongError as error:  # the vendor says so, who counts better
                window = error.window + 1
        raise TooLongError(tokens, longest)
    except TooLongError as error:
        limits = f"{error.tokens or 'too many'} tokens and {ask.max_output_tokens} of output, for a window of {longest}"
        parts = _parts(ask, error) if ask.overflow == "chunk" else []
        if not 1 < len(parts) <= MOST_PIECES:
            why = (
                f"{len(parts)} pieces are not 2 to {MOST_PIECES}" if parts else "shorten it, or allow overflow='chunk'"
            )
            what = f"call {ask.key!r} has {limits}, the longest of tier {ask.tier!r}: {why}"
            raise Interrupt(Dead("context_overflow", what)) from error
    key, of = ask.key, len(parts)
    ask = replace(ask, overflow="dead")
    texts = [_PART.format(n=n, of=of, text=text) for n, text in enumerate(parts, 1)]
    made = [await whole(replace(ask, key=f"{key}#part{n}of{of}", prompt=text)) for n, text in enumerate(texts, 1)]
    told = [one if isinstance(one, str) else TypeAdapter(Any).dump_json(one).decode() for one in made]
    answers = "\n\n".join(f"Part {n}: {one}" for n, one in enumerate(told, 1))
    return await whole(replace(ask, key=f"{key}#merge", prompt=_MERGE.format(of=of, answers=answers)))


async def _needed(env: Environment, ask: "Ask") -> tuple[int | None, int]:
    """The input's tokens, where somebody counted, and the window to begin with: any, while nobody knows better."""
    texts = _request(ask, "").texts
    routes = env.routes.for_tier(ask.tier, env.config.providers)
    if prices.upper_tokens(*texts) + ask.max_output_tokens <= min(route.window for route in routes):
        return None, 0
    for route in routes:
        provider = await env.provider(route.provider)
        with contextlib.suppress(Exception):  # a count is a courtesy
            tokens = await provider.count(_request(ask, route.model)) if isinstance(provider, Counting) else None
            if tokens is not None:
                return tokens, tokens + min(ask.max_output_tokens, route.max_output)
    return None, 0


def _request(ask: "Ask", model: str) -> Request:
    return Request(
        model=model,
        prompt=ask.prompt,
        system=ask.system,
        schema=ask.schema,
        max_output_tokens=ask.max_output_tokens,
        timeout=COUNTING,
    )


def _parts(ask: "Ask", error: TooLongError) -> list[str]:
    """The prompt in pieces that fit; at a token a byte where nobody counted."""
    around = prices.upper_tokens(ask.system, str(ask.schema), _PART)
    tokens = error.tokens or len(ask.prompt.encode())
    size = int((error.window - ask.max_output_tokens - around) * MARGIN * len(ask.prompt) / tokens)
    return pieces(ask.prompt, size, int(size * OVERLAP)) if size >= 100 else []


def pieces(text: str, size: int, overlap: int) -> list[str]:
    """The text in pieces of at most `size` characters, cut at a paragraph, a line or a blank where one is near."""
    found, start = [], 0
    while start + size < len(text):
        end, half = start + size, start + size // 2
        cuts = (
            text.rfind(mark, half, end) + len(mark) for mark in ("\n\n", "\n", " ") if text.rfind(mark, half, end) > 0
        )
        end = next(cuts, end)
        found.append(text[start:end])
        start = end - overlap
    return [*found, text[start:]]
