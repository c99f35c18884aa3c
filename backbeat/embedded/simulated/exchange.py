"""What a request asks and what answers it, whichever vendor's format carries them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from backbeat.embedded.simulated import tokens
from shared.domain.usage import Usage

Stop = Literal["end", "length", "refusal"]
FRAMING = 8  # tokens a request costs beyond its texts
BLOCK_FRAMING = 4  # tokens each block costs beyond its text


class BadRequestError(Exception):
    """The body is not what the vendor's API takes; the message says why."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of the prompt in the vendor's prefix order. `cache_seconds` is set where the caller marked it."""

    text: str
    cache_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for an answer.

    `blocks` is everything that counts as input, schema included, in the order caches compare it;
    `prompt` is the text of the user turns alone, which is what answers are derived from.
    `automatic` caches a prefix without marks; `bills_writes` counts what enters the cache apart.
    """

    model: str
    blocks: tuple[Block, ...]
    prompt: str
    schema: dict[str, Any] | None
    schema_name: str
    max_output: int | None
    stream: bool
    thinking: int
    automatic: bool = False
    bills_writes: bool = True

    @property
    def asks_for(self) -> str:
        """The schema's name, or its fields where the vendor's format has no room for a name."""
        return self.schema_name or ",".join((self.schema or {}).get("properties", ()))

    @property
    def input_tokens(self) -> int:
        """All input tokens: texts, schema and a fixed framing."""
        return FRAMING + sum(tokens.count(block.text) + BLOCK_FRAMING for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished answer. `hour_writes` is the part of `usage.cache_write` kept for an hour."""

    id: str
    model: str
    text: str
    stop: Stop
    usage: Usage
    hour_writes: int
    created: float  # seconds since the epoch

    def pieces(self, size: int = 48) -> list[str]:
        """The text in the pieces a stream carries; never empty."""
        return [self.text[at : at + size] for at in range(0, len(self.text), size)] or [""]


class Wire(Protocol):
    """One vendor's format; the modules `wire_anthropic`, `wire_openai` and `wire_chat` implement it."""

    @property
    def VENDOR(self) -> str:  # noqa: N802  # a constant of the module that implements this
        """The vendor's name."""

    def key(self, headers: Mapping[str, str]) -> str | None:
        """The API key the caller sent."""

    def parse(self, body: Any) -> Ask:
        """Read a request. Raises BadRequestError."""

    def counted(self, input_tokens: int) -> dict[str, Any]:
        """The answer of the token counting endpoint."""

    def document(self, answer: Answer) -> dict[str, Any]:
        """The whole answer as one JSON document."""

    def events(self, answer: Answer) -> Iterator[dict[str, Any]]:
        """The answer as server-sent events, each with a `type`."""

    def error(self, status: int, code: str, message: str, request_id: str) -> dict[str, Any]:
        """The vendor's own error body for that status."""

    def too_long(self, input_tokens: int, window: int) -> tuple[str, str]:
        """(code, message) of the vendor's complaint about a prompt beyond the window."""

    def headers(self, request_id: str, left: Mapping[str, int], limits: Mapping[str, int]) -> dict[str, str]:
        """Request id and rate-limit headers; `left` and `limits` are keyed requests, input, output."""
