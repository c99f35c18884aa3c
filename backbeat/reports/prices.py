"""List prices of the models that were called, for what a cache saves."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from shared.domain.usage import Usage
from shared.llm import prices

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_SAMPLE = 1000  # tokens: few enough for the first step of a price that rises with them
_CALLED = """
SELECT Provider, Model, toDate(min(Timestamp), 'UTC'), toDate(max(Timestamp), 'UTC') FROM llm_calls
WHERE Provider != '' AND Model != '' GROUP BY Provider, Model ORDER BY Provider, Model
"""


class Listed(NamedTuple):
    """A row of `model_prices`: US dollars a million tokens, None is unknown."""

    provider: str
    model: str
    effective_from: date
    input: Decimal | None
    output: Decimal | None
    cache_read: Decimal | None
    cache_write: Decimal | None
    source: str


def refresh(client: "Client") -> list[Listed]:
    """Write the prices of every model called so far, with each day on which they changed; what was written."""
    rows = [row for called in client.query(_CALLED).result_rows for row in listed(*called)]
    names = ["Provider", "Model", "EffectiveFrom", "Input", "Output", "CacheRead", "CacheWrite", "Source"]
    if rows:
        client.insert("model_prices", rows, column_names=names)
    return rows


def listed(provider: str, model: str, first: date, last: date) -> Iterator[Listed]:
    """The model's prices on its first day, and on each day up to the last on which they were others."""
    before: Any = ()
    for day in range((last - first).days + 1):
        at = first + timedelta(days=day)
        found = _on(provider, model, at)
        if found != before:
            yield Listed(provider, model, at, *found)
        before = found


def _on(
    provider: str, model: str, day: date
) -> tuple[Decimal | None, Decimal | None, Decimal | None, Decimal | None, str]:
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)

    def price(**tokens: int) -> Decimal | None:
        found = prices.cost(provider, model, Usage(**tokens), at).usd
        return None if found is None else found * (1_000_000 // _SAMPLE)

    version = prices.cost(provider, model, Usage(), at).version
    read, written = price(cache_read=_SAMPLE), price(cache_write=_SAMPLE)
    return price(uncached=_SAMPLE), price(output=_SAMPLE), read, written, version
