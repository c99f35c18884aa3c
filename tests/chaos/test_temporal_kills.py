"""kill -9 of the Temporal worker at each labelled step, of Temporal and of Postgres in every phase of an approval.

0 lost decisions, 0 doubled effects, and whoever is killed is back at work within five seconds. A seed chooses who
decides what, how often a step is passed, and, in the short version, which of the steps are tried.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from tests.chaos.conftest import SOAK
from tests.chaos.support.doomed_orchestrator import STEPS
from tests.support.approvals import decide, start, token
from tests.support.command import clean_environ
from tests.support.databases import Database
from tests.support.signals import until
from tests.support.temporal import Server, request_of, row

SEEDS = int(os.environ.get("BACKBEAT_SEEDS", "100")) if SOAK else 1
RUNS = 3  # approvals at a time
HEALTHY = 5.0  # seconds


class Site:
    """One database, one Temporal server, workers as processes, and the file that far writes go to."""

    def __init__(self, database: Database, server: Server, home: Path) -> None:
        self.database, self.server, self.home = database, server, home
        self.notes = home / "notes"
        self.alice = token(database, "alice")
        self._workers: list[subprocess.Popen[bytes]] = []
        self.wanted: dict[UUID, str] = {}

    def worker(self, *doom: str) -> "subprocess.Popen[bytes]":
        module = ["tests.chaos.support.doomed_orchestrator", *doom] if doom else ["temporal_worker"]
        environ = {
            **self.database.environ,
            "BACKBEAT_TEMPORAL_ADDRESS": self.server.address,
            "BACKBEAT_DEFINITIONS": "tests.support.noting",
            "BACKBEAT_TEST_NOTES": str(self.notes),
        }
        words = [sys.executable, "-m", *module, "run", "--task-queue", f"kills-{self.database.name}"]
        with (self.home / "worker.log").open("ab") as log:
            made = subprocess.Popen(words, cwd=self.home, env=clean_environ(**environ), stderr=log)
        self._workers.append(made)
        return made

    def begin(self, dice: Random) -> list[UUID]:
        """Escalate some; what people will decide is known here alone."""
        made = [start(self.database) for _ in range(RUNS)]
        self.wanted |= {one: dice.choice(["approve", "approve", "reject"]) for one in made}
        return made

    def decide(self, run: UUID) -> None:
        """Decide as soon as it is asked."""
        found = until(lambda: request_of(self.database, run), within=30, what="a question")
        assert found
        request, shown = found
        assert decide(self.database, self.alice, request, self.wanted[run], shown)["verdict"] == "accepted"

    def stop(self, worker: "subprocess.Popen[bytes]") -> None:
        worker.kill()
        worker.wait(30)

    def balance(self, runs: list[UUID]) -> None:
        """All ended as was decided; what was approved is noted once, and nothing else is."""

        def ended() -> bool:
            return all(row(self.database, run)["status"] == "completed" for run in runs)

        until(ended, within=60, what=f"ends: {[row(self.database, run) for run in runs]}")
        for run in runs:
            decision = {"approve": "approved", "reject": "rejected"}[self.wanted[run]]
            assert row(self.database, run)["result"]["decision"] == decision
        self.books()

    def books(self) -> None:
        """Of everything that ever ran here."""
        approved = sorted(str(run) for run, said in self.wanted.items() if said == "approve")
        ledger = self.database.sql("SELECT owner::text, mark, status FROM backbeat.side_effects ORDER BY owner::text")
        assert [(owner, status) for owner, _, status in ledger] == [(one, "done") for one in approved]
        noted = self.notes.read_text().split() if self.notes.exists() else []
        assert sorted(noted) == sorted(mark for _, mark, _ in ledger), "a doubled or lost effect"
        lost = "SELECT count(*) FROM backbeat.approval_decisions WHERE state_after NOT IN ('approved', 'rejected')"
        assert self.database.value(lost) == 0
        assert self.database.value("SELECT count(*) FROM backbeat.approval_decisions") == len(self.wanted)
        assert self.database.sql("SELECT * FROM backbeat.verify_audit()") == []

    def is_healthy(self) -> float:
        """Seconds until something that begins now has asked its question; it is then answered, too."""
        began = time.monotonic()
        run = start(self.database)
        self.wanted[run] = "reject"
        until(lambda: request_of(self.database, run), within=30, what="health")
        seconds = time.monotonic() - began
        self.decide(run)
        return seconds

    def close(self) -> None:
        for worker in self._workers:
            self.stop(worker)


@contextmanager
def _site(database: Database, home: Path) -> Iterator[Site]:
    server = Server(home)
    server.start()
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


def _kill_at(site: Site, step: str, dice: Random) -> float:
    """One campaign: a worker that dies at the step, another that takes over. Seconds until that one works."""
    doomed = site.worker(step, str(dice.randint(1, 2)))
    runs = site.begin(dice)
    for run in runs:
        # It may be dead before the last question is asked.
        until(lambda run=run: request_of(site.database, run) or doomed.poll() is not None, within=30)  # type: ignore[misc]
        if request_of(site.database, run):
            site.decide(run)
    # Steps of the effect come at most as often as something is approved.
    until(lambda: doomed.poll() is not None or _through(site, runs), within=30, what=f"a death at {step}")
    died = doomed.poll()
    site.stop(doomed)
    assert died in (-signal.SIGKILL, None)
    other = site.worker()
    log = site.home / "worker.log"
    seen = log.stat().st_size
    until(lambda: b"running approve_effect" in log.read_bytes()[seen:], within=30, what="a worker")
    seconds = site.is_healthy()
    decided = "SELECT workflow_id FROM backbeat.approval_requests WHERE closed_at IS NOT NULL"
    done = {one for (one,) in site.database.sql(decided)}
    for run in runs:
        if run not in done:
            site.decide(run)
    site.balance(runs)
    until(lambda: _through(site, list(site.wanted)), within=30)
    site.stop(other)
    return seconds


def _through(site: Site, runs: list[UUID]) -> bool:
    return all(row(site.database, run)["status"] == "completed" for run in runs)


@pytest.mark.parametrize("which", sorted(STEPS) if SOAK else ["some"])
def test_a_worker_that_dies_at_a_step_loses_and_doubles_nothing(site: Site, seed: int, which: str) -> None:
    dice = Random(seed)
    steps = [which] * SEEDS if SOAK else dice.sample(sorted(STEPS), 2)
    seconds = [_kill_at(site, step, dice) for step in steps]
    print(f"{steps}: healthy after {max(seconds):.2f} s at most")
    assert max(seconds) <= HEALTHY


def _kill_temporal(site: Site) -> None:
    site.server.kill()
    site.server.start()


def _kill_postgres(site: Site) -> None:
    site.database.server.daemon.kill()
    site.database.server.start()


PHASES = ("begun", "asked", "decided", "writing")


def _kill_engine(site: Site, kill: Callable[[Site], None], phase: str, dice: Random) -> float:
    """One campaign: the engine dies in this phase, and comes back. Seconds until something new is asked."""
    runs = site.begin(dice)
    if phase == "begun":
        kill(site)
    else:
        for run in runs:
            until(lambda run=run: request_of(site.database, run), within=30)  # type: ignore[misc]
    if phase == "asked":
        kill(site)
    hang = site.notes.with_suffix(".hang")
    if phase == "writing":
        site.wanted[runs[0]] = "approve"
        hang.touch()
    before = site.notes.stat().st_size if site.notes.exists() else 0
    for run in runs:
        site.decide(run)
    if phase == "writing":
        until(lambda: site.notes.exists() and site.notes.stat().st_size > before, within=30, what="a far write")
        hang.unlink()
    if phase in ("decided", "writing"):
        kill(site)
    seconds = site.is_healthy()
    site.balance(runs)
    until(lambda: _through(site, list(site.wanted)), within=30)
    return seconds


@pytest.mark.parametrize("kill", [_kill_temporal, _kill_postgres])
def test_an_engine_that_dies_in_any_phase_loses_and_doubles_nothing(
    site: Site, seed: int, kill: Callable[[Site], None]
) -> None:
    dice = Random(seed)
    site.worker()
    phases = PHASES * SEEDS if SOAK else dice.sample(PHASES, 2)
    seconds = [_kill_engine(site, kill, phase, dice) for phase in phases]
    print(f"{kill.__name__}: healthy after {max(seconds):.2f} s at most")
    assert max(seconds) <= HEALTHY
