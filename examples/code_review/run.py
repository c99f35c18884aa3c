"""One run of the demo, once the engines are up: enqueue, beat, decide, report, count."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from backbeat.embedded.stack import StackInfo
from backbeat.producer.rows import Enqueued
from backbeat.producer.submit import submit
from backbeat.reports.ask import Period, ask
from backbeat.reports.catalog import find
from backbeat.reports.render import render_text
from backbeat.reports.trace import trace_tree
from backbeat.visible import clean
from examples.code_review.approvers import Approvers
from examples.code_review.beat import Beat, Service
from examples.code_review.definitions import code_review
from examples.code_review.leftovers import GRACE
from examples.code_review.models import Commit
from examples.code_review.tally import Run, Tally, tally
from shared import clock
from shared.config import Config
from shared.db import queue
from shared.db.pool import Database, connect
from shared.definitions import load_definitions
from shared.errors import UnavailableError
from shared.execution.telemetry import open_telemetry
from shared.telemetry.shipper import ship_once

DEFINITIONS = "examples.code_review.definitions"
INTERVAL = 2.5  # seconds between beats
PATIENCE = 600.0  # seconds until a run that does not end is given up; a person at the keyboard has a day
TICK = ("--max-tasks", "5", "--budget", "40s", "--grace", "60s", "--lease", "15s")
HOW_TO_DECIDE = """
Some reviews block and wait for you. In another terminal, here:
  export BACKBEAT_CONFIG="{config}" BACKBEAT_TOKEN_FILE="{token}"
  .venv/bin/backbeat approval list
  .venv/bin/backbeat approval show ID
  .venv/bin/backbeat approval approve ID     (or reject; both take --comment TEXT)
"""
_OPEN = """
SELECT count(*) FILTER (WHERE t.finished_at IS NULL) AS tasks,
       count(*) FILTER (WHERE w.finished_at IS NULL AND w.id IS NOT NULL) AS workflows
FROM backbeat.tasks t LEFT JOIN backbeat.orchestrated_workflows w ON w.parent_task = t.id
WHERE t.id = ANY (%(tasks)s::uuid[])
"""
# A review that went all the way tells most; any other will do.
_ONE_TRACE = """
SELECT split_part(t.traceparent, '-', 2) AS trace_id
FROM backbeat.tasks t LEFT JOIN backbeat.orchestrated_workflows w ON w.parent_task = t.id
LEFT JOIN backbeat.approval_requests r ON r.workflow_id = w.id
WHERE t.id = ANY (%(tasks)s::uuid[]) ORDER BY (r.state = 'approved') IS TRUE DESC, t.id LIMIT 1
"""
talk = Console(stderr=True, highlight=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The demo's settings; `make demo` explains them."""

    repo: Path
    commits: int
    interactive: bool
    latency: str
    directory: Path
    cron_only: bool

    @property
    def fixture(self) -> Path:
        """Where the fixture repository is built."""
        return self.directory / "fixture"


class DemoRun:
    """Everything between `up` and `down`."""

    def __init__(
        self, options: Options, info: StackInfo, config: Config, environment: dict[str, str], started: float
    ) -> None:
        self._options = options
        self._info = info
        self._config = config
        self._started = started
        self._logs = options.directory / "log"
        self._approvers = Approvers(environment, options.directory / "people", f"local/{options.fixture.name}")
        home = options.directory / "demo"
        self._beat = Beat(TICK, environment, self._logs / "ticks.log", INTERVAL, home)
        self._temporal_worker = Service(
            ("-m", "temporal_worker", "run"),
            environment,
            self._logs / "temporal-worker.log",
            home / "temporal-worker.pid",
        )

    async def run(self, commits: Sequence[Commit]) -> Tally:
        """Review these commits to the end and count. Raises UnavailableError when it makes no end."""
        simulated = all(provider.simulated for provider in self._config.providers.values())
        vendor = "simulated" if simulated else "+".join(sorted(self._config.providers))
        latency = f", {self._info.latency} s a call, nothing is paid" if simulated else ", asked and paid for real"
        talk.print(
            f"models: {vendor}{latency}; GitHub: simulated by a recorder; all else is real",
            markup=False,
            soft_wrap=True,
        )
        async with connect(self._config.database_url) as db:
            since, tasks = await self._enqueue(db, commits)
            if not self._options.cron_only:
                self._approvers.enrol()
            try:
                await self._until_done(db, tasks)
            except BaseException:
                self._beat.stop(GRACE)
                self._temporal_worker.stop(GRACE)
                raise
            self._beat.stop()
            self._temporal_worker.stop()
            if self._beat.started:
                talk.print(f"{self._beat.started} ticks were started, {self._beat.overlapping} while another ran")
            if self._beat.failed:
                talk.print(
                    f"ticks ended with exit codes {self._beat.failed}: see {self._logs}", style="red", soft_wrap=True
                )
            if not self._options.cron_only:
                await self._report(db, tasks, vendor)
            counted = Run(
                tasks=tasks,
                since=since,
                provider_log=self._info.request_log("provider") if simulated else None,
                recorder_log=self._info.request_log("recorder"),
                telemetry=not self._options.cron_only,
            )
            seconds = clock.monotonic() - self._started
            return await tally(self._config, db, counted, seconds, self._info.latency, vendor)

    async def _enqueue(self, db: Database, commits: Sequence[Commit]) -> tuple[datetime, list[UUID]]:
        since: datetime = (await db.row("SELECT backbeat.clock() AS now"))["now"]
        await queue.register(db, "demo", "cron", load_definitions([DEFINITIONS]).rows())
        telemetry = open_telemetry(self._config, "demo")
        added = await submit(db, telemetry, code_review, commits, source_at=[commit.committed_at for commit in commits])
        telemetry.close()
        talk.print(_news(added), soft_wrap=True)
        return since, [answer.task_id for answer in added]

    async def _until_done(self, db: Database, tasks: Sequence[UUID]) -> None:
        deadline = clock.monotonic() + (86_400.0 if self._options.interactive else PATIENCE)
        with _progress() as progress:
            bar = progress.add_task("reviews", total=len(tasks), waiting=0)
            told = False
            while True:
                left = await db.row(_OPEN, {"tasks": list(tasks)})
                waiting = 0 if self._options.cron_only else left["workflows"]
                progress.update(bar, completed=len(tasks) - left["tasks"], waiting=waiting)
                if not left["tasks"] and not waiting:
                    return
                if clock.monotonic() > deadline:
                    what = f"{left['tasks']} tasks and {waiting} workflows do not end"
                    raise UnavailableError(what, fix=f"Read the logs in {self._logs}")
                if left["tasks"]:
                    self._beat.poll()
                if not self._options.cron_only:
                    self._temporal_worker.poll()
                if waiting:
                    told = self._ask_people(told)
                await clock.sleep(0.5)

    def _ask_people(self, told: bool) -> bool:
        if not self._options.interactive:
            for line in self._approvers.decide():
                talk.print(f"  {clean(line)}", markup=False, soft_wrap=True)
        elif not told and self._approvers.pending():
            text = HOW_TO_DECIDE.format(config=self._info.config, token=self._approvers.token("alice"))
            talk.print(text, markup=False, soft_wrap=True)
            return True
        return told

    async def _report(self, db: Database, tasks: Sequence[UUID], vendor: str) -> None:
        """Take what is still spooled to ClickHouse, then ask it what the work cost, and for one whole trace."""
        shipped = ship_once(self._config.spool_dir, self._config.clickhouse_url, 30.0)
        if shipped.error:
            talk.print(f"telemetry: {shipped.error}", style="red", markup=False, soft_wrap=True)
        summary = render_text(ask(self._config.clickhouse_url, find("summary"), Period.last(timedelta(days=7))))
        trace = (await db.row(_ONE_TRACE, {"tasks": list(tasks)}))["trace_id"]
        tree = trace_tree(self._config.clickhouse_url, trace)
        heading = f"Model calls of the last 7 days ({vendor} models), as ClickHouse has them"
        sys.stdout.write(f"\n{heading}\n{summary}\nOne review, from enqueue to effect\n{tree}\n")


def _news(added: Sequence[Enqueued]) -> str:
    """How many there are to review, and that the others cost nothing."""
    new = sum(answer.created for answer in added)
    stored = sum(answer.status in ("succeeded", "escalated") for answer in added)
    news = f"{len(added)} commits: {new} to review"
    if open_ := len(added) - new - stored:
        news += f", {open_} begun by an earlier run"
    if stored == len(added):
        return f"{len(added)} commits, all reviewed by an earlier run: answered from stored results, no model is called"
    return f"{news}, {stored} answered from stored results" if stored else news


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[waiting]} waiting for people"),
        TimeElapsedColumn(),
        console=talk,
        transient=True,
        disable=not talk.is_terminal,
    )
