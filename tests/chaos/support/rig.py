"""A database, a simulated provider, a recorder, and ticks as real processes that are started, stopped and killed."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs
from uuid import UUID

from backbeat.embedded import ports
from backbeat.producer.submit import submit
from shared.db import pool, queue
from shared.db.pool import Database as Connection
from shared.definitions import load_definitions
from shared.telemetry.spans import NullTelemetry
from tests.chaos.support.doomed import PROVIDER_LOG
from tests.support.children import FOREIGN, Process, start
from tests.support.databases import Database
from tests.support.signals import until
from tests.support.simulated import service
from tests.support.tree import ROOT

T = TypeVar("T")

WORK = "tests.chaos.support.work"
LEASE = "2s"
_ROUTES = """\
[tiers]
small = ["claude-haiku-4-5"]
[routes.claude-haiku-4-5]
provider = "anthropic"
model = "claude-haiku-4-5"
window = 200_000
max_output = 64_000
bounded = true
"""  # one, so that a refused call has nowhere else to go
_CONFIG = """\
routes_file = "{routes}"
[providers.anthropic]
base_url = "http://127.0.0.1:{port}/anthropic"
simulated = true
"""


@dataclass
class Tick:
    """One `cron_worker` process."""

    process: Process
    log: Path

    @property
    def output(self) -> str:
        """What it wrote to stderr so far."""
        return self.log.read_text()

    def wait(self, within: float = 90.0) -> int:
        """Its exit code, once it has ended; -9 after a kill."""
        return self.process.wait(timeout=within)

    def ends_well(self, within: float = 90.0) -> None:
        """Wait for exit code 0."""
        assert self.wait(within) == 0, self.output

    def is_killed(self, within: float = 90.0) -> None:
        """Wait for its death by SIGKILL."""
        assert self.wait(within) == -signal.SIGKILL, self.output

    def send(self, number: signal.Signals) -> None:
        """Signal it: SIGSTOP, SIGCONT, SIGTERM, SIGKILL."""
        self.process.send_signal(number)


@dataclass
class Rig:
    """One campaign's surroundings. Everything it started is gone when it closes."""

    database: Database
    directory: Path
    seed: int = 1
    latency: str = "0.1-0.3"
    batch_takes: float = 20.0  # seconds
    faults: Sequence[dict[str, Any]] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    provider_port: int = field(default_factory=ports.find)
    _stack: ExitStack = field(default_factory=ExitStack)
    _ticks: list[Tick] = field(default_factory=list)

    def __enter__(self) -> Self:
        (self.directory / "routes.toml").write_text(_ROUTES)
        settings = _CONFIG.format(port=self.provider_port, routes=self.directory / "routes.toml")
        (self.directory / "backbeat.toml").write_text(settings)
        self.recorder = self._stack.enter_context(service("recorder", self.directory / "reviews.jsonl"))
        self.start_provider()
        return self

    def __exit__(self, *_: object) -> None:
        for tick in self._ticks:
            tick.process.kill()
            tick.process.wait(timeout=60)
        self._stack.close()

    def start_provider(self) -> None:
        """Start the provider as `latency` and `faults` say; after a kill at the same address with the same log."""
        plan = self.directory / "faults.jsonl"
        plan.write_text("".join(f"{json.dumps(line)}\n" for line in self.faults))
        where = ["--port", str(self.provider_port), "--seed", str(self.seed)]
        how = ["--latency", self.latency, "--faults", str(plan), "--batch-takes", str(self.batch_takes)]
        self.provider = self._stack.enter_context(service("provider", self.directory / "calls.jsonl", *where, *how))

    def restart_provider(self, **changed: Any) -> None:
        """Kill the provider and start it again, its `latency` or `faults` changed."""
        self.provider.kill()
        for name, value in changed.items():
            setattr(self, name, value)
        self.start_provider()

    @property
    def spool(self) -> Path:
        """Where the ticks leave their spans."""
        return self.directory / "spool"

    def environ(self, *modules: str) -> dict[str, str]:
        """What a tick finds in its environment."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return clean | {
            **self.database.environ,
            "BACKBEAT_CONFIG": str(self.directory / "backbeat.toml"),
            "BACKBEAT_DEFINITIONS": ",".join(modules or [WORK]),
            "BACKBEAT_GITHUB_API": self.recorder.url,
            "BACKBEAT_TELEMETRY": "spool",
            "BACKBEAT_SPOOL_DIR": str(self.spool),
            PROVIDER_LOG: str(self.provider.log),
            **self.settings,
        }

    def tick(self, *flags: str, doom: tuple[str, int] | None = None, modules: Sequence[str] = ()) -> Tick:
        """Start a tick with the rig's lease; `doom` names the step and the occurrence at which it kills itself."""
        runner = ["tests.chaos.support.doomed", doom[0], str(doom[1])] if doom else ["cron_worker"]
        command = [*runner, "tick", "--budget", "60s", "--grace", "5s", "--lease", LEASE, *flags]
        log = self.directory / f"tick-{len(self._ticks)}.log"
        with log.open("wb") as out:
            process = start(*command, home=ROOT, environ=self.environ(*modules), stderr=out)
        tick = Tick(process, log)
        self._ticks.append(tick)
        return tick

    @contextmanager
    def beat(self, *flags: str, modules: Sequence[str] = ()) -> Iterator[Tick]:
        """A healthy worker that ticks five times a second while the block lasts.

        Its lease is one that no stall outlasts, lest it take its own tasks for lost.
        """
        tick = self.tick("--every", "200ms", "--lease", "20s", *flags, modules=modules)
        yield tick
        tick.send(signal.SIGTERM)
        assert tick.wait() in (0, -signal.SIGTERM), tick.output  # the second: before it could listen

    def drain(self, within: float = 90.0) -> None:
        """Let a healthy worker tick until no task is live, held ones excepted."""
        with self.beat():
            self.is_drained(within)

    def is_drained(self, within: float = 90.0) -> None:
        """Wait until no task is live, held ones excepted."""
        live = "SELECT count(*) FROM backbeat.simple_tasks WHERE status <> 'held'"
        until(lambda: self.database.value(live) == 0, within=within, what=f"a drained queue: {self.live()}")

    def live(self) -> list[tuple[Any, ...]]:
        """The live tasks, for messages."""
        return self.database.sql(
            "SELECT id, workflow, status, hold_reason, attempts, history FROM backbeat.simple_tasks"
        )

    def register(self, *modules: str) -> None:
        """Make the workflows known without any worker having them loaded."""
        registry = load_definitions(modules or [WORK])
        self.ask(lambda db: queue.register_definitions(db, "cron", registry.rows()))

    def enqueue(self, name: str, items: Sequence[dict[str, Any]], **options: Any) -> list[UUID]:
        """Enqueue one task an item; their ids."""
        definition = load_definitions([WORK]).newest(name)
        self.register()
        added = self.ask(lambda db: submit(db, NullTelemetry(), definition, items, **options))
        return [one.task_id for one in added]

    def ask(self, question: Callable[[Connection], Awaitable[T]]) -> T:
        """Ask the database something with the workers' login."""

        async def run() -> T:
            async with pool.connect(self.database.worker_url, max_size=1) as db:
                return await question(db)

        return asyncio.run(run())

    def requests(self, event: str = "start") -> list[dict[str, Any]]:
        """The provider's log, each entry with the call that was named to it: owner, key and seq."""
        found = []
        for entry in self.provider.entries(event):
            (owner,), (key,), (seq,) = map(parse_qs(entry["call"]).__getitem__, ("owner", "key", "seq"))
            found.append(entry | {"owner": UUID(owner), "key": key, "seq": int(seq)})
        return found

    def called(self, count: int, *, within: float = 20.0) -> None:
        """Wait until the provider has seen so many requests."""
        until(lambda: len(self.provider.entries("start")) >= count, within=within, what=f"{count} requests")


def wait_for_leases(database: Database, within: float = 10.0) -> None:
    """Wait until no lease of a running task is good any more."""
    good = "SELECT count(*) FROM backbeat.simple_tasks WHERE status = 'running' AND lease_until > backbeat.clock()"
    until(lambda: database.value(good) == 0, within=within, what="expired leases")
    time.sleep(0.01)
