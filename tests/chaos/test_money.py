"""A hard cap holds by the provider's own log, nearly all of it can be used, and what waits for money flows later."""

from contextlib import ExitStack
from datetime import datetime
from decimal import Decimal
from random import Random

from tests.chaos.conftest import OpenRig, soaking
from tests.chaos.support import books
from tests.chaos.support.rig import Rig
from tests.support.databases import Database

CAP = Decimal("0.50")
# Sixteen interpreters alone keep two cores busy for half a minute.
PROCESSES, SLOTS = soaking((4, 4), (16, 4))


def test_racing_workers_keep_under_a_hard_cap(open_rig: OpenRig, database: Database, seed: int) -> None:
    dice = Random(seed)
    # Every character a token, so that a call costs about what it reserves: 0.5 to 1 cent.
    items = [{"n": n, "text": "!" * dice.randint(4000, 8000)} for n in range(120)]
    rig = open_rig(database, latency="0-0.05")
    ids = rig.enqueue("single", items)
    _set_cap(rig, CAP)
    with ExitStack() as workers:
        for _ in range(PROCESSES):
            workers.enter_context(rig.beat("--concurrency", str(SLOTS)))
        rig.is_drained(within=60)

    held = database.sql("SELECT hold_reason, hold_key, attempts FROM backbeat.simple_tasks")
    assert len(held) > 20
    assert set(held) == {("budget", "workflow/single", 0)}
    books.money_adds_up(rig)
    assert Decimal("0.95") * CAP <= books.spent(rig) <= CAP
    assert _spent_before_first_hold(rig) >= Decimal("0.95") * CAP

    _set_cap(rig, Decimal(5))
    rig.drain()
    books.balance(rig, ids)


def _set_cap(rig: Rig, usd: Decimal) -> None:
    rig.database.sql("SELECT backbeat.set_budget('workflow', 'single', %s, NULL, 'test')", [usd])


def _spent_before_first_hold(rig: Rig) -> Decimal:
    """What the provider had billed when the first task was held."""
    entries = "SELECT jsonb_array_elements(history) AS entry FROM backbeat.simple_tasks"
    first = f"SELECT min(entry ->> 'ended_at') FROM ({entries}) e WHERE entry ->> 'outcome' = 'hold'"
    moment = datetime.fromisoformat(rig.database.value(first))
    ends = [one for one in rig.requests("end") if datetime.fromisoformat(one["at"]) <= moment]
    return sum((books.cost(one) for one in ends), Decimal())
