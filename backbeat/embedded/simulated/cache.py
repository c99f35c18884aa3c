"""Cached prefixes, as both vendors do it, in the memory of this process.

A prefix is a hash over the model and everything before a boundary. Where the caller marked boundaries,
those are written and any earlier one alive may be read; a vendor that caches on its own compares every
128 tokens from 1,024 on. A prefix lives five minutes after its last use, or an hour where asked.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from backbeat.embedded.simulated import tokens
from backbeat.embedded.simulated.exchange import BLOCK_FRAMING, FRAMING, Ask
from shared.clock import monotonic

MINIMUM = 1024  # tokens; shorter prefixes are never cached
STEP = 128  # tokens between automatic boundaries
LIFE = 300.0  # seconds
HOUR = 3600.0
_MOST = 100_000  # prefixes kept before the dead ones are swept out


@dataclass(frozen=True, slots=True)
class Boundary:
    """The end of a prefix: its identity, its length, and how long it is kept if the request writes it."""

    key: bytes
    tokens: int
    life: float | None


@dataclass(frozen=True, slots=True)
class Hit:
    """What a request found and will leave: tokens read, tokens written, and of those the ones kept for an hour."""

    read: int
    write: int
    hour_writes: int
    boundaries: tuple[Boundary, ...]


def boundaries(ask: Ask) -> tuple[Boundary, ...]:
    """Every prefix of the request that a cache may know, shortest first."""
    digest = hashlib.sha256(ask.model.encode())
    if ask.automatic:
        return _automatic(ask, digest)
    found, total = [], FRAMING
    for block in ask.blocks:
        digest.update(b"\0" + block.text.encode())
        total += tokens.count(block.text) + BLOCK_FRAMING
        if total >= MINIMUM:
            found.append(Boundary(digest.digest(), total, block.cache_seconds))
    return tuple(found)


def _automatic(ask: Ask, digest: "hashlib._Hash") -> tuple[Boundary, ...]:
    text, found, start = "\0".join(block.text for block in ask.blocks), [], 0
    for size, end in tokens.boundaries(text, MINIMUM, STEP):
        digest.update(text[start:end].encode())
        found.append(Boundary(digest.digest(), size, LIFE))
        start = end
    return tuple(found)


class PrefixStore:
    """The prefixes this process remembers. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}

    def look(self, ask: Ask) -> Hit:
        """What the request can read now, and what it will write."""
        now, found = self._clock(), boundaries(ask)
        kept = [edge for edge in found if edge.life is not None]
        if not kept:
            return Hit(0, 0, 0, ())
        last = kept[-1].tokens
        alive = (edge.tokens for edge in found if edge.tokens <= last and self._until.get(edge.key, 0.0) > now)
        read = max(alive, default=0)
        hour = max((edge.tokens for edge in kept if edge.life == HOUR), default=0)
        write = max(0, last - read) if ask.bills_writes else 0
        return Hit(read, write, min(write, max(0, hour - read)), found)

    def keep(self, hit: Hit) -> None:
        """Write what the request marked, and renew what it read."""
        now = self._clock()
        if len(self._until) > _MOST:
            self._until = {key: until for key, until in self._until.items() if until > now}
        for edge in hit.boundaries:
            if edge.life is not None:
                self._until[edge.key] = max(self._until.get(edge.key, 0.0), now + edge.life)
            elif edge.tokens == hit.read:
                self._until[edge.key] = now + LIFE
