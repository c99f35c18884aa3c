"""One run of the demo, once the engines are up: payments come in, ticks work, people decide, everything is counted."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from backbeat.embedded import ports
from backbeat.embedded.stack import StackInfo
from backbeat.producer.rows import Terms
from backbeat.producer.submit import submit_many
from examples.code_review.beat import Beat, Service
from examples.fraud_review import meter
from examples.fraud_review.analysts import Analysts
from examples.fraud_review.definitions import judge, screen
from examples.fraud_review.generator import Labelled
from examples.fraud_review.issuer import URL
from examples.fraud_review.tally import Evidence, gather
from shared import clock
from shared.config import Config
from shared.db.pool import Database, connect
from shared.db.queue import register_definitions
from shared.errors import UnavailableError
from shared.execution.payloads import prepared
from shared.execution.telemetry import open_telemetry

PATIENCE = 1800.0  # seconds beyond the arrivals until a run that does not end is given up
LOOK = 0.2  # seconds between looks
BUDGET, GRACE = 40.0, 10.0  # seconds at least: on a busy machine a tick takes many to load a vendor's library
_LIVE = """
SELECT count(*) FILTER (WHERE t.workflow = 'screen') AS screening,
       count(*) FILTER (WHERE t.workflow = 'judge') AS judging,
       (SELECT count(*) FROM backbeat.orchestrated_workflows w WHERE w.finished_at IS NULL) AS waiting
FROM backbeat.simple_tasks t
"""
talk = Console(stderr=True, highlight=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The demo's settings; `--help` explains them."""

    transactions: int
    seed: int
    processes: int
    beat: float
    arrive: float
    latency: str
    directory: Path
    cron_only: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """How long the new payments took from the first arrival to the last verdict, and what that used."""

    new: int
    seconds: float
    ticks: int
    cpu_ticks: float
    cpu_postgres: float


async def run(
    options: Options, info: StackInfo, config: Config, environment: dict[str, str], made: Sequence[Labelled]
) -> tuple[Measured, Evidence]:
    """Take these payments to their ends, then ask every source. Raises UnavailableError when they make no end."""
    simulated = all(provider.simulated for provider in config.providers.values())
    provider_log = info.request_log("provider") if simulated else None
    async with connect(config.database_url) as db:
        await register_definitions(db, "cron", [screen.row, judge.row])
        running = _Run(options, info, config, environment, db, made)
        measured = await running.to_the_end()
        return measured, await gather(db, made, provider_log, running.issuer_log)


class _Run:
    """Who is at work while payments come in: the beat, the Temporal worker, the issuer and the analysts."""

    def __init__(
        self,
        options: Options,
        info: StackInfo,
        config: Config,
        environment: dict[str, str],
        db: Database,
        made: Sequence[Labelled],
    ) -> None:
        self._options, self._config, self._db, self._made = options, config, db, made
        self._logs = options.directory / "log"
        self.issuer_log = options.directory / "issuer" / "blocks.jsonl"
        self._postgres = next(engine.pid for engine in info.engines if engine.name == "postgres")
        planted = {one.transaction.id for one in made if one.pattern}
        self._analysts = None if options.cron_only else Analysts(options.directory / "people", planted)
        port = ports.find()
        environment = {**environment, URL: f"http://127.0.0.1:{port}"}
        budget, grace = max(options.beat * 0.7, BUDGET), max(options.beat * 0.2, GRACE)
        arguments = ("--budget", f"{budget:.1f}s", "--grace", f"{grace:.0f}s", "--lease", "20s")
        # Each process has its own place in the beat, so that they do not all start in the same second.
        every, most = options.beat / options.processes, options.processes
        home = options.directory / "run"
        home.mkdir(parents=True, exist_ok=True)
        self._beat = Beat(arguments, environment, self._logs / "ticks.log", every, home, most)
        far_side = ("-m", "examples.fraud_review.far_side", "--port", str(port), "--log", str(self.issuer_log))
        worker = ("-m", "temporal_worker", "run")
        self._services = [
            Service(far_side, environment, self._logs / "issuer.log", home / "issuer.pid"),
            Service(worker, environment, self._logs / "temporal-worker.log", home / "temporal-worker.pid"),
        ]
        self._fed = self._new = 0

    async def to_the_end(self) -> Measured:
        """All judged, and where there are people all decided."""
        if self._analysts:
            await self._analysts.enrol(self._config)
        before, started = (meter.children(), meter.tree(self._postgres)), clock.monotonic()
        feeding = asyncio.create_task(self._feed())
        try:
            await self._until("tasks", lambda live: feeding.done() and not live["screening"] + live["judging"])
            await feeding
            seconds = clock.monotonic() - started
            self._beat.stop()
            used = (meter.children() - before[0], meter.tree(self._postgres) - before[1])
            if self._analysts:
                await self._until("workflows", lambda live: not live["waiting"])
        finally:
            feeding.cancel()
            self._beat.stop()
            for service in self._services:
                service.stop()
        return Measured(self._new, seconds, self._beat.started, *used)

    async def _feed(self) -> None:
        """Enqueue the payments evenly over the time they are to arrive in."""
        telemetry = open_telemetry(self._config, "demo")
        started, terms = clock.monotonic(), Terms(workflow=screen.name, version=screen.version)
        while self._fed < len(self._made):
            share = (clock.monotonic() - started + LOOK) / max(self._options.arrive, LOOK)
            due = self._made[self._fed : int(len(self._made) * min(share, 1.0))]
            rows = [prepared(screen, one.transaction.model_dump(mode="json")) for one in due]
            async for _, new in submit_many(self._db, telemetry, screen, terms, rows):
                self._new += new
            self._fed += len(due)
            await clock.sleep(LOOK)
        telemetry.close()

    async def _until(self, what: str, over: Callable[[Mapping[str, int]], bool]) -> None:
        """Keep everybody at work until it is over."""
        deadline = clock.monotonic() + self._options.arrive + PATIENCE
        with _progress() as progress:
            bar = progress.add_task("payments", total=len(self._made), screening=0, judging=0, waiting=0)
            while True:
                live = await self._db.row(_LIVE)
                busy = live["screening"] + live["judging"]
                progress.update(bar, completed=max(self._fed - busy, 0), **live)
                if over(live):
                    return
                if clock.monotonic() > deadline:
                    raise UnavailableError(
                        f"some {what} do not end: {dict(live)}", fix=f"Read the logs in {self._logs}"
                    )
                if busy:
                    self._beat.poll()
                if self._analysts:
                    for service in self._services:
                        service.poll()
                    await self._analysts.decide(self._db)
                await clock.sleep(LOOK)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[judging]} with the model, {task.fields[waiting]} with people"),
        TimeElapsedColumn(),
        console=talk,
        transient=True,
        disable=not talk.is_terminal,
    )
