"""kill -9 what the workers lean on, in mid tick, and start it again: nothing is lost, nothing happens twice."""

from collections.abc import Callable

import pytest

from tests.chaos.conftest import OpenRig, soaking
from tests.chaos.support import books
from tests.chaos.support.rig import LEASE, Rig
from tests.support.databases import Database


def _postgres(rig: Rig) -> None:
    rig.database.server.daemon.kill()
    rig.database.server.start()


def _provider(rig: Rig) -> None:
    rig.restart_provider()


@pytest.mark.parametrize("kill", [_postgres, _provider])
def test_an_engine_killed_in_mid_tick_costs_no_task(
    open_rig: OpenRig, private_database: Database, kill: Callable[[Rig], None]
) -> None:
    rig = open_rig(private_database)
    ids = []
    for campaign in range(soaking(1, 8)):
        items = [{"n": 6 * campaign + n} for n in range(1, 7)]
        ids += [*rig.enqueue("single", items), *rig.enqueue("loop", items)]
        before = len(rig.provider.entries("start"))
        with rig.beat("--lease", LEASE) as worker:  # a claim whose answer was lost must come back
            for calls in (4, 12):
                rig.called(before + calls)
                kill(rig)
            rig.is_drained(within=120)
        assert "does not answer" not in worker.output, "a tick that gave up"
    books.balance(rig, ids, zombies=True)
