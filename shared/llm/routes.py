"""Which models serve a tier, in order of preference. A TOML file says so, not the code: model names age."""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from shared.errors import ConfigError

DEFAULT_FILE = Path(__file__).with_name("routes.toml")
CAPABILITIES = ("json_schema", "usage", "json_object", "cache", "seed", "max_completion_tokens")
ABLE = CAPABILITIES[:2]  # unless a route says otherwise


@dataclass(frozen=True, slots=True)
class Route:
    """One model of one vendor.

    `window` is what input and output may be together, `max_output` what one answer may be, both in tokens.
    `bounded`: the input can be counted beforehand and the output limit is honoured, so that a hard cap holds.
    `capabilities` say what an OpenAI-compatible endpoint can do; see docs/how-to/connect-a-provider.md.
    """

    name: str
    provider: str
    model: str
    window: int
    max_output: int
    bounded: bool
    capabilities: tuple[str, ...] = ABLE


@dataclass(frozen=True, slots=True)
class Routes:
    """The tiers of one file."""

    tiers: Mapping[str, tuple[Route, ...]]
    source: str

    def for_tier(self, tier: str, providers: Collection[str] | None = None) -> tuple[Route, ...]:
        """The routes of a tier, best first, of `providers` only when given. Raises ConfigError if there is none."""
        if tier not in self.tiers:
            raise ConfigError(f"{self.source} has no tier {tier!r}", fix=f"It has {', '.join(self.tiers)}")
        found = tuple(route for route in self.tiers[tier] if providers is None or route.provider in providers)
        if not found:
            wanted = sorted({route.provider for route in self.tiers[tier]})
            raise ConfigError(
                f"tier {tier!r} needs a provider: {' or '.join(wanted)}", fix="Configure one, with its API key"
            )
        return found


def load_routes(path: Path | None = None) -> Routes:
    """Read a routes file; without a path, the one that comes with Backbeat. Raises ConfigError naming the entry."""
    file = path or DEFAULT_FILE
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"routes file {file} cannot be read: {error}", fix="Correct the file") from error
    unknown = sorted(table.keys() - {"tiers", "routes"})
    if unknown:
        raise ConfigError(f"{file}: unknown table {unknown[0]!r}", fix="Known tables: tiers, routes")
    routes = {name: _route(file, name, entry) for name, entry in table.get("routes", {}).items()}
    tiers = {
        tier: tuple(_known(file, tier, name, routes) for name in names)
        for tier, names in table.get("tiers", {}).items()
    }
    return Routes(tiers, str(file))


def _known(file: Path, tier: str, name: str, routes: Mapping[str, Route]) -> Route:
    if name not in routes:
        raise ConfigError(
            f"{file}: tier {tier!r} names route {name!r}, which is not there", fix=f"Add [routes.{name!r}]"
        )
    return routes[name]


def _route(file: Path, name: str, entry: Any) -> Route:
    wanted: dict[str, Any] = {field.name: field.type for field in fields(Route)[1:-1]}
    if not isinstance(entry, Mapping) or entry.keys() - {"capabilities"} != wanted.keys():
        raise ConfigError(f"{file}: route {name!r} is incomplete", fix=f"It needs exactly {', '.join(wanted)}")
    for key, kind in wanted.items():
        if type(entry[key]) is not kind or entry[key] == "" or (kind is int and entry[key] < 1):
            raise ConfigError(f"{file}: route {name!r}: {key} is {entry[key]!r}", fix=f"Give a proper {kind.__name__}")
    able = entry.get("capabilities", [*ABLE])
    if not isinstance(able, list) or not all(word in CAPABILITIES for word in able):
        fix = f"Give a list of {', '.join(CAPABILITIES)}"
        raise ConfigError(f"{file}: route {name!r}: capabilities is {able!r}", fix=fix)
    return Route(name=name, **{**entry, "capabilities": tuple(able)})
