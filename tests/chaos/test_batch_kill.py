"""kill -9 a tick that is at a batch, at each labelled step: the vendor gets each call once, and each ends once."""

from collections import Counter
from decimal import Decimal
from random import Random

import pytest

from tests.chaos.conftest import SOAK, OpenRig, soaking
from tests.chaos.support import books
from tests.chaos.support.rig import Rig, wait_for_leases
from tests.support.databases import Database

STEPS = {
    "after-open": 3,  # the call waits for a batch, its task does not know yet
    "before-submit": 1,  # the tag is committed
    "mid-submit": 1,  # the vendor has it, and has not answered
    "before-mark": 3,  # it has answered, and nobody wrote down what; or a look, or the end, was not written down
    "after-mark": 2,
    "after-close": 3,  # some calls of an ended batch are closed, and no task goes on
    "before-settle": 2,
}
SHORT = ("mid-submit",)  # where most is at stake; the tests of batches_unsure have the others in one process


@pytest.mark.parametrize("step", STEPS if SOAK else SHORT)
def test_a_batch_is_submitted_once(open_rig: OpenRig, database: Database, seed: int, step: str) -> None:
    dice, count = Random(f"{seed}:{step}"), soaking(3, 40)
    rig = open_rig(database, batch_takes=0.0)
    ids = rig.enqueue("batched", [{"n": n} for n in range(count)])
    killed = False
    for _ in range(12):
        time_passes(rig)
        tick = rig.tick(doom=None if killed else (step, dice.randint(1, STEPS[step])))
        code = tick.wait()
        assert code in ((0,) if killed else (0, -9)), tick.output
        if code == -9:
            killed = True
            wait_for_leases(rig.database)
        if not rig.live():
            break
    assert killed
    books.ended_once(rig, ids)
    books.flows_are_empty(rig)

    sent = Counter(name for one in rig.provider.ends(status=200) for name in one.get("custom_ids", ()))
    assert sorted(sent.values()) == [1] * count
    calls = rig.database.sql("SELECT seq, status, request, cost_usd FROM backbeat.model_calls")
    assert [call[:3] for call in calls] == [(1, "done", None)] * count
    money = "SELECT reserved_usd, spent_usd, presumed_usd FROM backbeat.budgets WHERE scope = 'tenant'"
    assert rig.database.sql(money) == [(Decimal(), sum(call[3] for call in calls), Decimal())]
    # A worker that died before it opened its calls leaves those to the next batch.
    batches = rig.database.sql("SELECT status, calls FROM backbeat.llm_batches")
    assert ({status for status, _ in batches}, sum(size for _, size in batches)) == ({"ended"}, count)


def time_passes(rig: Rig) -> None:
    """What waits has waited for a minute, and the lease on every batch is over."""
    rig.database.sql("UPDATE backbeat.model_calls SET opened_at = opened_at - interval '61 s' WHERE batch = ''")
    rig.database.sql("UPDATE backbeat.llm_batches SET next_at = backbeat.clock()")
