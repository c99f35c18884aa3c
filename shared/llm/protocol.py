"""What a model call is: one request and one reply, whichever vendor answers.

Importing this module loads no vendor SDK; `make_provider` and `preload` do.
"""

import importlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol
from urllib.parse import urlencode

from shared.config import ProviderConfig
from shared.domain.usage import Usage
from shared.errors import ConfigError, UnavailableError

Stop = Literal["end", "length", "refusal", "tool", "context", "error", "unknown"]
CacheTtl = Literal["5m", "1h"]

CALL_HEADER = "x-backbeat-call"
CONNECT_SECONDS = 5.0
POOL = 32  # calls in flight
ADAPTERS = ("anthropic", "openai", "compatible")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One model call. Sending it makes exactly one HTTP request.

    `system` is the stable prefix and gets the cache mark where the vendor wants one (`cache` is the life of the entry,
    None marks nothing). A prompt that `grows` begins with the whole one of the call before, and is kept too. `schema`
    is what `structured.json_schema` gave. `metadata` names the call to whoever reads the vendor's log, form-encoded in
    the header `x-backbeat-call`. `capabilities` are its route's.
    """

    model: str
    prompt: str
    max_output_tokens: int
    timeout: float  # seconds, for the whole call
    system: str = ""
    schema: Mapping[str, Any] | None = None
    schema_name: str = "output"
    cache: CacheTtl | None = "5m"
    grows: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    capabilities: Collection[str] = ("json_schema", "usage")

    @property
    def texts(self) -> tuple[str, str, str]:
        """Everything the vendor may count as input, for `prices.upper_tokens`."""
        return self.system, self.prompt, json.dumps(self.schema) if self.schema else ""

    @property
    def wire_headers(self) -> dict[str, str]:
        """The headers to send beside the vendor's own."""
        return {**self.headers, **({CALL_HEADER: urlencode(self.metadata)} if self.metadata else {})}


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, billed by `usage` whatever `stop` says. `detail` is the vendor's own word for the stop.

    `limits` are the headers it came with, those that say what the vendor still allows among them.
    """

    text: str
    usage: Usage
    stop: Stop
    model: str
    response_id: str
    request_id: str | None = None
    detail: str = ""
    limits: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


class UnreadableReplyError(UnavailableError):
    """A vendor said 2xx and sent something that is no reply: billed, most likely, and nothing to show for it."""


class Provider(Protocol):
    """One vendor. It holds one pool of connections, so a process makes one and shares it.

    Where it has `async def count(request) -> int | None`, that says how many input tokens a request has, unsent.
    """

    async def send(self, request: Request) -> Reply:
        """Make the call, once. Raises the vendor SDK's errors, TimeoutError or UnreadableReplyError: see `classify`."""

    async def aclose(self) -> None:
        """Close the connections."""


def _adapter(kind: str) -> Any:
    if kind not in ADAPTERS:
        raise ConfigError(f"no provider is called {kind!r}", fix=f"Use one of {', '.join(ADAPTERS)}")
    return importlib.import_module(f"shared.llm.providers.{kind}")


def make_provider(config: ProviderConfig) -> Provider:
    """Connect to the vendor `config` names, loading its SDK. Raises ConfigError without an API key."""
    if not config.api_key and not config.kind:
        variable = f"{config.name.upper()}_API_KEY"
        raise ConfigError(f"provider {config.name!r} has no API key", fix=f"Set {variable} or {variable}_FILE")
    return Pools(partial(_adapter(config.adapter).connect, config))


class Pools:
    """One vendor behind several pools of connections: a pool looks at all of its own at each request and each answer.

    Measured with 256 calls in flight, looking through them took a fifth of a tick's CPU.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect, self._busy = connect, {connect(): 0}

    def __getattr__(self, name: str) -> Any:
        return getattr(next(iter(self._busy)), name)

    async def send(self, request: Request) -> Reply:
        """Make the call, once, in the first pool that has room."""
        pool = next((pool for pool, busy in self._busy.items() if busy < POOL), None) or self._connect()
        self._busy[pool] = self._busy.get(pool, 0) + 1
        try:
            reply: Reply = await pool.send(request)
            return reply
        finally:
            self._busy[pool] -= 1

    async def aclose(self) -> None:
        """Close the connections."""
        for pool in self._busy:
            await pool.aclose()


def preload(kinds: Iterable[str]) -> None:
    """Load the SDKs of these adapters now: about half a second to one second of CPU each."""
    for kind in kinds:
        _adapter(kind)
