"""What became of every payment, each figure from a source that cannot know what the others say.

Postgres says how the tasks ended and what they cost, the provider's request log what it answered and would bill, the
issuer's log what was blocked, the generator what was planted. Where two must agree and do not, the demo is red.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from backbeat.embedded.simulated.log import read
from examples.fraud_review.generator import Labelled
from shared.db.pool import Database
from shared.domain.usage import Usage
from shared.llm import prices

DEAREST = Decimal("0.01")  # US dollars a payment
_TASKS = """
SELECT t.id, t.workflow, p.payment, t.status, t.error, t.result ->> 'state' AS state, a.state AS decision
FROM backbeat.tasks t LEFT JOIN backbeat.approval_requests a ON a.workflow_id = t.workflow_id,
     LATERAL (SELECT coalesce(t.payload ->> 'id', t.payload #>> '{transaction,id}') AS payment) p
WHERE t.workflow IN ('screen', 'judge') AND starts_with(p.payment, %(run)s)
"""
_CALLS = "SELECT status, cost_usd FROM backbeat.model_calls WHERE owner = ANY (%(owners)s::uuid[])"
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the sources say: tasks by payment, calls in the ledger, the vendor's bills, the issuer's blocks."""

    truth: Mapping[str, str | None]
    screened: Mapping[str, Sequence[Row]]
    judged: Mapping[str, Sequence[Row]]
    calls: Sequence[Row]
    billed: Sequence[Decimal] | None
    blocks: Counter[str]

    @property
    def doubtful(self) -> set[str]:
        """What the rules could not clear."""
        return {payment for payment, rows in self.screened.items() if any(row["state"] == "doubtful" for row in rows)}

    @property
    def escalated(self) -> dict[str, str | None]:
        """What went to people, and what they said so far."""
        rows = [(payment, row) for payment, found in self.judged.items() for row in found]
        return {payment: row["decision"] for payment, row in rows if row["status"] == "escalated"}

    @property
    def cost(self) -> Decimal:
        """By our ledger, what is presumed spent included."""
        return sum((call["cost_usd"] or Decimal() for call in self.calls), Decimal())


async def gather(db: Database, made: Sequence[Labelled], provider_log: Path | None, issuer_log: Path) -> Evidence:
    """Ask every source. `provider_log` is None where the provider is a real one."""
    truth = {one.transaction.id: one.pattern for one in made}
    rows = await db.rows(_TASKS, {"run": made[0].transaction.id.rpartition("-")[0] + "-"})
    judges = [row["id"] for row in rows if row["workflow"] == "judge"]
    return Evidence(
        truth=truth,
        screened=_by_payment(rows, "screen"),
        judged=_by_payment(rows, "judge"),
        calls=await db.rows(_CALLS, {"owners": judges}),
        billed=None if provider_log is None else list(_billed(provider_log, {str(task) for task in judges})),
        blocks=Counter(entry["transaction"] for entry in read(issuer_log) if entry["transaction"] in truth),
    )


def figures(seen: Evidence) -> dict[str, Any]:
    """What the evidence adds up to."""
    planted = {payment for payment, pattern in seen.truth.items() if pattern}
    escalated, decisions = set(seen.escalated), Counter(seen.escalated.values())
    return {
        "transactions": len(seen.truth),
        "screened": len(seen.screened),
        "judged": len(seen.judged),
        "escalated": len(escalated),
        "approved": decisions["approved"],
        "rejected": decisions["rejected"],
        "blocked": len(seen.blocks),
        "blocked_twice": sum(seen.blocks.values()) - len(seen.blocks),
        "planted": len(planted),
        "found": len(planted & escalated),
        "missed": len(planted - escalated),
        "false_alarms": len(escalated - planted),
        "llm_calls": sum(call["status"] == "done" for call in seen.calls),
        "llm_calls_lost": sum(call["status"] == "lost" for call in seen.calls),
        "cost_usd": f"{seen.cost:f}",
        "cost_usd_per_transaction": f"{seen.cost / len(seen.truth):.9f}",
        "cost_usd_per_judged": f"{seen.cost / max(len(seen.judged), 1):.9f}",
    }


def by_pattern(seen: Evidence) -> list[tuple[str, int, int, int]]:
    """Of each pattern, and of honest payments: how many there were, were doubtful, were escalated."""
    doubtful, escalated = seen.doubtful, seen.escalated
    rows = []
    for pattern in sorted({pattern or "" for pattern in seen.truth.values()}, reverse=True):
        of_it = [payment for payment, truth in seen.truth.items() if (truth or "") == pattern]
        rows.append(
            (
                pattern or "(honest)",
                len(of_it),
                len(doubtful.intersection(of_it)),
                sum(one in escalated for one in of_it),
            )
        )
    return rows


def problems(seen: Evidence, *, decided: bool) -> Iterable[str]:
    """What does not agree; with `decided` every escalation must have come to its end."""
    yield from _ends("screened", seen.screened, set(seen.truth))
    yield from _ends("judged", seen.judged, seen.doubtful)
    approved = {payment for payment, decision in seen.escalated.items() if decision == "approved"}
    if decided and (open_ := sum(one not in ("approved", "rejected") for one in seen.escalated.values())):
        yield f"{open_} escalation(s) ended without a decision"
    if set(seen.blocks) != approved:
        yield f"the issuer blocked {len(seen.blocks)} payment(s), people approved {len(approved)}"
    if twice := [payment for payment, count in seen.blocks.items() if count > 1]:
        yield f"{len(twice)} payment(s) were blocked twice, {twice[0]} for one"
    yield from _money(seen)


def _ends(what: str, found: Mapping[str, Sequence[Row]], wanted: set[str]) -> Iterable[str]:
    """Every payment that should ended exactly once, and well."""
    ended = Counter(
        payment for payment, rows in found.items() for row in rows if row["status"] in ("succeeded", "escalated")
    )
    if lost := wanted - set(ended):
        yield f"{len(lost)} payment(s) were never {what}, {min(lost)} for one"
    if twice := [payment for payment, count in ended.items() if count > 1]:
        yield f"{len(twice)} payment(s) were {what} more than once, {twice[0]} for one"
    if strays := set(found) - wanted:
        yield f"{len(strays)} payment(s) were {what} that should not be, {min(strays)} for one"
    for row in [row for rows in found.values() for row in rows if row["status"] == "dead"][:5]:
        yield f"payment {row['payment']} ended in the dead letters: {row['error']}"


def _money(seen: Evidence) -> Iterable[str]:
    if any(call["cost_usd"] is None for call in seen.calls):
        yield "a call has no price"
    if seen.cost / len(seen.truth) >= DEAREST:
        yield f"a payment costs ${seen.cost / len(seen.truth):.4f}, the limit is ${DEAREST}"
    if seen.billed is None:
        return
    lost, bill = any(call["status"] == "lost" for call in seen.calls), sum(seen.billed, Decimal())
    # What a lost call cost is presumed, never less than its bill.
    if seen.cost < bill or (not lost and seen.cost != bill):
        yield f"the provider's log adds up to ${bill:f}, the ledger to ${seen.cost:f}"


def _by_payment(rows: Sequence[Row], workflow: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["workflow"] == workflow:
            found.setdefault(row["payment"], []).append(row)
    return found


def _billed(log: Path, owners: set[str]) -> Iterable[Decimal]:
    """What each answered call costs at real prices, from the tokens that the provider's own log says."""
    for entry in read(log):
        if (
            entry["event"] == "end"
            and entry["billed"]
            and parse_qs(entry["call"] or "").get("owner", [""])[0] in owners
        ):
            at, usage = datetime.fromisoformat(entry["at"]), Usage(**entry["usage"])
            yield prices.cost(entry["vendor"], entry["model"], usage, at).usd or Decimal()
