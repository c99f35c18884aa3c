"""Prices: golden figures, unknown ones, and a ceiling that no call of its size can pass."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from genai_prices import Usage as Counts
from genai_prices import calc_price, data_snapshot
from genai_prices.types import ModelPrice
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.usage import Usage
from shared.llm import prices
from shared.llm.prices import Price, ceiling, cost, upper_tokens
from shared.llm.protocol import CacheTtl, Request
from shared.llm.routes import Route, load_routes

AT = datetime(2026, 11, 22, tzinfo=UTC)
ROUTES = sorted({route for routes in load_routes().tiers.values() for route in routes}, key=lambda route: route.name)


@pytest.mark.parametrize(
    ("provider", "model", "usage", "usd"),
    [
        ("anthropic", "claude-opus-4-7", Usage(uncached=50_000, output=3_000), "0.325"),
        ("anthropic", "claude-haiku-4-5", Usage(1_000, 2_000, 4_000, 100), "0.0067"),
        ("anthropic", "claude-haiku-4-5-20251001", Usage(uncached=1_000), "0.001"),
        ("anthropic", "claude-sonnet-4-6", Usage(uncached=300_000, output=1_000), "0.915"),
        ("openai", "gpt-6-luna", Usage(1_000, 10_000, 0, 7), "0.0002035"),
        ("openai", "gpt-5.4-mini", Usage(1_000, 0, 1_000, 0), "0.0015"),
        ("anthropic", "claude-opus-4-7", Usage(uncached=10, output=1_000, reasoning=900), "0.02505"),
        ("anthropic", "claude-opus-4-7", Usage(), "0"),
    ],
)
def test_golden_costs(provider: str, model: str, usage: Usage, usd: str) -> None:
    assert cost(provider, model, usage, AT).usd == Decimal(usd)


def test_prices_are_those_of_the_day() -> None:
    before = cost("anthropic", "claude-sonnet-4-6", Usage(uncached=300_000), datetime(2026, 3, 1, tzinfo=UTC))
    assert before.usd == Decimal("1.8")
    assert cost("anthropic", "claude-sonnet-4-6", Usage(uncached=300_000), AT).usd == Decimal("0.9")


def test_an_hour_in_the_cache_costs_twice_the_input() -> None:
    usage = Usage(cache_write=1_000)
    assert cost("anthropic", "claude-opus-4-7", usage, AT, cache="1h").usd == Decimal("0.01")
    assert cost("anthropic", "claude-opus-4-7", usage, AT, cache="5m").usd == Decimal("0.00625")


@pytest.mark.parametrize(
    ("provider", "model"), [("anthropic", "claude-opus-9"), ("openai", "gpt-6.2-sol"), ("me", "mine")]
)
def test_an_unknown_price_is_none_and_says_which_data_did_not_know_it(provider: str, model: str) -> None:
    for found in (cost(provider, model, Usage(uncached=1), AT), ceiling(provider, model, 1, 1, AT)):
        assert found.usd is None
        assert found.version.startswith("genai-prices/")


@pytest.fixture
def list_price(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Change what the price data says about claude-opus-4-7."""
    _, model = data_snapshot.get_snapshot().find_provider_model("claude-opus-4-7", None, "anthropic", None)

    def change(**known: Decimal) -> None:
        monkeypatch.setattr(model, "prices", ModelPrice(**known))
        prices._rates.cache_clear()

    yield change
    prices._rates.cache_clear()


@pytest.mark.parametrize("half", ["input_mtok", "output_mtok"])
def test_a_model_listed_with_half_a_price_is_unknown_where_that_matters(
    list_price: Callable[..., None], half: str
) -> None:
    list_price(**{half: Decimal(5)})
    priced, unpriced = Usage(uncached=1), Usage(output=1)
    if half == "output_mtok":
        priced, unpriced = unpriced, priced
    assert cost("anthropic", "claude-opus-4-7", priced, AT).usd == Decimal("0.000005")
    assert cost("anthropic", "claude-opus-4-7", unpriced, AT).usd is None
    assert ceiling("anthropic", "claude-opus-4-7", 1, 1, AT).usd is None


@pytest.mark.parametrize(
    ("own", "cache", "usd"),
    [
        (Price(Decimal(3), Decimal(15)), "5m", "0.0180"),  # 1,000 + 500 + 500 of input at 3, 800 of output at 15
        (Price(Decimal(3), Decimal(15)), "1h", "0.0189"),  # what is written for an hour costs 1.6 times that
        (Price(Decimal(3), Decimal(15), Decimal("0.3"), Decimal("3.75")), "5m", "0.017025"),
        (Price(Decimal(3), Decimal(15), Decimal("0.3"), Decimal("3.75")), "1h", "0.01815"),
        (Price(Decimal(3), Decimal(15), Decimal(0)), None, "0.0165"),  # a price of nothing is a price
        (Price(Decimal(0), Decimal(0)), "5m", "0"),
    ],
)
def test_a_routes_own_price_stands_in_for_the_list_price(own: Price, cache: CacheTtl | None, usd: str) -> None:
    usage = Usage(uncached=1_000, cache_read=500, cache_write=500, output=800)
    assert own.of(usage, cache) == Decimal(usd)
    found = cost("anthropic", "nobody-knows-it", usage, datetime(2026, 11, 23, tzinfo=UTC), cache=cache, price=own)
    assert (found.usd, found.version) == (Decimal(usd), f"route/{own.input}/{own.output}")


def test_below_a_nano_dollar_a_ceiling_goes_up_and_a_cost_to_the_even_digit(list_price: Callable[..., None]) -> None:
    list_price(input_mtok=Decimal("0.0125"), output_mtok=Decimal(1))
    assert str(cost("anthropic", "claude-opus-4-7", Usage(uncached=1), AT).usd) == "1.2E-8"
    assert cost("anthropic", "claude-opus-4-7", Usage(uncached=3), AT).usd == Decimal("0.000000038")
    assert ceiling("anthropic", "claude-opus-4-7", 1, 0, AT).usd == Decimal("0.000000013")


@pytest.mark.parametrize(
    ("model", "cache", "tokens", "usd"),
    [
        ("claude-opus-4-7", "5m", 50_000, "0.3875"),  # 6.25 a million to write, 25 out
        ("claude-opus-4-7", "1h", 50_000, "0.575"),
        ("claude-haiku-5-5", "5m", 100_001, "0.070000625"),  # above its 100 k threshold, both rates
    ],
)
def test_golden_ceilings(model: str, cache: CacheTtl, tokens: int, usd: str) -> None:
    assert ceiling("anthropic", model, tokens, 3_000, AT, cache=cache).usd == Decimal(usd)


@given(
    st.sampled_from(ROUTES),
    st.tuples(*[st.integers(0, 400_000)] * 3),
    st.integers(0, 128_000),
    st.integers(0, 500),
    st.sampled_from(["5m", "1h", None]),
)
def test_no_call_costs_more_than_its_ceiling(
    route: Route, split: tuple[int, int, int], output: int, slack: int, cache: CacheTtl | None
) -> None:
    provider, model = route.provider, route.model
    spent = cost(provider, model, Usage(*split, output), AT, cache=cache).usd
    most = ceiling(provider, model, sum(split) + slack, output + slack, AT, cache=cache).usd
    assert spent is not None
    assert most is not None
    assert spent <= most


@given(st.sampled_from(ROUTES), st.tuples(*[st.integers(0, 400_000)] * 4), st.sampled_from(["5m", "1h"]))
def test_the_list_itself_says_the_same(route: Route, usage: tuple[int, int, int, int], cache: CacheTtl) -> None:
    uncached, read, written, output = usage
    counts = Counts(
        input_tokens=uncached + read + written,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=written if cache == "1h" else 0,
        output_tokens=output,
    )
    listed = calc_price(counts, route.model, provider_id=route.provider, genai_request_timestamp=AT).total_price
    found = cost(route.provider, route.model, Usage(*usage), AT, cache=cache).usd
    assert found == listed.quantize(Decimal("0.000000001"), ROUND_HALF_EVEN)


def test_every_route_we_ship_has_a_price() -> None:
    for route in ROUTES:
        assert ceiling(route.provider, route.model, route.window, route.max_output, AT).usd, route.name


@given(st.text())
def test_upper_tokens_counts_bytes_of_all_texts(text: str) -> None:
    assert upper_tokens(text, text) - upper_tokens("") == 2 * len(text.encode())


def test_upper_tokens_counts_the_schema_and_bears_undecodable_text() -> None:
    request = Request(model="m", prompt="é", max_output_tokens=1, timeout=1.0, system="s", schema={"a": 1})
    assert upper_tokens(*request.texts) == 512 + 1 + 2 + len('{"a": 1}')
    assert upper_tokens("\udcff") == 512 + 3
