"""The one Python path of every decision: sign it, submit it to the rule in Postgres, say what came of it.

The token stays here. Postgres sees a signature over request, decision, hash of what was shown, body and comment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from backbeat import tokens
from backbeat.operate.approvals import handed_to
from shared.db import approvals
from shared.db.approvals import Ballot, Verdict
from shared.db.pool import Database
from shared.definitions import Effect
from shared.errors import AuthError, BackbeatError, ConflictError, DefinitionError, InputError, NotFoundError


@dataclass(frozen=True, slots=True)
class DecisionResult:
    """A decision that stands. `state` is the request's after it: pending while a quorum needs more people.

    `request` is None where somebody handed on all her rights.

    `repeated`: the same decision id was accepted before, and this is that result.
    """

    request: UUID | None
    decision: str
    user: str
    state: str
    repeated: bool


async def decide(
    db: Database,
    token: str,
    request: UUID | None,
    decision: str,
    shown_hash: str | None = None,
    *,
    comment: str = "",
    body: dict[str, Any] | None = None,
    problem: str | None = None,
    decision_id: UUID | None = None,
    via: str = "cli",
) -> DecisionResult:
    """Decide about what hashes to `shown_hash`, or do another thing of `backbeat.decide`, as who this token is.

    With a `decision_id` of the caller's, saying it again is safe. A `problem` with the body (see `edit_problem`) is
    refused and put on record. Raises AuthError, NotFoundError, InputError, or ConflictError when somebody decided
    before, the deadline has passed, or the content is another by now.
    """
    try:
        proof = tokens.sign(token, request, decision, shown_hash, comment, body)
    except ValueError as error:
        raise InputError(f"the content has no canonical form: {error}", fix="Correct it") from error
    ballot = Ballot(request, decision, shown_hash, comment, proof, decision_id or uuid4(), via, body, problem)
    verdict = await approvals.decide(db, ballot)
    if not verdict.accepted:
        raise await _refusal(db, request, verdict)
    return DecisionResult(request, decision, verdict.user_name, verdict.state or "", verdict.verdict == "repeated")


def edit_problem(effects: Mapping[str, Effect], kind: str, body: Any) -> str | None:
    """What the effect has against a request. Raises DefinitionError where it is not loaded: nobody could say."""
    if kind not in effects:
        fix = "Set BACKBEAT_DEFINITIONS to what the workers load"
        raise DefinitionError(f"no loaded module defines the effect {kind!r}, so an edit cannot be checked", fix=fix)
    return effects[kind].problem(body)


def eligible(policy: dict[str, Any]) -> str:
    """Who may decide, in words: `2 of alice, bob, group security`."""
    said = " and ".join(_people(rule) for rule in policy.get("rules") or [policy])
    for step in policy.get("escalate", ()):
        said += f"; after {duration(step['after'])} also {_people(step).partition(' of ')[2]}"
    return said + ("; not who asked or edited" if policy.get("four_eyes") else "")


def _people(rule: dict[str, Any]) -> str:
    people = [*rule.get("approvers", ()), *(f"group {name}" for name in rule.get("groups", ()))]
    if rule.get("allow_unsigned_signal"):
        people.append("anybody who may signal the workflow")
    return f"{rule.get('needed', 1)} of {', '.join(people)}"


def duration(seconds: float) -> str:
    """`2 d`, `90 min`: a length of time in the largest unit that fits it."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds / 60:,.0f} min" if seconds >= 600 else f"{seconds:,.0f} s"


def moment(at: datetime | None) -> str:
    """A moment as decisions name it, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if at else "-"


async def _refusal(db: Database, request: UUID | None, verdict: Verdict) -> BackbeatError:
    """The error that tells a person why; every refusal is on record already."""
    look = f"`backbeat approval show {request}`"
    match verdict.verdict:
        case "malformed":
            return InputError(
                verdict.problem or "this decision id was another's", fix="Correct it; nothing has changed"
            )
        case "unauthenticated":
            return AuthError("this token is unknown, expired or revoked", fix="`backbeat token create` makes a new one")
        case "not_found":
            return NotFoundError(f"there is no approval request {request}", fix="`backbeat approval list`")
        case "not_eligible" if request:
            if heir := await handed_to(db, request, verdict.user_name):
                fix = f"`backbeat approval delegate {verdict.user_name}` takes it back"
                return AuthError(f"{verdict.user_name} has handed this right to {heir}", fix=fix)
            policy = (await approvals.get(db, request)).policy
            return AuthError(f"{verdict.user_name} may not decide this", fix=f"It takes {eligible(policy)}")
        case "four_eyes":
            return AuthError(f"{verdict.user_name} asked for this or edited it", fix="Somebody else must approve it")
        case "closed":
            return ConflictError(_closed(verdict), fix=f"{look} has the history")
        case "expired":
            return ConflictError(f"the deadline passed at {moment(verdict.deadline)}", fix="That is a no")
    what, fix = _CONFLICTS.get(verdict.verdict, (f"refused: {verdict.verdict}", "{look} has the history"))
    return ConflictError(what.format(user=verdict.user_name), fix=fix.format(look=look))


_CONFLICTS = {
    "stale": ("this is not what the request shows", "Look again: {look}"),
    "voted": ("{user} has approved already", "The quorum needs other people"),
    "changes": ("somebody asked for changes", "Wait for the next revision, or make it: `backbeat approval edit`"),
    "no_rounds": ("no more changes may be requested", "Edit it, approve it or reject it"),
    "not_editable": ("its effect declares no model, so no edit could be checked", "Reject it, or request changes"),
    "claimed": ("somebody else is looking at it", "{look} says who and until when; a claim binds no decision"),
    "not_approved": ("it is not approved", "Reject it instead"),
    "too_late": ("its effect has begun", "{look} names the workflow; see `backbeat effect`"),
}


def _closed(verdict: Verdict) -> str:
    at = moment(verdict.closed_at)
    match verdict.state:
        case "expired":
            return f"the deadline passed at {moment(verdict.deadline)}, so it counts as rejected"
        case "cancelled":
            return f"its workflow ended at {at} before anybody decided"
        case "revoked":
            return f"revoked by {verdict.closed_by} at {at}"
        case state:
            return f"already {state} by {verdict.closed_by} at {at}"
