"""Which models serve a tier, in order of preference. A TOML file says so, not the code: model names age.

Postgres may say otherwise while processes run: see `Routes.over`.
"""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from shared.errors import ConfigError
from shared.llm.prices import Price

NOTICE = timedelta(days=90)  # before a route's sunset
DEFAULT_FILE = Path(__file__).with_name("routes.toml")
ABLE = ("json_schema", "usage")
CAPABILITIES = (*ABLE, "json_object", "cache", "seed", "max_completion_tokens", "batch")
_NEEDED: dict[str, type] = {"provider": str, "model": str, "window": int, "max_output": int, "bounded": bool}
_LIMITS: dict[str, type] = dict.fromkeys(("rpm", "itpm", "otpm", "max_in_flight"), int)
_KNOWN = {**_NEEDED, **_LIMITS, "batch": bool, "price": dict, "sunset": date, "capabilities": list}


@dataclass(frozen=True, slots=True)
class Route:
    """One model of one vendor.

    `window` is what input and output may be together, `max_output` what one answer may be, both in tokens.
    `bounded`: the input can be counted beforehand and the output limit is honoured, so that a hard cap holds.
    `rpm`, `itpm`, `otpm` are requests, input and output tokens a minute; `max_in_flight` calls at a time; None: any.
    `price` stands in for the list price. `sunset` is the day from which the vendor no longer answers, where the file or
    sunsets.toml names it. By `batch` calls wait for batches. `capabilities` say what an endpoint can do; see
    docs/how-to/connect-a-provider.md.
    """

    name: str
    provider: str
    model: str
    window: int
    max_output: int
    bounded: bool
    rpm: int | None = None
    itpm: int | None = None
    otpm: int | None = None
    max_in_flight: int | None = None
    price: Price | None = None
    sunset: date | None = None
    capabilities: tuple[str, ...] = ABLE
    batch: bool = False

    @property
    def limited(self) -> bool:
        """Whether calls need a moment of its rate."""
        return any((self.rpm, self.itpm, self.otpm, self.max_in_flight))


@dataclass(frozen=True, slots=True)
class Routes:
    """The tiers of one file. `canaries` are routes that some percent of a tier's tasks take instead."""

    tiers: Mapping[str, tuple[Route, ...]]
    source: str
    canaries: Mapping[str, tuple[Route, int]] = field(default_factory=dict)
    table: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def for_tier(self, tier: str, providers: Collection[str] | None = None, dice: int = 100) -> tuple[Route, ...]:
        """The routes of a tier, best first, of `providers` only when given. Raises ConfigError if there is none.

        `dice` is a number from 0 to 99: one below a canary's percent puts the canary first.
        """
        if tier not in self.tiers:
            raise ConfigError(f"{self.source} has no tier {tier!r}", fix=f"It has {', '.join(self.tiers)}")
        canary, percent = self.canaries.get(tier, (None, 0))
        routes = (canary, *self.tiers[tier]) if canary and dice < percent else self.tiers[tier]
        found = tuple(route for route in routes if providers is None or route.provider in providers)
        if not found:
            wanted = sorted({route.provider for route in self.tiers[tier]})
            raise ConfigError(
                f"tier {tier!r} needs a provider: {' or '.join(wanted)}", fix="Configure one, with its API key"
            )
        return found

    def over(self, said: Sequence[Mapping[str, Any]]) -> "Routes":
        """These routes with what `llm_routes` says about tiers and routes. Raises ConfigError naming the entry."""
        tiers, routes = (
            {row["key"]: row["body"] for row in said if row["scope"] == scope} for scope in ("tier", "route")
        )
        if not tiers and not routes:
            return self
        entries = self.table.get("routes", {})
        changed = {name: {**entries.get(name, {}), **body} for name, body in routes.items()}
        lists = {tier: body["routes"] for tier, body in tiers.items() if "routes" in body}
        table = {"tiers": {**self.table.get("tiers", {}), **lists}, "routes": {**entries, **changed}}
        made = _build(f"{self.source} and llm_routes", table)
        canaries = {t: (made.known(t, b["canary"]), int(b["percent"])) for t, b in tiers.items() if "canary" in b}
        return replace(made, canaries=canaries)

    def warnings(self, today: date) -> list[str]:
        """A line for each route of a tier whose vendor has named the day of its end."""
        served = sorted({one for tier in self.tiers.values() for one in tier}, key=lambda one: one.name)
        ends = [(one, one.sunset) for one in served if one.sunset and one.sunset - today <= NOTICE]
        said = "{0.name}: {0.model} {1} on {2}: name another in the tier"
        return ["route " + said.format(one, "ended" if day <= today else "ends", day) for one, day in ends]

    def known(self, tier: str, name: str) -> Route:
        """A route by its name. Raises ConfigError, saying that `tier` wants it."""
        if name not in self.table["routes"]:
            raise ConfigError(
                f"{self.source}: tier {tier!r} names route {name!r}, which is not there",
                fix=f"Add [routes.{name!r}]",
            )
        return _route(self.source, name, self.table["routes"][name])


def load_routes(path: Path | None = None) -> Routes:
    """Read a routes file; without a path, the one that comes with Backbeat. Raises ConfigError naming the entry."""
    file = path or DEFAULT_FILE
    try:
        return _build(str(file), tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"routes file {file} cannot be read: {error}", fix="Correct the file") from error


@cache
def ends() -> dict[str, date]:
    """The last day of each model whose vendor has named one."""
    days = tomllib.loads(DEFAULT_FILE.with_name("sunsets.toml").read_text(encoding="utf-8"))
    return {model: date.fromisoformat(day) for day, models in days.items() for model in models}


def _build(source: str, table: Mapping[str, Any]) -> Routes:
    unknown = sorted(table.keys() - {"tiers", "routes"})
    if unknown:
        raise ConfigError(f"{source}: unknown table {unknown[0]!r}", fix="Known tables: tiers, routes")
    named = Routes({}, source, table={"routes": {}, **table})
    for name, entry in table.get("routes", {}).items():
        _route(source, name, entry)
    tiers = {tier: tuple(named.known(tier, one) for one in names) for tier, names in table.get("tiers", {}).items()}
    return replace(named, tiers=tiers)


def _route(source: str, name: str, entry: Any) -> Route:
    if not isinstance(entry, Mapping) or _NEEDED.keys() - entry.keys() or entry.keys() - _KNOWN.keys():
        fix = f"It needs {', '.join(_NEEDED)}, and may have {', '.join(_KNOWN.keys() - _NEEDED.keys())}"
        raise ConfigError(f"{source}: route {name!r} is incomplete", fix=fix)
    made = {"sunset": ends().get(str(entry["model"])), **entry}
    for key, value in entry.items():
        kind = _KNOWN[key]
        try:
            if kind is date:
                made[key] = value if isinstance(value, date) else date.fromisoformat(value)
            elif key == "price":
                made[key] = Price(**{part: Decimal(str(amount)) for part, amount in value.items()})
            elif key == "capabilities":
                made[key] = tuple(CAPABILITIES[CAPABILITIES.index(word)] for word in value)
            elif type(value) is not kind or value == "" or (isinstance(value, int) and kind is int and value < 1):
                raise ValueError(value)
        except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
            fix = f"Give a proper {kind.__name__}" + (f" of {', '.join(CAPABILITIES)}" if kind is list else "")
            raise ConfigError(f"{source}: route {name!r}: {key} is {value!r}", fix=fix) from error
    return Route(name=name, **made)
