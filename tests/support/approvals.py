"""Escalations, requests and decisions as tests make them: through the schema's functions, as the login that may."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row

from backbeat import tokens
from shared.ids import payload_hash
from tests.support.databases import Database

REVIEW = {"repository": "acme/shop", "body": "Blocking: a credential in the diff."}


def escalation(**changed: Any) -> dict[str, Any]:
    """What a task hands over when it escalates."""
    policy = {"approvers": ["alice", "bob"]}
    given = {
        "effect": "note",
        "request": REVIEW,
        "title": "Post a review",
        "deadline_seconds": 3600.0,
        "policy": policy,
    }
    return given | changed


def content_hash(title: str = "Post a review", effect: str = "note", request: Any = None) -> str:
    """What approvers sign: everything they are shown."""
    return payload_hash({"title": title, "effect": effect, "request": REVIEW if request is None else request})


def worker_rows(database: Database, query: str, params: Any = None) -> list[dict[str, Any]]:
    """Run one query with the workers' login, committed."""
    with psycopg.connect(database.worker_url, row_factory=dict_row, autocommit=True, prepare_threshold=None) as worker:
        cursor = worker.execute(query.encode(), params)
        return cursor.fetchall() if cursor.description else []


def start(database: Database, workflow: str = "approve_effect", version: int = 1, **changed: Any) -> UUID:
    """Escalate; the id of the new workflow's row."""
    call = "SELECT backbeat.start_workflow(%s, %s, 'default', %s::jsonb, NULL, NULL, NULL) AS id"
    (row,) = worker_rows(database, call, [workflow, version, json.dumps(escalation(**changed))])
    found: UUID = row["id"]
    return found


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is open, and the hash of what it shows."""

    id: UUID
    hash: str
    workflow: UUID


def ask(database: Database, *, seconds: float = 3600.0, **changed: Any) -> Asked:
    """Escalate and create the approval request, as the workflow would."""
    given = escalation(deadline_seconds=seconds, **changed)
    workflow = start(database, **given)
    shown = content_hash(given["title"], given["effect"], given["request"])
    call = "SELECT id FROM backbeat.create_approval(%s, 'approve', %s, true)"
    (row,) = worker_rows(database, call, [workflow, shown])
    return Asked(row["id"], shown, workflow)


def token(database: Database, user: str, *groups: str, seconds: float | None = None) -> str:
    """A token of this person."""
    made = tokens.create()
    call = "SELECT backbeat.create_token(%s, %s, %s, %s)"
    database.sql(call, [tokens.key(made), user, list(groups), seconds])
    return made


def decide(
    database: Database,
    who: str | None,
    request: UUID | None,
    decision: str,
    shown: str | None = None,
    *,
    comment: str = "",
    decision_id: UUID | None = None,
    via: str = "cli",
    proof: str | None = None,
    body: Any = None,
    problem: str | None = None,
) -> dict[str, Any]:
    """Submit a decision signed with the token `who`, or with `proof` as it is."""
    signed = tokens.sign(who, request, decision, shown, comment, body) if who else proof
    call = "SELECT * FROM backbeat.decide(%s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s)"
    given = [signed, request, decision, shown, comment, decision_id or uuid4(), via]
    (row,) = worker_rows(database, call, [*given, None if body is None else json.dumps(body), problem])
    return row


def tick(database: Database, request: UUID) -> dict[str, Any]:
    """Let time do what is due to a request, as its workflow would; how it stands then."""
    (row,) = worker_rows(database, "SELECT * FROM backbeat.close_if_pending(%s)", [request])
    return row


def heard(database: Database, request: UUID) -> list[tuple[str, list[str], list[str]]]:
    """(event, users, groups) of what people were told about a request, oldest first."""
    query = "SELECT event, users, groups FROM backbeat.notifications WHERE request_id = %s ORDER BY created_at, id"
    return [(event, users, groups) for event, users, groups in database.sql(query, [request])]


def state(database: Database, request: UUID) -> str:
    """The state of a request."""
    found: str = database.value("SELECT state FROM backbeat.approval_requests WHERE id = %s", [request])
    return found


def audit(database: Database, subject: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """(actor, action, detail) of everything on record about a subject, oldest first."""
    query = "SELECT actor, action, detail FROM backbeat.audit_log WHERE subject = %s ORDER BY id"
    return [(actor, action, detail) for actor, action, detail in database.sql(query, [str(subject)])]
