"""What a model call consumed, in one shape for every vendor."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by price class. The classes do not overlap: input = uncached + cache_read + cache_write.

    Vendors count opposite ways (one excludes cached tokens from its input count, the other includes
    them); adapters translate. `reasoning` is a part of `output`, kept apart only for reports.
    """

    uncached: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def input(self) -> int:
        """All input tokens, however they were priced."""
        return self.uncached + self.cache_read + self.cache_write

    @property
    def total(self) -> int:
        """Input and output tokens together."""
        return self.input + self.output

    @property
    def cache_ratio(self) -> float | None:
        """Share of the input read from the cache; None when there was no input."""
        return self.cache_read / self.input if self.input else None

    def as_dict(self) -> dict[str, int]:
        """Plain integers, as stored in `model_calls.usage`."""
        return asdict(self)
