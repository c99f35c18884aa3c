"""Prompts are measured before they are sent, and go to a route of their tier whose window holds them."""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from shared.db import queue
from shared.domain.outcome import Dead
from shared.execution.ask import Ask
from shared.execution.environment import Environment
from shared.execution.interrupt import Interrupt
from shared.llm import prices
from shared.llm.protocol import Request

COUNTING = 10.0  # seconds


class TooLong(Interrupt):
    """Dead, unless the author has it answered in pieces. `tokens` is None where nobody counted."""

    def __init__(self, tokens: int | None, window: int, what: str = "") -> None:
        super().__init__(Dead("context_overflow", what))
        self.tokens, self.window = tokens, window


async def answer_fitting(env: Environment, ask: Ask, answer: Callable[[Ask], Awaitable[Any]]) -> Any:
    """`answer` by a route whose window suffices. Raises TooLong, which names the sizes."""
    longest = max(route.window for route in env.routing.routes.for_tier(ask.tier, env.config.providers))
    tokens, window = await _needed(env, ask)
    while window <= longest:
        try:
            return await answer(replace(ask, window=window))
        except TooLong as refused:  # by the vendor, who counts better
            window = refused.window + 1
    sizes = f"{tokens or 'too many'} tokens and {ask.max_output_tokens} of output, for a window of {longest}"
    fix = "shorten it, or allow overflow='chunk' (in_pieces)"
    raise TooLong(tokens, longest, f"call {ask.key!r} has {sizes}, the longest of tier {ask.tier!r}: {fix}")


async def _needed(env: Environment, ask: Ask) -> tuple[int | None, int]:
    """The input's tokens, where somebody counted, and the window to begin with: any, while nobody knows better."""
    told = {name: getattr(ask, name) for name in ("prompt", "system", "schema", "max_output_tokens")}
    request = Request(model="", timeout=COUNTING, **told)
    routes = env.routing.routes.for_tier(ask.tier, env.config.providers)
    if prices.upper_tokens(*request.texts) + ask.max_output_tokens <= min(route.window for route in routes):
        return None, 0
    if "all" in await queue.switches(env.db):  # a count sends the prompt too; leave to send will be refused
        return None, 0
    for route in routes:
        count = getattr(await env.provider(route.provider), "count", None)
        with contextlib.suppress(Exception):  # a count is a courtesy
            if count and (tokens := await count(replace(request, model=route.model))) is not None:
                return tokens, tokens + min(ask.max_output_tokens, route.max_output)
    return None, 0
