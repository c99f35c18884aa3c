"""What tokens cost, in exact US dollars, from the price data bundled with genai-prices.

A price that is not known is None, never 0; a model listed without a price is not known either.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from functools import lru_cache

from shared.domain.usage import Usage
from shared.llm.protocol import CacheTtl

_NANO_DOLLAR = Decimal("0.000000001")
_FRAMING_TOKENS = 512  # roles, separators and what a vendor puts around a schema


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars to nine places, or None when unknown, and which price data said so."""

    usd: Decimal | None
    version: str


@dataclass(frozen=True, slots=True)
class Price:
    """What a route costs where that is not the list price: US dollars a million tokens, written for 5 minutes."""

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None  # as fresh input
    cache_write: Decimal | None = None  # as fresh input

    def of(self, usage: Usage, cache: CacheTtl | None) -> Decimal:
        """What that usage costs; an hour in the cache is 2 / 1.25 of five minutes."""
        read, write = (self.input if one is None else one for one in (self.cache_read, self.cache_write))
        write *= Decimal("1.6") if cache == "1h" else 1
        total = self.input * usage.uncached + read * usage.cache_read + write * usage.cache_write
        return (total + self.output * usage.output) / 1_000_000


def cost(
    provider: str, model: str, usage: Usage, at: datetime, *, cache: CacheTtl | None = "5m", price: Price | None = None
) -> Cost:
    """What that usage costs at the prices of `at`, rounded half to even. `cache` is the ttl that was asked for.

    `price` stands in for the list price.
    """
    usd, version = _price(provider, model, usage, at, cache, price)
    return Cost(None if usd is None else usd.quantize(_NANO_DOLLAR, ROUND_HALF_EVEN), version)


def ceiling(
    provider: str,
    model: str,
    input_tokens: int,
    max_output_tokens: int,
    at: datetime,
    *,
    cache: CacheTtl | None = "5m",
    price: Price | None = None,
) -> Cost:
    """The most a call can cost, rounded up: all input at its dearest rate (fresh or cached anew), all output used."""
    extremes = (
        Usage(uncached=input_tokens, output=max_output_tokens),
        Usage(cache_write=input_tokens, output=max_output_tokens),
    )
    priced = [_price(provider, model, usage, at, cache, price) for usage in extremes]
    known = [usd for usd, _ in priced if usd is not None]
    return Cost(max(known).quantize(_NANO_DOLLAR, ROUND_CEILING) if len(known) == len(priced) else None, priced[0][1])


def by_batch(full: Cost) -> Cost:
    """What a call costs in a batch: half, at both vendors."""
    return Cost(None if full.usd is None else full.usd / 2, f"{full.version}/batch")


def upper_tokens(*texts: str) -> int:
    """No tokenizer makes more tokens of these texts: one a UTF-8 byte, and the framing of one request."""
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + _FRAMING_TOKENS


def _price(
    provider: str, model: str, usage: Usage, at: datetime, cache: CacheTtl | None, own: Price | None
) -> tuple[Decimal | None, str]:
    if own:
        return own.of(usage, cache), f"route/{own.input}/{own.output}"
    import genai_prices

    version = f"genai-prices/{genai_prices.__version__}"
    try:
        if rates := _rates(provider, model, at.replace(second=0, microsecond=0), cache):
            into, out = rates.of(replace(usage, output=0), None), rates.of(Usage(output=usage.output), None)
        else:
            into, out, _ = _list(provider, model, usage, at, cache)
    except LookupError:
        return None, version
    return (None if (usage.input and not into) or (usage.output and not out) else into + out), version


@lru_cache(maxsize=256)
def _rates(provider: str, model: str, minute: datetime, cache: CacheTtl | None) -> Price | None:
    """The list's prices of a minute, so that a call costs some products and not the list's own 130 µs.

    None where they depend on how many tokens there are.
    """
    parts = ("uncached", "output", "cache_read", "cache_write")
    found = [_list(provider, model, Usage(**{part: 1_000_000}), minute, cache) for part in parts]
    return None if found[0][2] else Price(*(into + out for into, out, _ in found))


def _list(
    provider: str, model: str, usage: Usage, at: datetime, cache: CacheTtl | None
) -> tuple[Decimal, Decimal, bool]:
    """What input and output cost by the list, and whether it has tiers. Raises LookupError."""
    from genai_prices import Usage as Counts
    from genai_prices import calc_price
    from genai_prices.types import TieredPrices

    counts = Counts(
        input_tokens=usage.input,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
        cache_write_1h_tokens=usage.cache_write if cache == "1h" else 0,
        output_tokens=usage.output,
    )
    price = calc_price(counts, model, provider_id=provider, genai_request_timestamp=at)
    tiered = any(isinstance(one, TieredPrices) for one in vars(price.model_price).values())
    return price.input_price, price.output_price, tiered
