"""Who may decide and how many it takes: rules, groups, four eyes, delegation, leavers, escalation, silence."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from backbeat.policy import Policy, Rule, Step
from tests.support.approvals import Asked, ask, audit, decide, heard, state, tick, token
from tests.support.databases import Database


def vote(database: Database, asked: Asked, who: str, decision: str = "approve", **more: Any) -> str:
    answer = decide(database, who, asked.id, decision, asked.hash, **more)
    return str(answer["verdict"] if answer["verdict"] != "accepted" else answer["state"])


PEOPLE: dict[str, tuple[str, ...]] = {
    "alice": ("security",),
    "bob": ("security", "finance"),
    "carol": ("finance",),
    "dave": (),
    "erin": ("board",),
}
BOTH = {"rules": [{"groups": ["security"]}, {"groups": ["finance"]}]}
TWO_PEOPLE = {"rules": [*BOTH["rules"], {"groups": ["security", "finance"], "needed": 2}]}

# policy, votes in order (a "-" rejects), what each is answered.
QUORUMS = [
    ({"approvers": ["alice", "bob", "carol"], "needed": 2}, "alice carol", "pending approved"),
    ({"approvers": ["alice", "bob", "carol"], "needed": 2}, "alice alice dave", "pending voted not_eligible"),
    ({"groups": ["security"], "needed": 2}, "alice carol bob", "pending not_eligible approved"),
    ({"approvers": ["dave"], "groups": ["finance"], "needed": 2}, "dave carol", "pending approved"),
    (BOTH, "alice carol", "pending approved"),
    (BOTH, "alice dave -carol", "pending not_eligible rejected"),
    (BOTH, "bob", "approved"),
    (TWO_PEOPLE, "bob alice", "pending approved"),
    (TWO_PEOPLE, "alice bob", "pending approved"),
    (
        {"rules": [{"groups": ["security"], "needed": 2}, {"approvers": ["dave"]}]},
        "dave alice bob",
        "pending pending approved",
    ),
    ({"approvers": ["alice", "bob"], "needed": 2}, "alice -bob alice", "pending rejected closed"),
]


@pytest.mark.parametrize(("policy", "votes", "answers"), QUORUMS)
def test_a_quorum_is_met_by_people(database: Database, policy: dict[str, Any], votes: str, answers: str) -> None:
    tokens = {name: token(database, name, *groups) for name, groups in PEOPLE.items()}
    asked = ask(database, policy=policy)
    said = [
        vote(database, asked, tokens[name.lstrip("-")], "reject" if name[0] == "-" else "approve")
        for name in votes.split()
    ]
    assert said == answers.split()


def test_of_racing_approvals_exactly_enough_count(database: Database) -> None:
    people = [token(database, f"u{n}", "security") for n in range(8)]
    asked = ask(database, policy={"groups": ["security"], "needed": 3})
    with ThreadPoolExecutor(8) as pool:
        said = sorted(pool.map(lambda who: vote(database, asked, who), people))
    assert said == ["approved", *["closed"] * 5, "pending", "pending"]
    query = "SELECT count(*) FROM backbeat.temporal_outbox WHERE stream = %s AND kind = 'poke'"
    assert database.value(query, [asked.workflow]) == 1


def test_four_eyes_keep_requester_and_editor_from_approving(database: Database) -> None:
    alice, bob, carol = (token(database, name) for name in ("alice", "bob", "carol"))
    policy = {"approvers": ["alice", "bob", "carol"], "four_eyes": True}
    asked = ask(database, policy=policy, requested_by="alice")
    assert vote(database, asked, alice) == "four_eyes"
    edited = decide(database, bob, asked.id, "edit", asked.hash, body={"a": 1})
    assert edited["verdict"] == "accepted"
    shown = database.value("SELECT hash FROM backbeat.approval_requests WHERE id = %s", [asked.id])
    assert decide(database, bob, asked.id, "approve", shown)["verdict"] == "four_eyes"
    assert decide(database, carol, asked.id, "approve", shown)["state"] == "approved"
    refused = [entry for entry in audit(database, asked.id) if entry[1] == "approval.refused"]
    assert [(who, detail["verdict"]) for who, _, detail in refused] == [("alice", "four_eyes"), ("bob", "four_eyes")]


def test_four_eyes_need_to_know_who_asked(database: Database) -> None:
    """The worker says so by field; Postgres takes nothing else from anybody."""
    policy = {"approvers": ["alice", "bob"], "four_eyes": True}
    for asker in (None, "(clock)", ""):
        with pytest.raises(psycopg.errors.CheckViolation, match="says_who_asked"):
            ask(database, policy=policy, requested_by=asker)


def test_four_eyes_see_through_a_delegation(database: Database) -> None:
    """The right of who asked is worth nothing in another's hands, and her own hands are tied with another's right."""
    alice, bob = token(database, "alice"), token(database, "bob")
    asked = ask(database, policy={"approvers": ["alice"], "four_eyes": True}, requested_by="alice")
    assert decide(database, alice, asked.id, "delegate", body={"to": "bob"})["verdict"] == "accepted"
    assert vote(database, asked, bob) == "four_eyes"
    other = ask(database, policy={"approvers": ["bob"], "four_eyes": True}, requested_by="alice")
    assert decide(database, bob, other.id, "delegate", body={"to": "alice"})["verdict"] == "accepted"
    assert vote(database, other, alice) == "four_eyes"
    assert vote(database, other, alice, "reject") == "rejected"


def test_who_asked_may_say_no(database: Database) -> None:
    alice = token(database, "alice")
    asked = ask(database, policy={"approvers": ["alice"], "four_eyes": True}, requested_by="alice")
    assert vote(database, asked, alice, "reject") == "rejected"


def test_the_last_word_on_a_right_stands_and_an_earlier_one_does_not_come_back(database: Database) -> None:
    """Handed on for long, then taken back for a minute: after it the right is its owner's, not the other's again."""
    alice, bob = token(database, "alice"), token(database, "bob")
    asked = ask(database, seconds=86400.0, policy={"approvers": ["alice"]})
    for body in ({"to": "bob", "seconds": 80_000}, {"to": "alice", "seconds": 60}):
        assert decide(database, alice, asked.id, "delegate", body=body)["verdict"] == "accepted"
    database.advance(timedelta(seconds=61))
    assert vote(database, asked, bob) == "not_eligible"
    assert vote(database, asked, alice) == "approved"


def test_a_right_that_is_handed_on_is_the_others_until_it_is_taken_back(database: Database) -> None:
    alice, bob = token(database, "alice"), token(database, "bob")
    asked = ask(database, policy={"approvers": ["alice", "zoe"], "needed": 2})
    assert vote(database, asked, bob) == "not_eligible"
    assert decide(database, alice, asked.id, "delegate", body={"to": "bob"})["verdict"] == "accepted"
    assert vote(database, asked, alice) == "not_eligible"
    assert vote(database, asked, bob) == "pending"
    assert database.value("SELECT for_user FROM backbeat.approval_decisions WHERE decision = 'approve'") == "alice"
    assert decide(database, alice, asked.id, "delegate", body={"to": "alice"})["verdict"] == "accepted"
    assert vote(database, asked, alice) == "voted", "her right has voted, by bob"
    assert vote(database, asked, token(database, "zoe")) == "approved"
    assert ("delegated", ["bob"], []) in heard(database, asked.id)


def test_rights_are_handed_on_for_a_while_with_their_groups(database: Database) -> None:
    alice, bob = token(database, "alice", "security"), token(database, "bob")
    day = {"to": "bob", "seconds": 86400}
    assert decide(database, alice, None, "delegate", body=day, comment="on leave")["verdict"] == "accepted"
    asked, later = (ask(database, seconds=7 * 86400.0, policy={"groups": ["security"]}) for _ in range(2))
    assert vote(database, asked, bob) == "approved"
    database.advance(timedelta(days=1, seconds=1))
    assert vote(database, later, bob) == "not_eligible"
    assert vote(database, later, alice) == "approved"


def test_a_right_is_not_handed_on_twice(database: Database) -> None:
    alice, bob, carol = (token(database, name) for name in ("alice", "bob", "carol"))
    asked = ask(database, policy={"approvers": ["alice"]})
    decide(database, alice, None, "delegate", body={"to": "bob"})
    decide(database, bob, None, "delegate", body={"to": "carol"})
    assert vote(database, asked, carol) == "not_eligible"
    assert vote(database, asked, bob) == "approved"


def test_one_person_with_two_rights_is_one_person(database: Database) -> None:
    alice, bob = token(database, "alice"), token(database, "bob")
    asked = ask(database, policy={"approvers": ["alice", "bob"], "needed": 2})
    decide(database, alice, asked.id, "delegate", body={"to": "bob"})
    assert vote(database, asked, bob) == "pending"
    assert vote(database, asked, bob) == "voted"
    assert tick(database, asked.id)["state"] == "pending"
    assert database.value("SELECT stuck FROM backbeat.approval_requests"), "and one of two is too few for ever"


def test_who_leaves_hands_everything_on_and_cannot_come_back_by_an_old_token(database: Database) -> None:
    alice, bob = token(database, "alice", "security"), token(database, "bob")
    named = ask(database, policy={"approvers": ["alice"]})
    grouped = ask(database, policy={"groups": ["security"]})
    ask(database, policy={"approvers": ["carol"]})
    assert database.value("SELECT backbeat.reassign('alice', 'nobody', 'left')") is None
    assert database.value("SELECT backbeat.reassign('alice', 'bob', 'left')") == 2
    assert vote(database, named, alice) == "unauthenticated"
    assert [vote(database, asked, bob) for asked in (named, grouped)] == ["approved", "approved"]
    ((_, action, detail),) = audit(database, "alice")
    assert (action, detail["to"], detail["open"]) == ("approval.reassigned", "bob", 2)


def test_escalation_widens_who_may_decide_step_by_step(database: Database) -> None:
    dave, erin = token(database, "dave"), token(database, "erin", "board")
    steps = [{"after": 3600, "approvers": ["dave"]}, {"after": 7200, "groups": ["board"]}]
    asked = ask(database, seconds=86400.0, policy={"approvers": ["alice"], "escalate": steps})
    token(database, "alice")
    assert [vote(database, asked, who) for who in (dave, erin)] == ["not_eligible", "not_eligible"]
    database.advance(timedelta(hours=1, seconds=1))
    assert vote(database, asked, erin) == "not_eligible"
    assert decide(database, dave, asked.id, "comment", comment="looking")["verdict"] == "accepted"
    assert 3500 < tick(database, asked.id)["seconds_left"] <= 3600, "until the next step"
    assert [event for event, *_ in heard(database, asked.id)] == ["asked", "escalated"]
    tick(database, asked.id)
    assert [event for event, *_ in heard(database, asked.id)] == ["asked", "escalated"], "told once"
    database.advance(timedelta(hours=1))
    assert vote(database, asked, erin) == "approved"


def test_escalated_people_stand_in_for_anybody(database: Database) -> None:
    alice, erin = token(database, "alice", "security"), token(database, "erin")
    policy = {**BOTH, "escalate": [{"after": 60, "approvers": ["erin"]}]}
    asked = ask(database, policy=policy)
    assert vote(database, asked, alice) == "pending"
    database.advance(timedelta(seconds=61))
    assert vote(database, asked, erin) == "approved"


def test_nobody_eligible_is_said_at_once_and_by_whom_it_was_lost(database: Database) -> None:
    asked = ask(database, policy={"approvers": ["alice", "bob"], "needed": 2})
    alice = token(database, "alice")
    assert tick(database, asked.id)["state"] == "pending"
    assert [entry[1] for entry in audit(database, asked.id)] == ["approval.requested", "approval.stuck"]
    assert heard(database, asked.id)[-1] == ("stuck", ["alice", "bob"], [])
    bob = token(database, "bob")
    tick(database, asked.id)
    assert database.value("SELECT stuck FROM backbeat.approval_requests") is False
    assert [vote(database, asked, who) for who in (alice, bob)] == ["pending", "approved"]


SILENCE: list[tuple[dict[str, Any], bool, bool, str]] = [
    # policy, somebody could have decided, it was edited, what silence means
    ({}, True, False, "expired"),
    ({"on_expiry": "reject"}, True, False, "expired"),
    ({"on_expiry": "approve"}, True, False, "approved"),
    ({"on_expiry": "approve"}, False, False, "expired"),
    ({"on_expiry": "approve"}, True, True, "expired"),
]


@pytest.mark.parametrize(("more", "somebody", "edited", "meaning"), SILENCE)
def test_what_silence_means(
    database: Database, more: dict[str, Any], somebody: bool, edited: bool, meaning: str
) -> None:
    asked = ask(database, policy={"approvers": ["alice"], **more})
    alice = token(database, "alice") if somebody else ""
    if edited:
        decide(database, alice, asked.id, "edit", asked.hash, body={"a": 2})
    database.advance(timedelta(hours=1))
    answer = tick(database, asked.id)
    assert (answer["state"], answer["settled"], answer["closed_by"]) == (meaning, True, "(deadline)")
    assert heard(database, asked.id)[-1][0] == "decided"


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ({"rules": []}, "policy.rules is not a list of rules"),
        ({"rules": [{"groups": ["a"]}, {"approvers": ["b"], "needed": 2}]}, "policy.rules[1]: nobody can satisfy it"),
        ({"rules": [7]}, "policy.rules[0] is not an object"),
        ({"rules": [{"groups": ["a"]}], "needed": 2}, "policy.rules stands in place of"),
        ({"approvers": ["a"], "escalate": [{"after": 0, "groups": ["b"]}]}, "policy.escalate[0].after is not a number"),
        ({"approvers": ["a"], "escalate": [{"after": 9}]}, "policy.escalate[0]: nobody can satisfy it"),
        ({"approvers": ["a"], "escalate": [{"groups": ["b"]}]}, "policy.escalate[0].after is not a number of seconds"),
        ({"approvers": ["a"], "escalate": {}}, "policy.escalate is not a list"),
        ({"approvers": ["a"], "remind_every": "1h"}, "policy.remind_every is not a number of seconds"),
        ({"approvers": ["a"], "remind_before": 0}, "policy.remind_before is not a number of seconds"),
        ({"approvers": ["a"], "effect_delay": -1}, "policy.effect_delay is not a number of seconds"),
        ({"approvers": ["a"], "max_rounds": 1.5}, "policy.max_rounds is not a number"),
        ({"approvers": ["a"], "on_expiry": "maybe"}, "policy.on_expiry is not reject or approve"),
        ({"approvers": ["a"], "four_eyes": "yes"}, "policy.four_eyes is not true or false"),
        ({"approvers": ["a"], "calendar": 7}, "policy.calendar is not the name"),
        ({"allow_unsigned_signal": True, "four_eyes": True}, "policy.allow_unsigned_signal cannot go with"),
        ({"rules": [{"groups": ["a"]}], "allow_unsigned_signal": True}, "policy.allow_unsigned_signal cannot go with"),
        ({"approvers": [""], "needed": 0}, "policy.approvers is not a list"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said_by_field(database: Database, policy: Any, problem: str) -> None:
    said = database.value("SELECT backbeat.policy_problem(%s::jsonb)", [json.dumps(policy)])
    assert problem in (said or "")


def test_state_stays_after_everything_refused(database: Database) -> None:
    asked = ask(database)
    mallory = token(database, "mallory")
    wrong: list[tuple[str, Any, str, str]] = [
        ("burn", None, "", "malformed"),
        ("delegate", {"to": "nobody"}, "", "malformed"),
        ("delegate", {"to": "mallory", "seconds": 0}, "", "malformed"),
        ("approve", {"a": 1}, "", "malformed"),
        ("edit", None, "", "malformed"),
        ("edit", {"a": "x" * 300_000}, "", "malformed"),
        ("comment", None, "", "malformed"),
        ("approve", None, "x" * 4001, "malformed"),
        ("claim", None, "", "malformed"),
        ("edit", {"a": 1}, "", "not_eligible"),
        ("claim", {}, "", "not_eligible"),
        ("delegate", {"to": "mallory"}, "", "not_eligible"),
    ]
    for decision, body, comment, verdict in wrong:
        answer = decide(database, mallory, asked.id, decision, asked.hash, comment=comment, body=body)
        assert (answer["verdict"], bool(answer["problem"])) == (verdict, verdict == "malformed"), decision
    assert state(database, asked.id) == "pending"
    assert database.value("SELECT count(*) FROM backbeat.approval_decisions") == 0
    assert len(audit(database, asked.id)) == 1 + len(wrong)


def test_what_python_lets_through_postgres_takes(database: Database) -> None:
    hour = timedelta(hours=1)
    for policy in (
        Policy(approvers=["a"]),
        Policy(groups=["g"], needed=3, four_eyes=True, on_expiry="approve", max_rounds=2),
        Policy(rules=[Rule(groups=["g"]), Rule(approvers=["a"])], escalate=[Step(after=hour, groups=["b"])]),
        Policy(approvers=["a"], remind_every=hour, remind_before=hour, effect_delay=hour, calendar="office"),
        Policy(allow_unsigned_signal=True),
    ):
        said = database.value("SELECT backbeat.policy_problem(%s::jsonb)", [json.dumps(policy.data)])
        assert said is None, policy
