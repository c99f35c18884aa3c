"""kill -9 of the Temporal worker (dispatcher, relay and all), of Temporal and of Postgres at each labelled step.

0 lost decisions, 0 doubled effects, no child or undo lost, no answered call paid again, and five seconds after what was
killed is started everything works; more while other tests run beside it. A seed chooses who decides what, how often a
step is passed, and, in the short version, which of the steps are tried; the long one tries all of them with each seed.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from uuid import UUID

import psycopg
import pytest

from tests.chaos.conftest import SOAK
from tests.chaos.support.doomed_orchestrator import STEPS
from tests.support import children
from tests.support.approvals import decide, start, token, worker_rows
from tests.support.command import clean_environ, command
from tests.support.databases import AUDIT_PROBLEMS, Database
from tests.support.signals import until
from tests.support.simulated import service
from tests.support.temporal import Server, request_of, row

SEEDS = int(os.environ.get("BACKBEAT_SEEDS", "100")) if SOAK else 1
RUNS = 3  # approvals at a time
SHORT = 3  # steps of the short version
HEALTHY = 5.0  # seconds, for three of four
BESIDE_OTHERS = {"worker": 20.0, "temporal": 10.0, "postgres": 10.0}  # the same, while other tests run
MODULES = "tests.support.noting,tests.chaos.support.risky"


class Site:
    """One database, one Temporal server, workers as processes, and the file that far writes go to."""

    def __init__(self, database: Database, server: Server, home: Path) -> None:
        self.database, self.server, self.home = database, server, home
        self.notes = home / "notes"
        self.alice = token(database, "alice")
        self._workers: list[children.Process] = []
        self.wanted: dict[UUID, str] = {}
        self.risky: dict[UUID, bool] = {}
        self.environ = {
            **self.database.environ,
            "BACKBEAT_TEMPORAL_ADDRESS": self.server.address,
            "BACKBEAT_DEFINITIONS": MODULES,
            "BACKBEAT_TEST_NOTES": str(self.notes),
        }

    def worker(self, *doom: str, stops: bool = False) -> children.Process:
        module = ["tests.chaos.support.doomed_orchestrator", *doom] if doom else ["temporal_worker"]
        environ = {**self.environ, "BACKBEAT_TEST_STOPS": str(int(stops))}
        words = [*module, "run", "--task-queue", f"kills-{self.database.name}"]
        with (self.home / "worker.log").open("ab") as log:
            made = children.start(*words, home=self.home, environ=clean_environ(**environ), stderr=log)
        self._workers.append(made)
        return made

    def begin(self, dice: Random) -> list[UUID]:
        """Escalate some; what people will decide is known here alone."""
        made = [start(self.database) for _ in range(RUNS)]
        self.wanted |= {one: dice.choice(["approve", "approve", "reject"]) for one in made}
        for fails in (False, True):
            self.risky[_risky(self.database, str(len(self.risky)), fails=fails)] = fails
        return made

    def tick(self) -> None:
        """Run the children that wait."""
        if self.database.value("SELECT count(*) FROM backbeat.simple_tasks"):
            words = ("tick", "--budget", "50", "--grace", "5", "--lease", "20s")
            command("cron_worker", *words, home=self.home, environ=self.environ)

    def decide(self, run: UUID) -> None:
        """Decide as soon as it is asked."""
        found = until(lambda: request_of(self.database, run), within=30, what="a question")
        assert found
        request, shown = found
        assert decide(self.database, self.alice, request, self.wanted[run], shown)["verdict"] == "accepted"

    def stop(self, worker: children.Process) -> None:
        worker.kill()
        worker.wait(30)

    def balance(self, runs: list[UUID]) -> None:
        """All ended as was decided; what was approved is noted once, and nothing else is."""

        def ended() -> bool:
            self.tick()
            return _through(self, runs)

        until(ended, within=90, what=f"ends: {[row(self.database, run) for run in runs]}")
        for run in runs:
            decision = {"approve": "approved", "reject": "rejected"}[self.wanted[run]]
            assert row(self.database, run)["result"]["decision"] == decision
        self.books()

    def books(self) -> None:
        """Of everything that ever ran here."""
        approved = [str(run) for run, said in self.wanted.items() if said == "approve"]
        written = [str(run) for run, fails in self.risky.items() for _ in range(1 + fails)]
        ledger = self.database.sql("SELECT owner::text, mark, status FROM backbeat.side_effects ORDER BY owner::text")
        assert [(owner, status) for owner, _, status in ledger] == [(one, "done") for one in sorted(approved + written)]
        noted = self.notes.read_text().split() if self.notes.exists() else []
        assert sorted(noted) == sorted(mark for _, mark, _ in ledger), "a doubled or lost effect"
        lost = "SELECT count(*) FROM backbeat.approval_decisions WHERE state_after NOT IN ('approved', 'rejected')"
        assert self.database.value(lost) == 0
        assert self.database.value("SELECT count(*) FROM backbeat.approval_decisions") == len(self.wanted)
        assert self.database.sql(AUDIT_PROBLEMS) == []
        paid = "SELECT owner, count(*) FROM backbeat.model_calls WHERE status = 'done' GROUP BY 1"
        assert dict(self.database.sql(paid)) == dict.fromkeys(self.risky, 1), "a call was paid twice"
        children = "SELECT count(*) FROM backbeat.finished_tasks WHERE status = 'succeeded'"
        assert self.database.value(children) == 2 * len(self.risky), "a child was lost, or made twice"

    def becomes_healthy(self) -> None:
        """Until something that begins now has asked its question."""
        run = until(lambda: _begun(self.database), within=30, what="Postgres")
        assert run
        self.wanted[run] = "reject"
        until(lambda: request_of(self.database, run), within=30, what="health")

    def close(self) -> None:
        for worker in self._workers:
            self.stop(worker)
        self._workers.clear()


def _risky(database: Database, name: str, *, fails: bool) -> UUID:
    known = json.dumps([{"name": "risky", "version": 1, "tier": "-", "max_attempts": 1}])
    worker_rows(database, "SELECT backbeat.register_definitions('temporal', %s::jsonb)", [known])
    call = "SELECT id FROM backbeat.start_orchestration('risky', 1, 'default', %s::jsonb, NULL, NULL)"
    (found,) = worker_rows(database, call, [json.dumps({"name": name, "fails": fails})])
    assert isinstance(found["id"], UUID)
    return found["id"]


def _begun(database: Database) -> UUID | None:
    with suppress(psycopg.OperationalError):
        return start(database)
    return None


@contextmanager
def _site(database: Database, home: Path) -> Iterator[Site]:
    server = Server(home)
    server.start()
    with service("provider", home / "calls.jsonl", "--latency", "0") as provider:
        said = f'[providers.anthropic]\nbase_url = "{provider.url}/anthropic"\nsimulated = true\n'
        (home / "backbeat.toml").write_text(said)
        site = Site(database, server, home)
        try:
            yield site
        finally:
            site.close()
            server.kill()


@pytest.fixture
def site(private_database: Database, tmp_path: Path) -> Iterator[Site]:
    with _site(private_database, tmp_path) as made:
        yield made


def _kill_temporal(site: Site) -> None:
    site.server.kill()


def _start_temporal(site: Site) -> None:
    site.server.start()


def _kill_postgres(site: Site) -> None:
    site.database.server.daemon.kill()


def _start_postgres(site: Site) -> None:
    site.database.server.start()


def _start_worker(site: Site) -> None:
    site.worker()


Act = Callable[[Site], None]
VICTIMS: dict[str, tuple[Act, Act]] = {
    "worker": (lambda _: None, _start_worker),  # it has died by its own hand
    "temporal": (_kill_temporal, _start_temporal),
    "postgres": (_kill_postgres, _start_postgres),
}


def _kill_at(site: Site, victim: str, step: str, dice: Random) -> tuple[float, float]:
    """One campaign: somebody dies at this step of the worker. Seconds from its start until it is up, and to health."""
    kill, restart = VICTIMS[victim]
    doomed = site.worker(step, str(dice.randint(1, 2)), stops=victim != "worker")
    runs = site.begin(dice)
    for run in runs:
        # It may be there before the last question is asked.
        until(lambda run=run: request_of(site.database, run) or _struck(doomed), within=30)  # type: ignore[misc]
        if request_of(site.database, run):
            site.decide(run)

    # Steps of the effect come at most as often as something is approved.
    def over() -> bool:
        if _struck(doomed):
            return True
        site.tick()
        return _through(site, runs)

    until(over, within=60, what=f"a death at {step}")
    if victim == "worker":
        died = doomed.poll()
        site.stop(doomed)
        assert died in (-signal.SIGKILL, None)
    kill(site)
    if victim != "worker":
        doomed.send_signal(signal.SIGCONT)
    began = time.monotonic()
    restart(site)
    up = time.monotonic() - began
    site.becomes_healthy()
    seconds = time.monotonic() - began
    print(f"{victim} at {step}: up after {up:.2f} s, healthy after {seconds:.2f} s")
    decided = "SELECT workflow_id FROM backbeat.approval_requests WHERE closed_at IS NOT NULL"
    done = {one for (one,) in site.database.sql(decided)}
    for run in site.wanted:
        if run not in done:
            site.decide(run)
    site.balance(list(site.wanted))
    site.close()
    return up, seconds


def _struck(worker: children.Process) -> bool:
    """Whether it has died, or stopped, at its step."""
    if worker.poll() is not None:
        return True
    return Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _through(site: Site, runs: list[UUID]) -> bool:
    """These approvals, and whatever else was begun."""
    ends = {run: "failed" if fails else "completed" for run, fails in site.risky.items()}
    return all(
        row(site.database, run)["status"] == end for run, end in {**dict.fromkeys(runs, "completed"), **ends}.items()
    )


@pytest.mark.timeout(3600 if SOAK else 400)
@pytest.mark.parametrize("number", range(SEEDS))
@pytest.mark.parametrize("victim", sorted(VICTIMS))
def test_who_dies_at_a_step_loses_and_doubles_nothing(site: Site, seed: int, victim: str, number: int) -> None:
    dice = Random(seed + number)
    steps = dice.sample(sorted(STEPS), len(STEPS) if SOAK else SHORT)
    seconds = [_kill_at(site, victim, step, dice) for step in steps]
    # How long an engine's own start takes is the machine's affair; a worker's is ours.
    assert _three_of_four([healthy - up for up, healthy in seconds]) <= (HEALTHY if SOAK else BESIDE_OTHERS[victim])


def _three_of_four(values: list[float]) -> float:
    return sorted(values)[round(0.75 * len(values)) - 1]
