"""Asking for decisions, reading and telling them, and submitting what came in as a signal."""

from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from temporalio import activity

from shared.db import approvals, outbox
from shared.db.approvals import Ballot, Request
from shared.db.outbox import State
from shared.definitions import problems
from shared.errors import DefinitionError, InputError
from shared.execution.environment import Environment
from shared.execution.spans import approval_span, escalate_span
from temporal_worker.activities import temporal_errors
from temporal_worker.messages import Projection, Standing, Start, Submission

LONGEST = 366 * 86_400.0  # seconds a request may stay open
STEP = "approve"


class Escalation(BaseModel):
    """What is asked for. `requested_by` is a user, as api_tokens spells them; Postgres knows what a policy is."""

    model_config = ConfigDict(extra="forbid", strict=True)
    title: str = Field(min_length=1, max_length=300)
    effect: str
    request: dict[str, Any]
    deadline_seconds: float = Field(ge=1, le=LONGEST)
    policy: Any
    requested_by: str | None = Field(None, pattern=r"^[\p{L}\p{N}][\p{L}\p{N}._@+-]{0,99}$")


class Decisions:
    """The activities around one approval request."""

    def __init__(self, env: Environment) -> None:
        self._env = env

    @activity.defn(name="create_request")
    async def create_request(self, start: Start) -> Standing:
        """Ask for a decision on what the workflow's row says. A malformed escalation is refused here, for good."""
        with temporal_errors():
            row = await outbox.workflow(self._env.db, UUID(start.id))
            self._env.telemetry.record(escalate_span(self._env, row))
            shown = await self._shown(row.input)
            seq = start.state_seq + activity.info().attempt
            effect = self._env.registry.effects.get(row.input["effect"])
            if effect and (problem := effect.problem(row.input["request"])):
                raise _wrong(problem)
            editable = None if effect is None else effect.request is not None
            request = await approvals.create(self._env.db, row.id, STEP, shown, editable=editable)
            standing = await self._standing(request.id)
            if effect is None and standing.state in ("pending", "changes"):
                await self._unloaded(row.id, row.input["effect"], seq)
            self._record(request, "requested", request.requested_at, request.id)
            return replace(standing, seq=seq - 1)

    @activity.defn(name="close_if_pending")
    async def close_if_pending(self, request_id: str) -> Standing:
        """The committed decision, or `expired` from now on, or the seconds left. The one thing a workflow believes."""
        with temporal_errors():
            return await self._standing(UUID(request_id))

    @activity.defn(name="revise_request")
    async def revise_request(self, request_id: str) -> bool:
        """Answer a person who requested changes, by the effect's own `revise`; False when nobody waits for that."""
        with temporal_errors():
            request = await approvals.get(self._env.db, UUID(request_id))
            effect = self._env.registry.effects.get(request.payload["effect"])
            if effect is None or effect.revise is None or request.state != "changes":
                return False
            body = await effect.revise(request.payload["request"], request.asked or "")
            if problem := effect.problem(body):
                raise DefinitionError(f"the revision does not fit: {problem}", fix="Correct the effect's revise")
            return await approvals.revise(self._env.db, request.id, request.revision, body)

    @activity.defn(name="submit_decision")
    async def submit_decision(self, submission: Submission) -> bool:
        """Submit a `decide` signal to the one rule of every decision; False when it refused, which is then audited."""
        body = submission.body if isinstance(submission.body, dict) else {}
        ballot = Ballot(
            request=UUID(submission.request_id),
            decision=_text(body.get("decision")),
            hash=_text(body.get("hash")),
            comment=_text(body.get("comment")),
            proof=_text(body.get("proof")) or None,
            decision_id=UUID(submission.decision_id),
            via="signal",
        )
        with temporal_errors():
            verdict = await approvals.decide(self._env.db, ballot)
        if not verdict.accepted:
            activity.logger.warning("decide signal for %s refused: %s", submission.request_id, verdict.verdict)
        return verdict.accepted

    @activity.defn(name="project")
    async def project(self, state: Projection) -> bool:
        """Write what the workflow says of itself where it is news; False when the row knows something newer."""
        run_id = activity.info().workflow_run_id
        fields = State(state.seq, state.status, run_id, state.waiting_for, state.result, state.error)
        with temporal_errors():
            return await outbox.project(self._env.db, UUID(state.id), fields)

    async def _standing(self, request: UUID) -> Standing:
        """As a workflow should see it: what is not settled is pending, where nobody but people can do anything."""
        found = await approvals.close_if_pending(self._env.db, request)
        if found.settled:
            row = await approvals.get(self._env.db, request)
            for vote in await approvals.votes(self._env.db, request):
                what = {"by": vote["user_name"], "decision": vote["decision"], "via": vote["via"]}
                self._record(row, "voted", vote["decided_at"], vote["id"], **what)
            at = row.closed_at or row.deadline
            self._record(row, "decided", at, row.id, state=row.state, by=row.closed_by)
        state = found.state if found.settled or found.state == "changes" else "pending"
        return Standing(str(request), state, found.seconds_left, revision=found.revision)

    async def _shown(self, given: dict[str, Any]) -> str:
        """The hash of what an escalation asks for. Raises InputError naming the field that is wrong."""
        if problem := problems(Escalation, given) or await approvals.policy_problem(self._env.db, given["policy"]):
            raise _wrong(problem)
        if given["policy"].get("four_eyes") and given.get("requested_by") is None:
            raise _wrong("requested_by: the policy says four_eyes, so it must name who asks")
        try:
            return approvals.content_hash(given["title"], {key: given[key] for key in ("effect", "request")})
        except (ValueError, RecursionError) as error:
            raise _wrong(f"request: has no canonical form: {error}") from error

    async def _unloaded(self, workflow: UUID, kind: str, seq: int) -> NoReturn:
        """Raises DefinitionError: another worker may have it, or its next release. People see what it waits for."""
        wanted = f"a worker that has loaded the effect {kind!r}"
        await outbox.project(self._env.db, workflow, State(seq, "waiting", activity.info().workflow_run_id, wanted))
        loaded = ", ".join(self._env.registry.effects) or "none"
        raise DefinitionError(f"no loaded module defines the effect {kind!r}", fix=f"Loaded: {loaded}")

    def _record(self, request: Request, event: str, at: datetime, row: UUID, **told: str | None) -> None:
        self._env.telemetry.record(approval_span(self._env, request, event, at, row, **told))
        self._env.telemetry.flush()


def _text(value: Any) -> str:
    """Postgres takes neither NUL nor lone surrogates; a decision that contains one is not signed for anyway."""
    if not isinstance(value, str):
        return "" if value is None else "(not a text)"
    return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _wrong(what: str) -> InputError:
    return InputError(f"the escalation's {what}", fix="Correct the task that escalates")
