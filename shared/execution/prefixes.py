"""What a vendor's cache can be expected to do for a call, so that a miss has a reason on record."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared import clock
from shared.llm.protocol import CacheTtl, Request

SHORTEST = 1024  # letters: no vendor keeps a prefix of fewer tokens than that
LIVES = {"5m": 300.0, "1h": 3600.0}  # seconds


def ttl_for(beat: float | None) -> CacheTtl:
    """How long a prefix should be kept where it comes back every `beat` seconds: an hour costs 1.6 times as much."""
    return "1h" if beat is not None and LIVES["5m"] <= beat < LIVES["1h"] else "5m"


@dataclass(slots=True)
class Prefixes:
    """The prefixes that were sent last: the hashes of each workflow and model, and when that was."""

    ttl: CacheTtl = "5m"
    seen: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, beat: float | None, sent: Sequence[Mapping[str, Any]]) -> "Prefixes":
        """As Postgres tells of the ticks before: their interval, and each (workflow, model, prefix) with its age."""
        made = cls(ttl_for(beat))
        for row in sent:
            made.seen.setdefault((row["workflow"], row["model"]), {})[row["prefix"]] = clock.monotonic() - row["age"]
        return made

    def expect(self, workflow: str, request: Request) -> tuple[str, str]:
        """The prefix' hash, and what the cache should do: warm, first, changed, expired, short, off.

        A warm one that is not read all the same was evicted by the vendor, or is below its own minimum.
        """
        parts = [request.model, request.system, json.dumps(request.schema)]
        prefix = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        known = self.seen.setdefault((workflow, request.model), {})
        others, before, known[prefix] = bool(known), known.get(prefix), clock.monotonic()
        if request.cache is None:
            return prefix, "off"
        if len("".join(parts)) < SHORTEST:
            return prefix, "short"
        if before is None:
            return prefix, "changed" if others else "first"
        return prefix, "warm" if clock.monotonic() - before < LIVES[request.cache] else "expired"
