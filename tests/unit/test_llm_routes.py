"""The routes file: the default one, a custom one, and every way to get one wrong."""

import re
from datetime import date, datetime
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.llm.routes import DEFAULT_FILE, Route, ends, load_routes

GOOD = """
[tiers]
small = ["mini"]
vision = ["eye", "mini"]
[routes.mini]
provider = "openai"
model = "gpt-mini"
window = 1000
max_output = 100
bounded = true
[routes.eye]
provider = "anthropic"
model = "claude-eye"
window = 2000
max_output = 200
bounded = false
"""


def test_the_default_file_serves_the_three_tiers_with_either_vendor() -> None:
    routes = load_routes()
    assert [routes.for_tier(tier)[0].model for tier in ("small", "medium", "large")] == [
        "claude-haiku-4-5",
        "claude-sonnet-4-6",
        "claude-opus-4-7",
    ]
    for tier in ("small", "medium", "large"):
        for vendor in ("anthropic", "openai"):
            only = routes.for_tier(tier, {vendor})
            assert only
            assert {route.provider for route in only} == {vendor}
            assert all(route.bounded and 0 < route.max_output < route.window for route in only)


def test_a_file_of_ones_own_replaces_the_default(tmp_path: Path) -> None:
    file = tmp_path / "routes.toml"
    file.write_text(GOOD)
    routes = load_routes(file)
    assert set(routes.tiers) == {"small", "vision"}
    assert routes.for_tier("vision") == (
        Route("eye", "anthropic", "claude-eye", 2000, 200, bounded=False),
        Route("mini", "openai", "gpt-mini", 1000, 100, bounded=True),
    )
    with pytest.raises(ConfigError, match=r"no tier 'large'.*It has small, vision"):
        routes.for_tier("large")
    with pytest.raises(ConfigError, match="tier 'small' needs a provider: openai"):
        routes.for_tier("small", {"anthropic"})


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('["mini"]', '["maxi"]', "tier 'small' names route 'maxi'"),
        ("[tiers]", "[teirs]", "unknown table 'teirs'"),
        ("window = 1000\n", "", "route 'mini' is incomplete"),
        ("window = 1000\n", "window = 1000\nprize = 3\n", "route 'mini' is incomplete"),
        ("window = 1000\n", "window = 1000\nprice = 3\n", "route 'mini': price is 3"),
        ("window = 1000\n", "window = 1000\nprice = {input = 1}\n", "route 'mini': price is"),
        ("window = 1000\n", "window = 1000\nrpm = 0\n", "route 'mini': rpm is 0"),
        ("window = 1000\n", "window = 1000\nrpm = 1.5\n", "route 'mini': rpm is"),
        ("window = 1000\n", 'window = 1000\nsunset = "soon"\n', "route 'mini': sunset is 'soon'"),
        ("window = 1000\n", 'window = 1000\ncapabilities = ["fly"]\n', "route 'mini': capabilities is ['fly']"),
        ("window = 1000", 'window = "1000"', "route 'mini': window is '1000'"),
        ("window = 1000", "window = true", "route 'mini': window is True"),
        ("window = 1000", "window = 0", "route 'mini': window is 0"),
        ("window = 1000", "window = -1", "route 'mini': window is -1"),
        ("bounded = true", "bounded = 1", "route 'mini': bounded is 1"),
        ('"gpt-mini"', '""', "route 'mini': model is ''"),
        ("window = 1000", 'window = 1000\ncapabilities = ["telepathy"]', "route 'mini': capabilities is ['telepathy']"),
        ("window = 1000", 'window = 1000\ncapabilities = "usage"', "route 'mini': capabilities is 'usage'"),
        ("[tiers]", "[tiers", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, before: str, after: str, said: str) -> None:
    file = tmp_path / "routes.toml"
    file.write_text(GOOD.replace(before, after, 1))
    with pytest.raises(ConfigError) as caught:
        load_routes(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_routes(tmp_path / "none.toml")


def test_what_a_route_can_do(tmp_path: Path) -> None:
    file = tmp_path / "routes.toml"
    file.write_text(GOOD.replace("window = 1000", 'window = 1000\ncapabilities = ["json_object", "seed"]', 1))
    assert load_routes(file).for_tier("small")[0].capabilities == ("json_object", "seed")
    assert load_routes(file).for_tier("vision")[0].capabilities == ("json_schema", "usage")


def test_the_end_of_a_model_is_known_where_the_file_does_not_say_it(tmp_path: Path) -> None:
    file = tmp_path / "routes.toml"
    file.write_text(GOOD.replace("gpt-mini", "gpt-4o-mini").replace("claude-eye", "claude-sonnet-4-5"))
    assert {route.sunset for tier in load_routes(file).tiers.values() for route in tier} == {
        date(2026, 11, 30),
        date(2027, 1, 14),
    }
    assert any("gpt-4o-mini ends on 2027-01-14" in line for line in load_routes(file).warnings(date(2026, 12, 1)))
    file.write_text(file.read_text().replace("bounded = true\n", "bounded = true\nsunset = 2030-01-01\n"))
    assert date(2030, 1, 1) in {route.sunset for tier in load_routes(file).tiers.values() for route in tier}


def test_the_ends_we_ship_are_those_the_vendors_sdks_know() -> None:
    """A new SDK that names others is a failure here, not a surprise later."""
    from anthropic.resources.messages.messages import DEPRECATED_MODELS
    from openai.types.shared import chat_model

    said = {
        model: datetime.strptime(re.sub(r"(?<=\d)(st|nd|rd|th)", "", day), "%B %d, %Y").date()  # noqa: DTZ007
        for model, day in DEPRECATED_MODELS.items()
    }
    for entry in Path(str(chat_model.__file__)).read_text().partition("Deprecated values:")[2].split("\n- ")[1:]:
        if day := re.search(r"shutdown\s+date:\s+([\d-]+)\.", entry):
            names = re.findall(r'"([^"]+)"', entry.partition("nnounced")[0])
            said |= dict.fromkeys(names, date.fromisoformat(day[1]))
    assert dict(ends()) == said


def test_the_end_of_a_model_is_told_when_it_is_near(tmp_path: Path) -> None:
    file = tmp_path / "routes.toml"
    file.write_text(DEFAULT_FILE.read_text())
    routes = load_routes(file)
    assert routes.warnings(date(2026, 12, 31)) == []
    near, past = (routes.warnings(day) for day in (date(2027, 1, 1), date(2027, 4, 1)))
    assert near == ["route gpt-5.1: gpt-5.1 ends on 2027-04-01: name another in the tier"]
    assert past == ["route gpt-5.1: gpt-5.1 ended on 2027-04-01: name another in the tier"]
