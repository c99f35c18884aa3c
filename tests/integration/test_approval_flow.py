"""Approvals end to end on a real Temporal server and a real Postgres: only the far side is simulated."""

import asyncio
import json
import subprocess
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from temporalio.client import Client

from backbeat import tokens
from backbeat.embedded import temporal
from shared.definitions import Registry
from tests.support.approvals import REVIEW, audit, decide, heard, start, state, token
from tests.support.databases import Database
from tests.support.temporal import (
    FarSide,
    Server,
    Spans,
    asked,
    environment,
    eventually,
    finished,
    request_of,
    row,
    working,
)


class Review(BaseModel):
    """What the effect's requests look like."""

    repository: str
    body: str


async def test_what_is_approved_is_done_once(database: Database, temporal_server: Server) -> None:
    far, spans = FarSide(), Spans()
    client = await Client.connect(temporal_server.address)
    async with environment(database, far, spans) as env, working(env, client):
        workflow = start(database)
        request, shown = await asked(database, workflow)
        assert far.writes == 0
        assert row(database, workflow)["waiting_for"] == f"approval {request}"
        decide(database, token(database, "alice"), request, "approve", shown)
        done = await finished(database, workflow)
    assert (done["status"], done["result"]) == ("completed", {"decision": "approved", "effect": {"id": 1}})
    assert far.posted == {database.value("SELECT mark FROM backbeat.side_effects"): [REVIEW]}
    parents = {span.name: span.parent_span_id for span in spans.records if span.parent_span_id}
    escalate = database.value("SELECT split_part(traceparent, '-', 3) FROM backbeat.orchestrated_workflows")
    assert parents == dict.fromkeys(
        ("approval.requested", "approval.voted", "approval.decided", "effect note"), escalate
    )
    assert escalate in {span.span_id for span in spans.records}


async def test_what_is_rejected_is_not_done(database: Database, temporal_server: Server) -> None:
    far = FarSide()
    client = await Client.connect(temporal_server.address)
    async with environment(database, far) as env, working(env, client):
        workflow = start(database)
        request, shown = await asked(database, workflow)
        decide(database, token(database, "bob"), request, "reject", shown, comment="no")
        done = await finished(database, workflow)
    assert (done["status"], done["result"]) == ("completed", {"decision": "rejected"})
    assert far.writes == 0


def trail_of(database: Database, request: UUID, length: int) -> list[Any]:
    trail: list[Any] = audit(database, request)
    return trail if len(trail) >= length else []


async def signal(server: Server, workflow: str, body: str | None) -> None:
    """Send `decide` with the stock command, as anybody with access to Temporal can."""
    command = [str(temporal.binary()), "workflow", "signal", "--address", server.address, "--workflow-id", workflow]
    given = ["--input", body] if body is not None else []
    options = ["--disable-config-env", "--disable-config-file"]
    await asyncio.to_thread(
        subprocess.run, [*command, "--name", "decide", *given, *options], check=True, capture_output=True
    )


def signed(who: str, request: UUID, decision: str, shown: str) -> str:
    proof = tokens.sign(who, request, decision, shown)
    return json.dumps({"decision": decision, "hash": shown, "comment": "", "proof": proof})


async def test_a_plain_signal_is_a_request_to_decide(database: Database, temporal_server: Server) -> None:
    far = FarSide()
    client = await Client.connect(temporal_server.address)
    alice = token(database, "alice")
    async with environment(database, far) as env, working(env, client):
        workflow = start(database)
        request, shown = await asked(database, workflow)
        name = row(database, workflow)["temporal_id"]
        unsigned = {"decision": "approve", "hash": shown}
        refused = [
            (json.dumps(unsigned), "unauthenticated"),
            (json.dumps({**unsigned, "proof": "bbd_0123456789abcdef_" + "0" * 64}), "unauthenticated"),
            (signed(token(database, "mallory"), request, "approve", shown), "not_eligible"),
            (signed(alice, request, "approve", "0" * 64), "stale"),
            (json.dumps("zz"), "malformed"),
            (json.dumps([1, {"decision": ["approve"], "hash": None, "comment": "\0\ud800"}]), "malformed"),
            (json.dumps({**unsigned, "comment": "\0\ud800"}), "unauthenticated"),
            (None, "malformed"),
        ]
        for number, (body, verdict) in enumerate(refused, start=2):
            await signal(temporal_server, name, body)
            trail = await eventually(partial(trail_of, database, request, number))
            assert trail[-1][2]["verdict"] == verdict, body
        assert state(database, request) == "pending"
        await signal(temporal_server, name, signed(alice, request, "approve", shown))
        done = await finished(database, workflow)
    assert done["result"]["decision"] == "approved"
    assert far.writes == 1
    assert database.value("SELECT via FROM backbeat.approval_decisions") == "signal"


FOUR_EYES = {"approvers": ["alice", "bob"], "four_eyes": True}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"title": ""}, "title: String should have at least 1 character"),
    ({"effect": 7}, "effect: Input should be a valid string"),
    ({"request": "text"}, "request: Input should be a valid dictionary"),
    ({"request": {"n": 2**53 + 1}}, "request: has no canonical form: "),
    ({"request": {"n": 10**400}}, "request: has no canonical form: "),
    ({"deadline_seconds": 1e-9}, "deadline_seconds: Input should be greater than or equal to 1"),
    ({"deadline_seconds": 31622401}, "deadline_seconds: Input should be less than or equal to 31622400"),
    ({"deadline_seconds": True}, "deadline_seconds: Input should be a valid number"),
    ({"policy": {"approvers": []}}, "policy: nobody can satisfy"),
    ({"policy": None}, "policy is not an object"),
    ({"requestedby": "carol"}, "requestedby: Extra inputs are not permitted"),
    ({"requested_by": "(deadline)"}, "requested_by: String should match pattern"),
    ({"requested_by": ["carol"]}, "requested_by: Input should be a valid string"),
    ({"policy": FOUR_EYES}, "requested_by: the policy says four_eyes, so it must name who asks"),
    ({"policy": FOUR_EYES, "requested_by": None}, "requested_by: the policy says four_eyes"),
    (
        {"policy": {"approvers": ["a"], "escalate": [{"after": 9, "aprovers": ["b"]}]}},
        "escalate[0]: unknown key aprovers",
    ),
]


async def test_a_malformed_escalation_fails_and_says_why(database: Database, temporal_server: Server) -> None:
    client = await Client.connect(temporal_server.address)
    async with environment(database, FarSide()) as env, working(env, client):
        made = [(start(database, **wrong), problem) for wrong, problem in WRONG]
        for workflow, problem in made:
            done = await finished(database, workflow)
            assert done["status"] == "failed"
            assert problem in done["error"]
            ((_, action, detail),) = audit(database, workflow)
            assert (action, problem in detail["error"]) == ("workflow.refused", True)
    assert database.value("SELECT count(*) FROM backbeat.approval_requests") == 0


async def test_an_effect_nobody_has_loaded_is_waited_for(database: Database, temporal_server: Server) -> None:
    """A release that is behind fails nothing for good, and people see and hear what it waits for."""
    client = await Client.connect(temporal_server.address)
    wanted, alice = "a worker that has loaded the effect 'note'", token(database, "alice")
    token(database, "bob")
    async with environment(database, FarSide()) as env:
        blind = replace(env, registry=Registry({}, {}))
        async with working(blind, client) as options:
            workflow = start(database)
            request, shown = await eventually(lambda: request_of(database, workflow))
            await eventually(lambda: row(database, workflow)["waiting_for"] == wanted)
            assert [event for event, _, _ in heard(database, request)] == ["unloaded"]
            assert [what for _, what, _ in audit(database, request)] == ["approval.unloaded"]
            assert decide(database, alice, request, "edit", shown, body={})["verdict"] == "not_editable"
        async with working(env, client, options):
            await eventually(lambda: row(database, workflow)["waiting_for"] == f"approval {request}")
            assert [event for event, _, _ in heard(database, request)] == ["unloaded", "asked"]
        async with working(blind, client, options):
            decide(database, alice, request, "approve", shown)
            said = "SELECT error FROM backbeat.side_effects WHERE fires = 0 AND error IS NOT NULL"
            ((error,),) = await eventually(lambda: database.sql(said))
            assert error == "no loaded module defines the effect 'note'. Loaded: proceed"
        async with working(env, client, options):
            done = await finished(database, workflow)
    assert done["result"] == {"decision": "approved", "effect": {"id": 1}}
    assert database.sql("SELECT fires, error FROM backbeat.side_effects") == [(1, None)]


async def test_an_effect_nobody_ever_loads_is_a_no_at_the_deadline(database: Database, temporal_server: Server) -> None:
    """Also where silence would approve: nobody could check what it approves."""
    client = await Client.connect(temporal_server.address)
    token(database, "alice")
    async with environment(database, FarSide()) as env:
        blind = replace(env, registry=Registry({}, {}))
        async with working(blind, client):
            workflow = start(database, policy={"approvers": ["alice"], "on_expiry": "approve"}, deadline_seconds=1.5)
            done = await finished(database, workflow, within=60)
    assert (done["status"], done["result"]) == ("completed", {"decision": "expired"})


async def test_cancelling_before_a_decision_closes_the_request(database: Database, temporal_server: Server) -> None:
    client = await Client.connect(temporal_server.address)
    async with environment(database, FarSide()) as env, working(env, client):
        workflow = start(database)
        request, shown = await asked(database, workflow)
        await client.get_workflow_handle(row(database, workflow)["temporal_id"]).cancel()
        done = await finished(database, workflow)
    assert done["status"] == "cancelled"
    assert state(database, request) == "cancelled"
    assert decide(database, token(database, "alice"), request, "approve", shown)["verdict"] == "closed"


async def test_what_was_approved_is_finished_even_when_cancelled(database: Database, temporal_server: Server) -> None:
    far = FarSide()
    far.gate.clear()
    client = await Client.connect(temporal_server.address)
    async with environment(database, far) as env, working(env, client):
        workflow = start(database)
        request, shown = await asked(database, workflow)
        decide(database, token(database, "alice"), request, "approve", shown)
        await asyncio.wait_for(far.asked.wait(), 30)
        handle = client.get_workflow_handle(row(database, workflow)["temporal_id"])
        await handle.cancel()
        far.gate.set()
        done = await finished(database, workflow)
        assert await handle.result() == done["result"]
    assert done["status"] == "completed"
    assert far.writes == 1


@pytest.mark.parametrize("trouble", ["lose request", "lose answer", "refuse"])
async def test_a_write_that_fails_still_happens_once(database: Database, temporal_server: Server, trouble: str) -> None:
    far = FarSide(troubles=[trouble])
    client = await Client.connect(temporal_server.address)
    async with environment(database, far) as env, working(env, client):
        workflow = start(database)
        request, shown = await asked(database, workflow)
        decide(database, token(database, "alice"), request, "approve", shown)
        done = await finished(database, workflow)
    assert done["status"] == "completed"
    assert far.writes == 1


async def test_an_outcome_nobody_can_know_waits_for_a_person(database: Database, temporal_server: Server) -> None:
    far = FarSide(troubles=["lose answer"], can_look=False, patience=10.0)
    client = await Client.connect(temporal_server.address)
    async with environment(database, far) as env, working(env, client):
        workflow = start(database)
        request, shown = await asked(database, workflow)
        decide(database, token(database, "alice"), request, "approve", shown)
        await eventually(lambda: "unknown" in (row(database, workflow)["waiting_for"] or ""))
        error = database.value("SELECT error FROM backbeat.side_effects")
        assert error == "ConnectionResetError: lose answer"
        database.advance(timedelta(seconds=12))
        database.sql("SELECT backbeat.resolve_effect(%s, %s::jsonb, '', 'carol')", [f"{workflow}:effect", '{"id": 9}'])
        database.sql("SELECT backbeat.push_outbox(%s, 'poke')", [workflow])
        done = await finished(database, workflow)
    assert done["result"] == {"decision": "approved", "effect": {"id": 9}}
    assert far.writes == 1


async def test_pokes_without_news_change_nothing(database: Database, temporal_server: Server) -> None:
    client = await Client.connect(temporal_server.address)
    async with environment(database, FarSide()) as env, working(env, client):
        workflow = start(database)
        request, shown = await asked(database, workflow)
        handle = client.get_workflow_handle(row(database, workflow)["temporal_id"])
        for _ in range(5):
            await handle.signal("poke")
        decide(database, token(database, "alice"), request, "reject", shown)
        done = await finished(database, workflow)
    assert done["result"] == {"decision": "rejected"}


async def _shorter(request: dict[str, Any], comment: str) -> dict[str, Any]:
    """Stands for the model that wrote it (simulated): does as it is told."""
    return {**request, "body": f"{request['body'][:8]} ({comment})"}


async def _never(request: dict[str, Any], comment: str) -> dict[str, Any]:
    raise RuntimeError("the model is away")


async def test_requested_changes_come_back_from_whoever_wrote_it(database: Database, temporal_server: Server) -> None:
    far = FarSide()
    client = await Client.connect(temporal_server.address)
    async with environment(database, far) as env:
        able = replace(far.effect, request=Review, revise=_shorter)
        async with working(replace(env, registry=Registry({}, {"note": able})), client):
            workflow = start(database, policy={"approvers": ["alice"], "max_rounds": 2})
            request, shown = await asked(database, workflow)
            alice = token(database, "alice")
            decide(database, alice, request, "request_changes", shown, comment="shorter")
            now = await eventually(lambda: _revision(database, request, 2))
            assert decide(database, alice, request, "approve", now)["state"] == "approved"
            await finished(database, workflow)
    ((body,),) = [[sent["body"] for sent in posts] for posts in far.posted.values()]
    assert body == "Blocking (shorter)"


async def test_where_no_revision_comes_people_edit_it(database: Database, temporal_server: Server) -> None:
    far = FarSide()
    client = await Client.connect(temporal_server.address)
    async with environment(database, far) as env:
        able = replace(far.effect, request=Review, revise=_never)
        async with working(replace(env, registry=Registry({}, {"note": able})), client):
            workflow = start(database, policy={"approvers": ["alice"], "max_rounds": 1})
            request, shown = await asked(database, workflow)
            alice = token(database, "alice")
            decide(database, alice, request, "request_changes", shown, comment="shorter")
            await eventually(lambda: row(database, workflow)["status"] == "waiting")
            edit = {"repository": "acme/shop", "body": "Blocking."}
            assert decide(database, alice, request, "edit", shown, body=edit)["verdict"] == "accepted"
            now = _revision(database, request, 2)
            decide(database, alice, request, "approve", now)
            done = await finished(database, workflow, within=40.0)
    assert done["result"] == {"decision": "approved", "effect": {"id": 1}}
    assert [*far.posted.values()] == [[edit]]


async def test_an_approval_that_is_taken_back_has_no_effect(database: Database, temporal_server: Server) -> None:
    far = FarSide()
    client = await Client.connect(temporal_server.address)
    async with environment(database, far) as env, working(env, client):
        workflow = start(database, policy={"approvers": ["alice"], "effect_delay": 3600})
        request, shown = await asked(database, workflow)
        alice = token(database, "alice")
        decide(database, alice, request, "approve", shown)
        decide(database, alice, request, "revoke", shown)
        done = await finished(database, workflow)
    assert (done["result"], far.writes) == ({"decision": "revoked"}, 0)


async def test_a_request_that_does_not_fit_its_model_is_never_asked(
    database: Database, temporal_server: Server
) -> None:
    far = FarSide()
    client = await Client.connect(temporal_server.address)
    async with environment(database, far) as env:
        strict = replace(far.effect, request=Review)
        async with working(replace(env, registry=Registry({}, {"note": strict})), client):
            done = await finished(database, start(database, request={"body": 7}))
    assert done["status"] == "failed"
    problem = "the escalation's request.repository: Field required; request.body: Input should be a valid string"
    assert problem in done["error"]


def _revision(database: Database, request: UUID, revision: int) -> str | None:
    query = "SELECT hash FROM backbeat.approval_requests WHERE id = %s AND revision = %s"
    found = database.sql(query, [request, revision])
    return found[0][0] if found else None
