"""What is decided on: edits, requested changes, comments, claims, and taking an approval back."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.support.approvals import Asked, ask, audit, content_hash, decide, heard, state, tick, token, worker_rows
from tests.support.databases import Database
from tests.support.signals import until

TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


def shown(database: Database, asked: Asked) -> str:
    found: str = database.value("SELECT hash FROM backbeat.approval_requests WHERE id = %s", [asked.id])
    return found


def begin(database: Database, asked: Asked, hash_: str) -> str:
    call = "SELECT verdict FROM backbeat.begin_effect(%s, 'workflow', %s, NULL, 'note', '{}', %s, %s, %s, %s, 10)"
    key, owner = f"{asked.workflow}:effect", asked.workflow
    (row,) = worker_rows(database, call, [key, owner, hash_, owner, TRACE, asked.id])
    return str(row["verdict"])


def test_an_edit_is_a_new_revision_and_voids_votes(database: Database) -> None:
    alice, bob = token(database, "alice"), token(database, "bob")
    asked = ask(database, policy={"approvers": ["alice", "bob"], "needed": 2})
    assert decide(database, alice, asked.id, "approve", asked.hash)["state"] == "pending"
    better = {"repository": "acme/shop", "body": "Blocking: a key in the diff."}
    assert decide(database, bob, asked.id, "edit", asked.hash, body=better)["state"] == "pending"
    assert shown(database, asked) == content_hash(request=better), "Postgres hashes as Python does"
    assert decide(database, bob, asked.id, "approve", asked.hash)["verdict"] == "stale"
    assert decide(database, bob, asked.id, "approve", shown(database, asked))["state"] == "pending"
    assert begin(database, asked, asked.hash) == "refused"
    assert decide(database, alice, asked.id, "approve", shown(database, asked))["state"] == "approved"
    assert begin(database, asked, asked.hash) == "refused", "what nobody approved in the end"
    assert begin(database, asked, shown(database, asked)) == "fire"
    assert [event for event, *_ in heard(database, asked.id)] == ["asked", "asked", "decided"]


def test_an_edit_is_signed_with_its_content(database: Database) -> None:
    """A proof that was made for one edit is none for another."""
    from backbeat import tokens

    alice = token(database, "alice")
    asked = ask(database)
    proof = tokens.sign(alice, asked.id, "edit", asked.hash, "", {"a": 1})
    stolen = decide(database, None, asked.id, "edit", asked.hash, proof=proof, body={"a": 2})
    assert stolen["verdict"] == "unauthenticated"
    assert decide(database, None, asked.id, "edit", asked.hash, proof=proof, body={"a": 1})["verdict"] == "accepted"


def test_an_edit_of_what_others_edited_is_stale(database: Database) -> None:
    people = [token(database, name) for name in ("alice", "bob")]
    asked = ask(database)
    with ThreadPoolExecutor(2) as pool:
        edits = [(who, {"n": n}) for n, who in enumerate(people)]
        said = list(
            pool.map(lambda e: decide(database, e[0], asked.id, "edit", asked.hash, body=e[1])["verdict"], edits)
        )
    assert sorted(said) == ["accepted", "stale"]
    assert database.value("SELECT revision FROM backbeat.approval_requests") == 2


@pytest.mark.parametrize(
    ("body", "problem", "said"),
    [
        ({"a": "x" * 262_144}, None, "body has 262153 bytes, of at most 262144"),
        ({"a": 1}, "request.a: Input should be a valid string", "request.a: Input should be a valid string"),
        ([1], None, "body is not what goes with this decision"),
        ({"a": 2**53}, None, "body: the payload has no canonical form"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_and_on_record(
    database: Database, body: Any, problem: str | None, said: str
) -> None:
    alice = token(database, "alice")
    asked = ask(database)
    try:
        answer = decide(database, alice, asked.id, "edit", asked.hash, body=body, problem=problem)
    except ValueError:
        answer = decide(database, None, asked.id, "edit", asked.hash, body=body, problem=problem)
    assert (answer["verdict"], said in answer["problem"]) == ("malformed", True)
    assert shown(database, asked) == asked.hash
    assert said in audit(database, asked.id)[-1][2]["problem"]


def test_what_declares_no_model_cannot_be_edited(database: Database) -> None:
    alice = token(database, "alice")
    asked = ask(database)
    database.sql("UPDATE backbeat.approval_requests SET editable = false")
    assert decide(database, alice, asked.id, "edit", asked.hash, body={"a": 1})["verdict"] == "not_editable"


def test_requested_changes_come_back_as_a_new_revision_at_most_so_often(database: Database) -> None:
    alice = token(database, "alice")
    asked = ask(database, policy={"approvers": ["alice"], "max_rounds": 2}, requested_by="zoe")
    revise = "SELECT backbeat.revise_approval(%s, %s, %s::jsonb) AS done"
    for round_, verdict in ((1, "accepted"), (2, "accepted"), (3, "no_rounds")):
        hash_ = shown(database, asked)
        said = decide(database, alice, asked.id, "request_changes", hash_, comment="softer, please")
        assert said["verdict"] == verdict
        if verdict == "accepted":
            assert state(database, asked.id) == "changes"
            assert decide(database, alice, asked.id, "approve", hash_)["verdict"] == "changes"
            body = f'{{"round": {round_}}}'
            assert worker_rows(database, revise, [asked.id, round_ + 1, body]) == [{"done": False}]
            assert worker_rows(database, revise, [asked.id, round_, body]) == [{"done": True}]
            assert worker_rows(database, revise, [asked.id, round_, body]) == [{"done": False}], "once"
    assert decide(database, alice, asked.id, "approve", shown(database, asked))["state"] == "approved"
    assert [event for event, *_ in heard(database, asked.id)] == [
        *("asked", "changes", "asked", "changes", "asked", "decided"),
    ]


def test_while_changes_are_awaited_people_may_edit_reject_or_let_it_expire(database: Database) -> None:
    alice = token(database, "alice")
    asked, other, late = (ask(database, policy={"approvers": ["alice"], "max_rounds": 1}) for _ in range(3))
    for each in (asked, other, late):
        decide(database, alice, each.id, "request_changes", each.hash, comment="no")
    assert decide(database, alice, asked.id, "edit", asked.hash, body={"a": 1})["state"] == "pending"
    assert decide(database, alice, other.id, "reject", other.hash)["state"] == "rejected"
    database.advance(timedelta(hours=1))
    assert tick(database, late.id)["state"] == "expired"
    revise = "SELECT backbeat.revise_approval(%s, 1, '{}') AS done"
    assert worker_rows(database, revise, [late.id]) == [{"done": False}]


def test_comments_are_kept_and_count_for_nothing(database: Database) -> None:
    alice = token(database, "alice")
    asked = ask(database)
    for words in ("why now?", "asked finance"):
        assert decide(database, alice, asked.id, "comment", comment=words)["verdict"] == "accepted"
    assert state(database, asked.id) == "pending"
    assert [entry[2]["comment"] for entry in audit(database, asked.id)[1:]] == ["why now?", "asked finance"]


def test_a_claim_is_seen_times_out_and_binds_no_decision(database: Database) -> None:
    alice, bob = token(database, "alice"), token(database, "bob")
    asked = ask(database)
    assert decide(database, alice, asked.id, "claim", body={"seconds": 60})["verdict"] == "accepted"
    assert decide(database, bob, asked.id, "claim", body={})["verdict"] == "claimed"
    assert decide(database, bob, asked.id, "unclaim")["verdict"] == "claimed"
    query = "SELECT claimed_by FROM backbeat.approval_requests"
    assert database.value(query) == "alice"
    database.advance(timedelta(seconds=61))
    assert decide(database, bob, asked.id, "claim", body={})["verdict"] == "accepted"
    assert decide(database, bob, asked.id, "unclaim")["verdict"] == "accepted"
    assert database.value(query) is None
    decide(database, bob, asked.id, "claim", body={})
    assert decide(database, alice, asked.id, "approve", asked.hash)["state"] == "approved"


def test_the_same_word_twice_is_said_once(database: Database) -> None:
    alice = token(database, "alice")
    asked = ask(database, policy={"approvers": ["alice", "bob"], "needed": 2, "max_rounds": 5})
    said: list[tuple[str, dict[str, Any]]] = [
        ("comment", {"comment": "hm"}),
        ("claim", {"body": {}}),
        ("approve", {"shown": asked.hash}),
        ("edit", {"shown": asked.hash, "body": {"a": 1}}),
        ("delegate", {"body": {"to": "alice"}}),
    ]
    for decision, more in said:
        same = uuid4()
        answers = [decide(database, alice, asked.id, decision, decision_id=same, **more) for _ in range(3)]
        assert [answer["verdict"] for answer in answers] == ["accepted", "repeated", "repeated"], decision
    assert database.value("SELECT count(*) FROM backbeat.approval_decisions") == len(said)
    assert database.value("SELECT revision FROM backbeat.approval_requests") == 2


def test_an_approval_can_be_taken_back_until_its_effect_is_begun(database: Database) -> None:
    alice, bob = token(database, "alice"), token(database, "bob")
    asked = ask(database, policy={"approvers": ["alice", "bob"], "effect_delay": 600})
    assert decide(database, bob, asked.id, "revoke", asked.hash)["verdict"] == "not_approved"
    decide(database, alice, asked.id, "approve", asked.hash)
    standing = tick(database, asked.id)
    assert (standing["state"], standing["settled"]) == ("approved", False)
    assert 590 < standing["seconds_left"] <= 600
    assert begin(database, asked, asked.hash) == "refused"
    assert decide(database, token(database, "eve"), asked.id, "revoke", asked.hash)["verdict"] == "not_eligible"
    assert decide(database, bob, asked.id, "revoke", asked.hash, comment="wait")["state"] == "revoked"
    database.advance(timedelta(minutes=10))
    assert tick(database, asked.id)["settled"]
    assert begin(database, asked, asked.hash) == "refused"
    pokes = "SELECT count(*) FROM backbeat.temporal_outbox WHERE kind = 'poke'"
    assert database.value(pokes) == 2


def test_what_has_begun_is_not_taken_back(database: Database) -> None:
    alice = token(database, "alice")
    asked = ask(database, policy={"approvers": ["alice"], "effect_delay": 600})
    decide(database, alice, asked.id, "approve", asked.hash)
    database.advance(timedelta(minutes=10))
    assert tick(database, asked.id)["settled"]
    assert begin(database, asked, asked.hash) == "fire"
    assert decide(database, alice, asked.id, "revoke", asked.hash)["verdict"] == "too_late"
    assert state(database, asked.id) == "approved"


@pytest.mark.parametrize("first", ["revoke", "begin"])
def test_of_revoke_and_effect_one_wins(database: Database, first: str) -> None:
    """Each waits for the other, and then sees what the other did."""
    alice = token(database, "alice")
    asked = ask(database, policy={"approvers": ["alice"]})
    decide(database, alice, asked.id, "approve", asked.hash)
    lock = "SELECT FROM backbeat.approval_requests WHERE id = %s FOR UPDATE"

    def revoke() -> str:
        return str(decide(database, alice, asked.id, "revoke", asked.hash)["verdict"])

    def effect() -> str:
        return begin(database, asked, asked.hash)

    order = [revoke, effect] if first == "revoke" else [effect, revoke]
    with ThreadPoolExecutor() as pool, psycopg.connect(database.owner_url) as holder:
        holder.execute(lock, [asked.id])
        waiting = []
        for n, call in enumerate(order, 1):
            waiting.append(pool.submit(call))
            _blocked(database, n)
        holder.rollback()
        said = [done.result(60) for done in waiting]
    assert said in (["accepted", "refused"], ["fire", "too_late"])


def test_a_workflow_that_ends_takes_an_approval_along_that_still_waits(database: Database) -> None:
    alice = token(database, "alice")
    asked = ask(database, policy={"approvers": ["alice"], "effect_delay": 600})
    decide(database, alice, asked.id, "approve", asked.hash)
    worker_rows(database, "SELECT backbeat.project_state(%s, 1, 'cancelled', 'run')", [asked.workflow])
    assert state(database, asked.id) == "cancelled"


def _blocked(database: Database, sessions: int) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        until(lambda: admin.execute(query).fetchall()[0][0] >= sessions, within=60, what="sessions that wait")
