"""The one Python path of every decision: sign it, submit it to the rule in Postgres, say what came of it.

The token stays here. Postgres sees a signature over request, decision, hash of what was shown and comment.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from shared.db import approvals
from shared.db.approvals import Ballot, Verdict
from shared.db.pool import Database
from shared.errors import AuthError, BackbeatError, ConflictError, InputError, NotFoundError
from shared.security import tokens


@dataclass(frozen=True, slots=True)
class DecisionResult:
    """A decision that stands. `state` is the request's after it: pending while a quorum needs more people.

    `repeated`: the same decision id was accepted before, and this is that result.
    """

    request: UUID
    decision: str
    user: str
    state: str
    repeated: bool


async def decide(
    db: Database,
    token: str,
    request: UUID,
    decision: str,
    shown_hash: str,
    *,
    comment: str = "",
    decision_id: UUID | None = None,
    via: str = "cli",
) -> DecisionResult:
    """Approve or reject what hashes to `shown_hash`, as the person whose token this is.

    With a `decision_id` of the caller's, saying it again is safe. Raises AuthError, NotFoundError, InputError, or
    ConflictError when somebody decided before, the deadline has passed, or the content is another by now.
    """
    proof = tokens.sign(token, request, decision, shown_hash, comment)
    ballot = Ballot(request, decision, shown_hash, comment, proof, decision_id or uuid4(), via)
    verdict = await approvals.decide(db, ballot)
    if not verdict.accepted:
        raise await _refusal(db, request, verdict)
    return DecisionResult(request, decision, verdict.user_name, verdict.state or "", verdict.verdict == "repeated")


def eligible(policy: dict[str, Any]) -> str:
    """Who may decide, in words: `2 of alice, bob, group security`."""
    people = [*policy.get("approvers", ()), *(f"group {name}" for name in policy.get("groups", ()))]
    if policy.get("allow_unsigned_signal"):
        people.append("anybody who may signal the workflow")
    return f"{policy.get('needed', 1)} of {', '.join(people)}"


def moment(at: datetime | None) -> str:
    """A moment as decisions name it, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if at else "-"


async def _refusal(db: Database, request: UUID, verdict: Verdict) -> BackbeatError:
    """The error that tells a person why; every refusal is on record already."""
    match verdict.verdict:
        case "unauthenticated":
            return AuthError("this token is unknown, expired or revoked", fix="`backbeat token create` makes a new one")
        case "not_found":
            return NotFoundError(f"there is no approval request {request}", fix="`backbeat approval list`")
        case "not_eligible":
            policy = (await approvals.get(db, request)).policy
            return AuthError(f"{verdict.user_name} may not decide this", fix=f"It takes {eligible(policy)}")
        case "closed":
            return ConflictError(_closed(verdict), fix=f"`backbeat approval show {request}` has the history")
        case "expired":
            return ConflictError(f"the deadline passed at {moment(verdict.deadline)}", fix="That is a no")
        case "stale":
            fix = f"Look again: `backbeat approval show {request}`"
            return ConflictError("this is not what the request shows", fix=fix)
        case "voted":
            return ConflictError(f"{verdict.user_name} has approved already", fix="The quorum needs other people")
        case _:
            fix = "Approve or reject, with a comment of at most 4000 letters"
            return InputError("Postgres could not read the decision", fix=fix)


def _closed(verdict: Verdict) -> str:
    at = moment(verdict.closed_at)
    match verdict.state:
        case "expired":
            return f"the deadline passed at {moment(verdict.deadline)}, so it counts as rejected"
        case "cancelled":
            return f"its workflow ended at {at} before anybody decided"
        case state:
            return f"already {state} by {verdict.closed_by} at {at}"
