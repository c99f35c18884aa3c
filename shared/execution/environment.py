"""What an execution has around it, handed down explicitly: database, routes, vendors, telemetry, time."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

from shared import clock
from shared.config import Config
from shared.db.pool import Database
from shared.definitions import Registry
from shared.errors import ConfigError
from shared.execution.prefixes import Prefixes
from shared.execution.routing import Routing
from shared.execution.telemetry import open_telemetry
from shared.llm.protocol import Provider, make_provider
from shared.llm.routes import Routes, load_routes
from shared.telemetry.spans import Telemetry


@dataclass(slots=True)
class Deadline:
    """Two moments of one tick: `starts_until` ends new calls, `ends_by` ends every call (monotonic seconds)."""

    starts_until: float = float("inf")
    ends_by: float = float("inf")

    @classmethod
    def after(cls, budget: float, grace: float) -> "Deadline":
        """Starts end in `budget` seconds from now, and everything `grace` seconds after that."""
        now = clock.monotonic()
        return cls(now + budget, now + budget + grace)

    def allows(self, expected: float) -> bool:
        """Whether something that takes about `expected` seconds may start now."""
        now = clock.monotonic()
        return now < self.starts_until and now + expected <= self.ends_by

    def patience(self, expected: float) -> float:
        """Seconds for which something that takes about `expected` seconds may put off its start."""
        now = clock.monotonic()
        return max(min(self.starts_until - now, self.ends_by - now - expected), 0.0)

    @property
    def left(self) -> float:
        """Seconds until everything must have ended."""
        return self.ends_by - clock.monotonic()


@dataclass(slots=True)
class Environment:
    """One process' surroundings. Vendors are connected when a call first needs them, and shared from then on."""

    config: Config
    db: Database
    registry: Registry
    routes: Routes
    telemetry: Telemetry
    runtime: str = "cron"
    deadline: Deadline = field(default_factory=Deadline)
    rng: Random = field(default_factory=Random)
    expected_seconds: dict[str, float] = field(default_factory=dict)
    likely_shares: dict[tuple[str, str], tuple[Decimal, Decimal]] = field(default_factory=dict)
    prefixes: Prefixes = field(default_factory=Prefixes)
    routing: Routing = field(init=False)
    _providers: dict[str, Provider] = field(default_factory=dict)
    _connecting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.routing = Routing(self.db, self.routes, self.config.providers)

    async def provider(self, name: str) -> Provider:
        """The vendor's connection. Raises ConfigError when no key is configured."""
        async with self._connecting:
            if name not in self._providers:
                if name not in self.config.providers:
                    fix = f"Set {name.upper()}_API_KEY, or start the simulated one: `backbeat up`"
                    raise ConfigError(f"no provider {name!r} is configured", fix=fix)
                self._providers[name] = await asyncio.to_thread(make_provider, self.config.providers[name])
            return self._providers[name]

    def simulated(self, provider: str) -> bool:
        """Whether answers of this vendor are made up by the simulator."""
        return provider in self.config.providers and self.config.providers[provider].simulated

    async def aclose(self) -> None:
        """Close the vendors' connections, and give back what is left of their rates."""
        await self.routing.aclose()
        for provider in self._providers.values():
            await provider.aclose()


@asynccontextmanager
async def surroundings(
    config: Config, service: str, db: Database, registry: Registry, **more: Any
) -> AsyncIterator[Environment]:
    """A worker's environment, closed at its end; models that are near theirs are warned of. Raises ConfigError."""
    routes, telemetry = load_routes(config.routes_file), open_telemetry(config, service)
    for line in routes.warnings(clock.wall().date()):
        logging.getLogger(service).warning("%s", line)
    env = Environment(config, db, registry, routes, telemetry, **more)
    try:
        yield env
    finally:
        await env.aclose()
        telemetry.close()
