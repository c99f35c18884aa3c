"""A question about a text that no window of its tier holds: answered in pieces, whose answers one more call merges."""

from typing import Any, Unpack

from pydantic import TypeAdapter

from shared.domain.outcome import Dead
from shared.execution.context import Context, Options
from shared.execution.interrupt import Interrupt
from shared.execution.overflow import TooLong
from shared.llm.prices import upper_tokens
from shared.llm.structured import json_schema

MOST_PIECES = 32
SMALLEST = 100  # characters
OVERLAP = 0.05  # of a piece, said again by the next
MARGIN = 0.6  # of the room: one piece has more tokens a character than another
_PART = "This is part {n} of {of} of a longer text; the parts overlap a little. Answer for this part.\n\n{text}"
_MERGE = (
    "A text was too long to be read at once. These are the answers to its {of} parts, in order; the parts overlap a "
    "little.\n\n{answers}\n\nAnswer for the whole text, in the same form."
)


async def in_pieces(ctx: Context, key: str, *, output: Any, prompt: str, tier: str, **options: Unpack[Options]) -> Any:
    """`ctx.llm`, and where the prompt is too long, the same of its pieces (`key#part1of7`, …) and a `key#merge`.

    Each piece is a call of its own, under the task's caps and on record. Instructions belong into `system`, which every
    piece sees. Ends the task as `context_overflow` when there are more than 32 pieces.
    """
    try:
        return await ctx.llm(key, output=output, prompt=prompt, tier=tier, **options)
    except TooLong as error:
        parts = _parts(error, output, prompt, options)
        if not 1 < len(parts) <= MOST_PIECES:
            sizes = f"a prompt of {error.tokens or 'too many'} tokens, for a window of {error.window}"
            why = (
                f"{len(parts)} pieces are not 2 to {MOST_PIECES}"
                if parts
                else "no room is left beside the system prompt"
            )
            raise Interrupt(Dead("context_overflow", f"call {key!r} has {sizes}: {why}")) from error
    of, answers = len(parts), []
    for n, text in enumerate(parts, 1):
        part = _PART.format(n=n, of=of, text=text)
        made = await ctx.llm(f"{key}#part{n}of{of}", output=output, prompt=part, tier=tier, **options)
        told = made if isinstance(made, str) else TypeAdapter(Any).dump_json(made).decode()
        answers.append(f"Part {n}: {told}")
    merge = _MERGE.format(of=of, answers="\n\n".join(answers))
    return await ctx.llm(f"{key}#merge", output=output, prompt=merge, tier=tier, **options)


def _parts(error: TooLong, output: Any, prompt: str, options: Options) -> list[str]:
    """The prompt in pieces that fit; at a token a byte where nobody counted."""
    schema = "" if output is None else str(json_schema(output))
    around = upper_tokens(options.get("system", ""), schema, _PART) + options.get("max_output_tokens", 1024)
    tokens = error.tokens or len(prompt.encode())
    size = int((error.window - around) * MARGIN * len(prompt) / tokens)
    return cut(prompt, size, int(size * OVERLAP)) if size >= SMALLEST else []


def cut(text: str, size: int, overlap: int) -> list[str]:
    """The text in pieces of at most `size` characters, cut at a paragraph, a line or a blank where one is near."""
    found, start = [], 0
    while start + size < len(text):
        end, half = start + size, start + size // 2
        marks = ((text.rfind(mark, half, end), len(mark)) for mark in ("\n\n", "\n", " "))
        end = next((at + length for at, length in marks if at > 0), end)
        found.append(text[start:end])
        start = end - overlap
    return [*found, text[start:]]
