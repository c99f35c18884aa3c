"""The books after a campaign, read from three sides: Postgres, the provider's log, the recorder's log.

Each function asserts one law. `balance` asserts them all.
"""

import json
from collections import Counter
from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from backbeat.embedded.simulated import log
from shared.domain.usage import Usage
from shared.ids import span_id
from shared.llm import prices
from shared.telemetry.spool import read_batch
from tests.chaos.support.rig import Rig

_COLUMNS = (
    "owner call_key seq status lease day reserved_usd reserved_tokens cost_usd response_id valid opened_at closed_at "
    + " ".join(Usage().as_dict())
)


def balance(rig: Rig, ids: Collection[UUID], *, zombies: bool = False) -> None:
    """All the laws for tasks that are through, and have all succeeded."""
    ended_once(rig, ids)
    calls_paid_once(rig, zombies=zombies)
    money_adds_up(rig)
    posted_once(rig)
    flows_are_empty(rig)


def calls(rig: Rig) -> list[dict[str, Any]]:
    """The rows of model_calls."""
    columns = _COLUMNS.split()
    rows = rig.database.sql(f"SELECT {', '.join(columns)} FROM backbeat.model_calls")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def ended_once(rig: Rig, ids: Collection[UUID]) -> None:
    """Every task is in the history, once, as succeeded; none is live, none is dead."""
    assert rig.live() == []
    ended = rig.database.sql("SELECT id, status FROM backbeat.finished_tasks")
    assert sorted(ended) == sorted((one, "succeeded") for one in ids)
    assert rig.database.sql("SELECT * FROM backbeat.dead_letters") == []


def calls_paid_once(rig: Rig, *, zombies: bool = False) -> None:
    """A call is answered once; its other rows were lost or refused. The provider saw nothing else than that.

    With `zombies`, a row may be answered after it was given up for lost, so that there are two answers; but never is a
    call opened that had been answered by then.
    """
    rows = {(row["owner"], row["call_key"], row["seq"]): row for row in calls(rig)}
    answered = Counter((row["owner"], row["call_key"]) for row in rows.values() if row["status"] == "done")
    assert answered.keys() == {(owner, key) for owner, key, _ in rows}
    assert zombies or set(answered.values()) <= {1}
    assert "open" not in {row["status"] for row in rows.values()}
    for (owner, key, seq), row in rows.items():
        before = rows.get((owner, key, seq - 1))
        assert before is None or before["status"] != "done" or before["closed_at"] > row["opened_at"], "paid again"

    sent = Counter((one["owner"], one["key"], one["seq"]) for one in rig.requests())
    assert sent.keys() <= rows.keys(), "a request without a row"
    assert not sent or max(sent.values()) == 1, "a row that was sent twice"
    unsent = rows.keys() - sent.keys()
    assert {rows[one]["status"] for one in unsent} <= {"lost", "refused"}, "an answer without a request"

    ends = {(one["owner"], one["key"], one["seq"]): one for one in rig.requests("end")}
    for name, row in rows.items():
        if row["status"] == "done":
            assert ends[name]["answer"] == row["response_id"]
            assert ends[name]["usage"] == {part: row[part] for part in Usage().as_dict()}


def spent(rig: Rig) -> Decimal:
    """What the provider would bill for everything it did, by its own log and the public prices."""
    return sum((cost(one) for one in rig.requests("end") if one["billed"]), Decimal())


def cost(end: dict[str, Any]) -> Decimal:
    """What one request of the provider's log costs."""
    bill = prices.cost(end["vendor"], end["model"], Usage(**end["usage"]), datetime.fromisoformat(end["at"]))
    assert bill.usd is not None
    return bill.usd


def money_adds_up(rig: Rig) -> None:
    """Nothing stays reserved; spent is the done calls, by our rows and the provider's log; presumed the lost ones."""
    rows = calls(rig)
    done = {(row["owner"], row["call_key"], row["seq"]): row["cost_usd"] for row in rows if row["status"] == "done"}
    billed = {(one["owner"], one["key"], one["seq"]): cost(one) for one in rig.requests("end") if one["billed"]}
    assert done == {name: billed[name] for name in done}
    lost = [row for row in rows if row["status"] == "lost"]
    wanted = (
        Decimal(),
        sum(done.values(), Decimal()),
        sum((row["reserved_usd"] for row in lost), Decimal()),
        Decimal(),
    )
    tokens = (0, sum(row["reserved_tokens"] for row in lost))
    usd = "sum(reserved_usd), sum(spent_usd), sum(presumed_usd), sum(overrun_usd)"
    for scope in ("tenant", "workflow"):
        query = f"SELECT {usd}, sum(reserved_tokens), sum(presumed_tokens) FROM backbeat.budgets WHERE scope = %s"
        ((*money, open_tokens, lost_tokens),) = rig.database.sql(query, [scope])
        assert tuple(money) == wanted
        assert (open_tokens, lost_tokens) == tokens


def posted_once(rig: Rig) -> None:
    """Each task that posts has one review on the far side, and its row in the ledger says so."""
    posting = "SELECT payload ->> 'n' FROM backbeat.finished_tasks WHERE workflow IN ('loop', 'sturdy')"
    wanted = Counter(one for (one,) in rig.database.sql(posting))
    found = list(log.read(rig.recorder.log))
    assert Counter(entry["pull"][2] for entry in found) == {int(n): count for n, count in wanted.items()}
    effects = rig.database.sql("SELECT mark, status, outcome ->> 'id' FROM backbeat.side_effects")
    assert {status for _, status, _ in effects} <= {"done"}
    ids = {mark: entry["review"]["id"] for mark, *_ in effects for entry in found if mark in entry["review"]["body"]}
    assert ids == {mark: int(review) for mark, _, review in effects}


def flows_are_empty(rig: Rig) -> None:
    """The counters that gate promotion and caps are back at zero."""
    assert rig.database.sql("SELECT * FROM backbeat.flows WHERE ready <> 0 OR running <> 0") == []


def spans_are_whole(rig: Rig) -> None:
    """Every task, attempt, call and effect that Postgres knows of has its span on the disk."""
    lines = [line for path in rig.spool.glob("*.spool") for line in read_batch(path).body.splitlines()]
    found = {json.loads(line)["SpanId"] for line in lines}
    attempts = rig.database.sql("SELECT id, jsonb_array_elements(history) ->> 'lease' FROM backbeat.finished_tasks")
    wanted = {span_id("process", task, lease) for task, lease in attempts}
    wanted |= {span_id("call", row["owner"], row["call_key"], row["seq"]) for row in calls(rig)}
    wanted |= {span_id("enqueue", task) for task, _ in attempts}
    wanted |= {span_id("effect", key) for (key,) in rig.database.sql("SELECT key FROM backbeat.side_effects")}
    assert wanted
    assert wanted <= found
