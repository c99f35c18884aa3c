"""Approval requests and the decisions on them. Postgres holds the rule; this only asks."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import storable
from shared.errors import BackbeatError, InputError, NotFoundError
from shared.ids import payload_hash

_SQL = load("approvals")


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody is asked to let happen: `payload` is exactly that, `hash` what Postgres has of `content_hash`."""

    id: UUID
    title: str
    payload: dict[str, Any]
    hash: str
    policy: dict[str, Any]
    state: str
    requested_at: datetime
    deadline: datetime
    seconds_left: float
    closed_at: datetime | None
    closed_by: str | None
    tenant: str
    approvals: int
    revision: int
    editable: bool | None
    stuck: bool
    claimed_by: str | None
    claimed_until: datetime | None
    effect_after: datetime | None
    requested_by: str | None
    asked: str | None
    workflow_id: UUID
    workflow: str
    temporal_id: str
    origin_id: UUID
    parent_task: UUID | None
    traceparent: str

    @property
    def content_hash(self) -> str:
        """Of what this shows, not read from the row: Postgres refuses a decision when the two differ."""
        return content_hash(self.title, self.payload)


@dataclass(frozen=True, slots=True)
class Ballot:
    """One person's decision on one content. `proof` is what `tokens.sign` made; `via` is cli, web or signal.

    `body` goes with edits, claims and delegations (see `backbeat.decide`); `problem` is what the caller's schema has
    against it: then it is refused, and that is on record.
    """

    request: UUID | None
    decision: str
    hash: str | None
    comment: str
    proof: str | None
    decision_id: UUID
    via: str
    body: Any = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Postgres' answer to a ballot (see `backbeat.decide`): accepted, repeated, or the name of the refusal."""

    verdict: str
    user_name: str
    state: str | None
    closed_by: str | None
    closed_at: datetime | None
    deadline: datetime | None
    problem: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the decision stands, by this ballot or by the same one before."""
        return self.verdict in ("accepted", "repeated")


@dataclass(frozen=True, slots=True)
class Standing:
    """How a request stands. `settled`: only its effect may follow; `seconds_left` until time does something again."""

    state: str
    settled: bool
    seconds_left: float
    revision: int


async def policy_problem(db: Database, policy: Any) -> str | None:
    """What is wrong with a policy, for a person; None when nothing is."""
    problem: str | None = (await db.row(_SQL["policy_problem"], {"policy": Jsonb(policy)}))["problem"]
    return problem


def content_hash(title: str, payload: dict[str, Any]) -> str:
    """What approvers sign: the sha256 of the canonical form of everything they are shown, {title, effect, request}.

    Raises ValueError when it has no canonical form.
    """
    return payload_hash({"title": title, **payload})


async def create(db: Database, workflow: UUID, step: str, shown_hash: str, *, editable: bool | None) -> Request:
    """Ask for a decision on what the workflow's input says, once per step: later calls answer with the first's request.

    `editable`: whoever edits it can check the edit; None where the effect is not loaded. Raises NotFoundError when the
    workflow has ended, InputError when its input asks for nothing that could be decided.
    """
    try:
        params = {"workflow": workflow, "step": step, "hash": shown_hash, "editable": editable}
        rows = await db.rows(_SQL["create"], params)
    except BackbeatError as error:
        if isinstance(error.__cause__, psycopg.IntegrityError | psycopg.DataError):
            raise InputError(f"the escalation: {error.what}", fix="Correct the task that escalates") from error
        raise
    if not rows:
        raise NotFoundError(f"workflow {workflow} has ended or never was", fix="Nothing is left to approve")
    return await get(db, rows[0]["id"])


async def get(db: Database, request: UUID) -> Request:
    """One request. Raises NotFoundError."""
    rows = await db.rows(_SQL["list"], {"id": request, "states": None, "token": None, "limit": 1})
    if not rows:
        raise NotFoundError(f"there is no approval request {request}", fix="`backbeat approval list --state all`")
    return Request(**rows[0])


async def votes(db: Database, request: UUID) -> list[dict[str, Any]]:
    """What people decided on a request: id, user_name, decision, via, decided_at; oldest first."""
    return await db.rows(_SQL["votes"], {"id": request})


async def decide(db: Database, ballot: Ballot) -> Verdict:
    """Submit a ballot; telling Postgres twice is safe."""
    params = {name: getattr(ballot, name) for name in Ballot.__dataclass_fields__}
    params["body"] = None if ballot.body is None else storable(ballot.body)
    return Verdict(**await db.row(_SQL["decide"], params))


async def revise(db: Database, request: UUID, revision: int, body: dict[str, Any]) -> bool:
    """Put up a new request where changes were requested of this revision; False when nobody waits for that any more."""
    params = {"id": request, "revision": revision, "body": Jsonb(body)}
    return bool((await db.row(_SQL["revise"], params))["revised"])


async def close_if_pending(db: Database, request: UUID) -> Standing:
    """Let time do to a request what is due (remind, escalate, close), and say how it stands. Raises NotFoundError."""
    rows = await db.rows(_SQL["close_if_pending"], {"id": request})
    if not rows:
        raise NotFoundError(f"there is no approval request {request}", fix="Was Postgres restored to an older point?")
    return Standing(**rows[0])
