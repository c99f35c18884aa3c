"""The one rule of every decision, in Postgres: who may decide, on what, until when, and what is on record after."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from backbeat import tokens
from tests.support import every_postgres
from tests.support.approvals import Asked, ask, audit, content_hash, decide, start, state, token, worker_rows
from tests.support.databases import AUDIT_PROBLEMS, Database
from tests.support.signals import until


def pokes(database: Database, asked: Asked) -> int:
    query = "SELECT count(*) FROM backbeat.temporal_outbox WHERE stream = %s AND kind = 'poke'"
    return int(database.value(query, [asked.workflow]))


@every_postgres
def test_an_approval_commits_decision_audit_and_poke_together(database: Database) -> None:
    asked = ask(database)
    alice = token(database, "alice")
    answer = decide(database, alice, asked.id, "approve", asked.hash, comment="fine")
    assert (answer["verdict"], answer["user_name"], answer["state"]) == ("accepted", "alice", "approved")
    assert state(database, asked.id) == "approved"
    assert pokes(database, asked) == 1
    requested, approved = audit(database, asked.id)
    assert requested[:2] == ("(workflow)", "approval.requested")
    assert approved[:2] == ("alice", "approval.approve")
    assert approved[2]["comment"] == "fine"
    assert approved[2]["hash"] == asked.hash
    assert approved[2]["token"] == tokens.fingerprint(alice)


def test_one_rejection_closes_whatever_the_quorum(database: Database) -> None:
    asked = ask(database, policy={"approvers": ["alice", "bob"], "needed": 2})
    answer = decide(database, token(database, "bob"), asked.id, "reject", asked.hash)
    assert (answer["verdict"], answer["state"]) == ("accepted", "rejected")
    assert pokes(database, asked) == 1


def test_a_quorum_counts_people(database: Database) -> None:
    asked = ask(database, policy={"approvers": ["alice"], "groups": ["security"], "needed": 2})
    alice, other_alice = token(database, "alice"), token(database, "alice", "security")
    assert decide(database, alice, asked.id, "approve", asked.hash)["state"] == "pending"
    assert pokes(database, asked) == 0
    assert decide(database, other_alice, asked.id, "approve", asked.hash)["verdict"] == "voted"
    carol = token(database, "carol", "security")
    assert decide(database, carol, asked.id, "approve", asked.hash)["state"] == "approved"
    assert pokes(database, asked) == 1


Refusal = Callable[[Database, Asked], dict[str, Any]]


def _no_token(database: Database, asked: Asked) -> dict[str, Any]:
    return decide(database, None, asked.id, "approve", asked.hash)


def _forged(database: Database, asked: Asked) -> dict[str, Any]:
    proof = f"bbd_{tokens.fingerprint(token(database, 'alice'))}_{'0' * 64}"
    return decide(database, None, asked.id, "approve", asked.hash, proof=proof)


def _signed_for_rejecting(database: Database, asked: Asked) -> dict[str, Any]:
    proof = tokens.sign(token(database, "alice"), asked.id, "reject", asked.hash)
    return decide(database, None, asked.id, "approve", asked.hash, proof=proof)


def _signed_for_another_request(database: Database, asked: Asked) -> dict[str, Any]:
    proof = tokens.sign(token(database, "alice"), ask(database).id, "approve", asked.hash)
    return decide(database, None, asked.id, "approve", asked.hash, proof=proof)


def _comment_put_in_the_mouth(database: Database, asked: Asked) -> dict[str, Any]:
    proof = tokens.sign(token(database, "alice"), asked.id, "approve", asked.hash, "")
    return decide(database, None, asked.id, "approve", asked.hash, proof=proof, comment="and fire bob")


def _unsigned_signal(database: Database, asked: Asked) -> dict[str, Any]:
    return decide(database, None, asked.id, "approve", asked.hash, via="signal")


def _expired_token(database: Database, asked: Asked) -> dict[str, Any]:
    alice = token(database, "alice", seconds=60.0)
    database.advance(timedelta(seconds=61))
    return decide(database, alice, asked.id, "approve", asked.hash)


def _revoked_token(database: Database, asked: Asked) -> dict[str, Any]:
    alice = token(database, "alice")
    assert database.value("SELECT backbeat.revoke_token(%s)", [tokens.fingerprint(alice)])
    return decide(database, alice, asked.id, "approve", asked.hash)


def _stranger(database: Database, asked: Asked) -> dict[str, Any]:
    return decide(database, token(database, "mallory", "engineers"), asked.id, "approve", asked.hash)


def _another_content(database: Database, asked: Asked) -> dict[str, Any]:
    return decide(database, token(database, "alice"), asked.id, "approve", "0" * 64)


def _too_late(database: Database, asked: Asked) -> dict[str, Any]:
    database.advance(timedelta(hours=1))
    return decide(database, token(database, "alice"), asked.id, "approve", asked.hash)


def _no_decision(database: Database, asked: Asked) -> dict[str, Any]:
    return decide(database, token(database, "alice"), asked.id, "maybe", asked.hash)


def _half_a_hash(database: Database, asked: Asked) -> dict[str, Any]:
    return decide(database, token(database, "alice"), asked.id, "approve", asked.hash[:12])


def _endless_comment(database: Database, asked: Asked) -> dict[str, Any]:
    return decide(database, token(database, "alice"), asked.id, "approve", asked.hash, comment="a" * 4001)


@pytest.mark.parametrize(
    ("attempt", "verdict", "actor"),
    [
        (_no_token, "unauthenticated", "(unauthenticated)"),
        (_forged, "unauthenticated", "(unauthenticated)"),
        (_signed_for_rejecting, "unauthenticated", "(unauthenticated)"),
        (_signed_for_another_request, "unauthenticated", "(unauthenticated)"),
        (_comment_put_in_the_mouth, "unauthenticated", "(unauthenticated)"),
        (_unsigned_signal, "unauthenticated", "(unauthenticated)"),
        (_expired_token, "unauthenticated", "(unauthenticated)"),
        (_revoked_token, "unauthenticated", "(unauthenticated)"),
        (_stranger, "not_eligible", "mallory"),
        (_another_content, "stale", "alice"),
        (_too_late, "expired", "alice"),
        (_no_decision, "malformed", "alice"),
        (_half_a_hash, "malformed", "alice"),
        (_endless_comment, "malformed", "alice"),
    ],
)
def test_a_refusal_changes_nothing_and_is_audited(
    database: Database, attempt: Refusal, verdict: str, actor: str
) -> None:
    asked = ask(database)
    assert attempt(database, asked)["verdict"] == verdict
    assert state(database, asked.id) == "pending"
    assert pokes(database, asked) == 0
    assert database.value("SELECT count(*) FROM backbeat.approval_decisions") == 0
    *_, (by, action, detail) = audit(database, asked.id)
    assert (by, action, detail["verdict"]) == (actor, "approval.refused", verdict)


def test_a_request_that_is_none_is_refused_and_audited(database: Database) -> None:
    nothing = uuid4()
    assert decide(database, token(database, "alice"), nothing, "approve", "0" * 64)["verdict"] == "not_found"
    assert [entry[1] for entry in audit(database, nothing)] == ["approval.refused"]


def test_a_second_decision_learns_who_was_first_and_when(database: Database) -> None:
    asked = ask(database)
    decide(database, token(database, "alice"), asked.id, "reject", asked.hash)
    answer = decide(database, token(database, "bob"), asked.id, "approve", asked.hash)
    assert (answer["verdict"], answer["state"], answer["closed_by"]) == ("closed", "rejected", "alice")
    assert answer["closed_at"] is not None
    assert pokes(database, asked) == 1


def test_the_same_decision_again_gives_the_first_result(database: Database) -> None:
    asked = ask(database, policy={"approvers": ["alice", "bob"], "needed": 2})
    alice, mine = token(database, "alice"), uuid4()
    first = decide(database, alice, asked.id, "approve", asked.hash, decision_id=mine)
    decide(database, token(database, "bob"), asked.id, "approve", asked.hash)
    again = decide(database, alice, asked.id, "approve", asked.hash, decision_id=mine)
    assert (first["verdict"], first["state"]) == ("accepted", "pending")
    assert (again["verdict"], again["state"]) == ("repeated", "pending")
    assert database.value("SELECT count(*) FROM backbeat.approval_decisions") == 2
    assert pokes(database, asked) == 1
    stolen = decide(database, token(database, "bob"), asked.id, "reject", asked.hash, decision_id=mine)
    assert stolen["verdict"] == "malformed"


def test_an_unsigned_signal_decides_only_where_the_policy_says_so(database: Database) -> None:
    asked = ask(database, policy={"allow_unsigned_signal": True})
    assert decide(database, None, asked.id, "approve", asked.hash, via="cli")["verdict"] == "unauthenticated"
    answer = decide(database, None, asked.id, "approve", asked.hash, via="signal")
    assert (answer["verdict"], answer["user_name"]) == ("accepted", "(unsigned signal)")


POLICIES = [
    ("[]", "not an object"),
    ("{}", "nobody can satisfy"),
    ('{"approvers": []}', "nobody can satisfy"),
    ('{"approvers": ["alice", "alice"], "needed": 2}', "nobody can satisfy"),
    ('{"approvers": "alice"}', "not a list of user names"),
    ('{"approvers": [7]}', "not a list of user names"),
    ('{"groups": [""]}', "not a list of group names"),
    ('{"approvers": ["alice"], "needed": 0}', "not a number"),
    ('{"approvers": ["alice"], "needed": 1.5}', "not a number"),
    ('{"approvers": ["alice"], "for_eyes": true}', "policy: unknown key for_eyes"),
    ('{"approvers": ["alice"], "allow_unsigned_signal": 1}', "not true or false"),
    ('{"approvers": ["alice", "bob"], "needed": 2, "allow_unsigned_signal": true}', "cannot go with a quorum"),
    ('{"approvers": ["alice"]}', ""),
    ('{"groups": ["security"], "needed": 3}', ""),
    ('{"allow_unsigned_signal": true}', ""),
]


def test_a_policy_that_cannot_work_says_why(database: Database) -> None:
    said = {p: database.value("SELECT backbeat.policy_problem(%s::jsonb)", [p]) or "" for p, _ in POLICIES}
    assert [p for p, problem in POLICIES if problem not in said[p] or bool(problem) != bool(said[p])] == []


def test_no_request_exists_under_a_policy_that_cannot_work(database: Database) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="policy_is_sound"):
        ask(database, policy={})


def test_asking_twice_asks_once(database: Database) -> None:
    asked = ask(database)
    call = "SELECT id, hash FROM backbeat.create_approval(%s, 'approve', %s)"
    (row,) = worker_rows(database, call, [asked.workflow, "0" * 64])
    assert row == {"id": asked.id, "hash": asked.hash}


def test_a_request_shows_what_the_task_escalated_whoever_asks(database: Database) -> None:
    """A worker's login names the workflow and the step; a title, content or rule of its own it cannot name."""
    asked = ask(database, title="Refund", request={"a": 1}, policy={"approvers": ["carol"]}, seconds=60.0)
    query = "SELECT title, payload, policy, deadline - requested_at FROM backbeat.approval_requests WHERE id = %s"
    shown = ("Refund", {"effect": "note", "request": {"a": 1}}, {"approvers": ["carol"]}, timedelta(minutes=1))
    assert database.sql(query, [asked.id]) == [shown]
    arguments = "SELECT pg_get_function_identity_arguments('backbeat.create_approval'::regproc)"
    assert database.value(arguments) == "p_workflow uuid, p_step text, p_hash text, p_editable boolean"


def test_what_a_worker_hashes_wrongly_nobody_can_approve(database: Database) -> None:
    workflow = start(database)
    call = "SELECT id FROM backbeat.create_approval(%s, 'approve', %s)"
    (row,) = worker_rows(database, call, [workflow, "0" * 64])
    verdict = decide(database, token(database, "alice"), row["id"], "approve", content_hash())["verdict"]
    assert verdict == "stale"


def test_the_deadline_is_postgres_clock(database: Database) -> None:
    asked = ask(database, seconds=3600.0)
    (before,) = worker_rows(database, "SELECT * FROM backbeat.close_if_pending(%s)", [asked.id])
    assert before["state"] == "pending"
    assert 3000 < before["seconds_left"] <= 3600
    database.advance(timedelta(seconds=3600))
    (after,) = worker_rows(database, "SELECT * FROM backbeat.close_if_pending(%s)", [asked.id])
    assert (after["state"], after["closed_by"]) == ("expired", "(deadline)")
    assert after["seconds_left"] <= 0
    late = decide(database, token(database, "alice"), asked.id, "approve", asked.hash)
    assert (late["verdict"], late["closed_by"]) == ("closed", "(deadline)")


def test_a_decision_before_the_deadline_outlives_it(database: Database) -> None:
    asked = ask(database)
    decide(database, token(database, "alice"), asked.id, "approve", asked.hash)
    database.advance(timedelta(days=3))
    (after,) = worker_rows(database, "SELECT * FROM backbeat.close_if_pending(%s)", [asked.id])
    assert (after["state"], after["closed_by"]) == ("approved", "alice")


def test_a_decision_that_waited_for_a_lock_past_the_deadline_is_too_late(database: Database) -> None:
    asked = ask(database)
    alice = token(database, "alice")
    with ThreadPoolExecutor() as pool, psycopg.connect(database.owner_url) as holder:
        holder.execute("SELECT FROM backbeat.approval_requests WHERE id = %s FOR UPDATE", [asked.id])
        waiting = pool.submit(decide, database, alice, asked.id, "approve", asked.hash)
        _wait_for_blocked(database)
        database.advance(timedelta(hours=2))
        holder.rollback()
        assert waiting.result(60)["verdict"] == "expired"


def test_of_two_racing_decisions_one_counts(database: Database) -> None:
    asked = ask(database)
    people = [token(database, name) for name in ("alice", "bob")]
    ballots = list(zip(people * 4, ["approve", "reject"] * 4, strict=True))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda b: decide(database, b[0], asked.id, b[1], asked.hash)["verdict"], ballots))
    assert sorted(answers) == ["accepted"] + ["closed"] * 7
    assert database.value("SELECT count(*) FROM backbeat.approval_decisions") == 1
    assert pokes(database, asked) == 1


@pytest.mark.parametrize("table", ["approval_decisions", "audit_log"])
@pytest.mark.parametrize("verb", ["UPDATE {} SET hash = hash", "DELETE FROM {}", "TRUNCATE {}"])
def test_what_is_on_record_stays_even_for_the_owner(database: Database, table: str, verb: str) -> None:
    asked = ask(database)
    decide(database, token(database, "alice"), asked.id, "approve", asked.hash)
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="append-only"):
        database.sql(verb.format(f"backbeat.{table}"))


@pytest.mark.parametrize(
    ("tampering", "broken", "problem"),
    [
        ("UPDATE backbeat.audit_log SET actor = 'bob' WHERE id = 2", 2, "it was changed"),
        ("UPDATE backbeat.audit_log SET detail = detail || '{\"x\": 1}' WHERE id = 1", 1, "it was changed"),
        ("UPDATE backbeat.audit_log SET at = at - interval '1 microsecond' WHERE id = 3", 3, "it was changed"),
        ("DELETE FROM backbeat.audit_log WHERE id = 2", 3, "a row before it is missing"),
        ("DELETE FROM backbeat.audit_log WHERE id = (SELECT max(id) FROM backbeat.audit_log)", None, "the newest rows"),
        ("DELETE FROM backbeat.audit_log", None, "the newest rows are missing"),
    ],
)
def test_the_chain_shows_what_was_tampered_with(
    database: Database, tampering: str, broken: int | None, problem: str
) -> None:
    for _ in range(2):
        asked = ask(database)
        decide(database, token(database, "alice"), asked.id, "approve", asked.hash)
    last = database.value("SELECT max(id) FROM backbeat.audit_log")
    assert worker_rows(database, AUDIT_PROBLEMS) == []
    database.sql("ALTER TABLE backbeat.audit_log DISABLE TRIGGER append_only")
    database.sql(tampering)
    (found,) = worker_rows(database, AUDIT_PROBLEMS)
    assert found["id"] == broken or last
    assert problem in found["problem"]


def test_the_chain_verifies_in_any_time_zone(database: Database) -> None:
    ask(database)
    with psycopg.connect(
        database.direct_worker_url, options="-c TimeZone=Asia/Kolkata -c DateStyle=German"
    ) as elsewhere:
        assert elsewhere.execute("SELECT count(*) FROM backbeat.audit_log").fetchone() == (1,)
        assert elsewhere.execute(AUDIT_PROBLEMS).fetchall() == []


def test_a_flood_of_refusals_does_not_fill_the_audit_log(database: Database) -> None:
    asked = ask(database)
    for _ in range(35):
        assert _no_token(database, asked)["verdict"] == "unauthenticated"
    assert len(audit(database, asked.id)) == 31
    database.advance(timedelta(minutes=1, seconds=1))
    _no_token(database, asked)
    assert len(audit(database, asked.id)) == 32


def _wait_for_blocked(database: Database, sessions: int = 1) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        until(lambda: admin.execute(query).fetchall()[0][0] >= sessions, within=60, what="sessions that wait")


@contextmanager
def _deciding(database: Database, asked: Asked, lock: str) -> Iterator[psycopg.Connection]:
    """A decision that waits for `lock`, which another session holds; inside, what it holds meanwhile can be tried."""
    alice = token(database, "alice")
    with ThreadPoolExecutor() as pool, psycopg.connect(database.owner_url) as holder:
        holder.execute(lock.encode(), {"request": asked.id, "workflow": asked.workflow})
        waiting = pool.submit(decide, database, alice, asked.id, "approve", asked.hash)
        _wait_for_blocked(database)
        with psycopg.connect(database.owner_url) as looker:
            yield looker
        holder.rollback()
        assert waiting.result(60)["verdict"] == "accepted"


WORKFLOW = "SELECT FROM backbeat.orchestrated_workflows WHERE id = %(workflow)s FOR UPDATE"
REQUEST = "SELECT FROM backbeat.approval_requests WHERE id = %(request)s FOR UPDATE"
HEAD = "SELECT FROM backbeat.audit_head FOR UPDATE"


def test_locks_are_taken_in_one_order(database: Database) -> None:
    """Workflow, then request, then audit head: who waits for one holds those before it, and none after."""
    order = [WORKFLOW, REQUEST, HEAD]
    for place, lock in enumerate(order):
        asked = ask(database)
        ids = {"request": asked.id, "workflow": asked.workflow}
        with _deciding(database, asked, lock) as looker:
            for held in order[:place]:
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    looker.execute(f"{held} NOWAIT".encode(), ids)
                looker.rollback()
            for free in order[place + 1 :]:
                looker.execute(f"{free} NOWAIT".encode(), ids)


def test_many_writers_never_deadlock(database: Database) -> None:
    requests = [ask(database) for _ in range(6)]
    people = [token(database, name) for name in ("alice", "bob")]
    project = "SELECT backbeat.project_state(%s, 1, 'cancelled', 'run')"

    def work(number: int) -> str:
        asked = requests[number % 6]
        if number % 3 == 0:
            worker_rows(database, "SELECT * FROM backbeat.close_if_pending(%s)", [asked.id])
        elif number % 7 == 0:
            worker_rows(database, project, [asked.workflow])
        else:
            return str(decide(database, people[number % 2], asked.id, "approve", asked.hash)["verdict"])
        return "other"

    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(work, range(60)))
    assert set(verdicts) <= {"accepted", "closed", "voted", "other"}
    assert worker_rows(database, AUDIT_PROBLEMS) == []


def test_a_workflow_that_ends_takes_its_open_request_along(database: Database) -> None:
    asked = ask(database)
    assert worker_rows(database, "SELECT backbeat.project_state(%s, 1, 'cancelled', 'run') AS ok", [asked.workflow])
    assert state(database, asked.id) == "cancelled"
    answer = decide(database, token(database, "alice"), asked.id, "approve", asked.hash)
    assert (answer["verdict"], answer["closed_by"]) == ("closed", "(workflow)")
    assert ("(workflow)", "approval.cancelled", {"workflow": "cancelled"}) in audit(database, asked.id)


def test_an_effect_needs_exactly_what_was_approved(database: Database) -> None:
    asked, other = ask(database), ask(database)

    def begin(shown: str, owner: UUID = asked.workflow) -> str:
        call = "SELECT verdict FROM backbeat.begin_effect('k', 'workflow', %s, NULL, 'note', '{}', %s, %s, %s, %s, 10)"
        trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
        (row,) = worker_rows(database, call, [owner, shown, asked.workflow, trace, asked.id])
        return str(row["verdict"])

    assert begin(asked.hash) == "refused"
    decide(database, token(database, "alice"), asked.id, "approve", asked.hash)
    assert begin("0" * 64) == "refused"
    assert begin(asked.hash, other.workflow) == "refused", "what was approved for one workflow is none of another's"
    assert begin(asked.hash) == "fire"


FORBIDDEN = [
    "SELECT key FROM backbeat.api_tokens",
    "SELECT * FROM backbeat.api_tokens",
    "SELECT backbeat.create_token(sha256('x'), 'alice', '{}', NULL)",
    "SELECT backbeat.revoke_token('0123456789abcdef')",
    "SELECT backbeat.audit('alice', 'approval.approve', 'x', '{}')",
    "SELECT backbeat.push_outbox(gen_random_uuid(), 'cancel')",
    "SELECT backbeat.signer('x', 'y', now())",
    "INSERT INTO backbeat.api_tokens DEFAULT VALUES",
    "UPDATE backbeat.approval_requests SET state = 'approved'",
    "DELETE FROM backbeat.temporal_outbox",
    "UPDATE backbeat.audit_head SET id = 0",
]


def test_a_worker_cannot_say_who_somebody_is(database: Database) -> None:
    for statement in FORBIDDEN:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            worker_rows(database, statement)


def test_a_worker_may_read_who_has_tokens(database: Database) -> None:
    token(database, "alice", "security")
    (row,) = worker_rows(database, "SELECT user_name, groups FROM backbeat.api_tokens")
    assert row == {"user_name": "alice", "groups": ["security"]}


def test_names_that_are_no_persons(database: Database) -> None:
    for name in ("", "(deadline)", "a b", "-x", "x" * 101):
        with pytest.raises(psycopg.errors.CheckViolation):
            token(database, name)


@every_postgres
def test_an_escalation_continues_the_trace(database: Database) -> None:
    call = "SELECT backbeat.start_workflow('approve_effect', 1, 'default', '{}', NULL, %s, %s) AS id"
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    task = uuid4()
    (row,) = worker_rows(database, call, [task, trace])
    columns = "traceparent, backbeat.span_id('escalate', id::text), temporal_id"
    query = f"SELECT {columns} FROM backbeat.orchestrated_workflows"
    ((made, span, temporal_id),) = database.sql(query)
    assert made == f"00-{'ab' * 16}-{span}-01"
    assert temporal_id == f"approve_effect/{row['id']}"
    with pytest.raises(psycopg.errors.UniqueViolation):
        worker_rows(database, call, [task, trace])
