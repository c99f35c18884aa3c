"""Anything at any time: workers and engines of a running system are killed, stopped and started by chance."""

import signal
from collections import Counter
from contextlib import suppress
from random import Random
from time import monotonic, sleep

import pytest

from tests.chaos.conftest import OpenRig
from tests.chaos.support import books
from tests.chaos.support.rig import Rig, Tick
from tests.support.databases import Database

SECONDS = 240.0
WORKERS = 3


class Weather:
    """Strikes a running system, a blow at a time; what it hits comes back."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self._rig, self._dice = rig, Random(seed)
        self._workers = [self._worker() for _ in range(WORKERS)]
        self._stopped: list[Tick] = []

    def strike(self) -> None:
        """Do one harm, and perhaps wake whom an earlier one had stopped."""
        blows = [self._kill_worker, self._kill_worker, self._stop_worker, self._kill_provider, self._kill_postgres]
        self._dice.choice(blows)()
        while self._stopped and self._dice.random() < 0.5:
            self._stopped.pop(0).send(signal.SIGCONT)

    def calm(self) -> None:
        """Wake everybody and let them finish what they do."""
        for worker in self._workers:
            with suppress(ProcessLookupError):
                worker.send(signal.SIGCONT)
                worker.send(signal.SIGTERM)
        for worker in self._workers:
            worker.wait(within=60)

    def _worker(self) -> Tick:
        return self._rig.tick("--every", "200ms")

    def _kill_worker(self) -> None:
        at = self._dice.randrange(WORKERS)
        self._workers[at].process.kill()
        self._workers[at] = self._worker()

    def _stop_worker(self) -> None:
        self._stopped.append(self._dice.choice(self._workers))
        self._stopped[-1].send(signal.SIGSTOP)

    def _kill_provider(self) -> None:
        self._rig.restart_provider()

    def _kill_postgres(self) -> None:
        self._rig.database.server.daemon.kill()
        self._rig.database.server.start()


@pytest.mark.soak
def test_whatever_happens_the_books_balance(open_rig: OpenRig, private_database: Database, seed: int) -> None:
    rig = open_rig(private_database, latency="0.1-1", faults=[{"fault": "disconnect-after", "rate": 0.02}])
    dice, ids, n = Random(seed), [], 0
    weather = Weather(rig, seed)
    end = monotonic() + SECONDS
    while monotonic() < end:
        items = [{"n": n + i, "text": f"of seed {seed}"} for i in range(1, dice.randint(2, 8))]
        n += len(items)
        ids += rig.enqueue("sturdy", items)
        sleep(dice.uniform(0, 3))
        weather.strike()
    weather.calm()
    rig.drain(within=300)
    statuses = Counter(row["status"] for row in books.calls(rig))
    print(f"{len(ids)} tasks; calls: {dict(statuses)}")
    assert statuses["lost"] > 10
    books.balance(rig, ids, zombies=True)
    books.spans_are_whole(rig)
