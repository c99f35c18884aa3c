"""Approvals against a model: any decisions in any order, twice delivered or half done, while the clock jumps.

At most one outcome; an effect only of what enough people approved, as it is shown now.
"""

import json
import os
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from psycopg.rows import dict_row

from backbeat import tokens
from tests.support.approval_model import PEOPLE, Model
from tests.support.approvals import content_hash, escalation
from tests.support.databases import Database

SOAK = os.environ.get("BACKBEAT_SOAK") == "1"
EXAMPLES, STEPS = (2000, 60) if SOAK else (60, 25)
TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
POLICIES: list[dict[str, Any]] = [
    {"approvers": ["alice", "bob"]},
    {"groups": ["security"], "needed": 2, "max_rounds": 1, "effect_delay": 100},
    {"rules": [{"groups": ["security"]}, {"groups": ["finance"]}], "four_eyes": True, "max_rounds": 2},
    {"approvers": ["carol"], "escalate": [{"after": 300, "groups": ["board"]}, {"after": 600, "approvers": ["dave"]}]},
    {"approvers": ["alice", "dave"], "needed": 2, "four_eyes": True, "on_expiry": "approve", "remind_every": 200},
    {"approvers": ["alice"], "on_expiry": "approve", "effect_delay": 50, "max_rounds": 1},
]
DECISIONS = (
    "approve",
    "approve",
    "approve",
    "reject",
    "request_changes",
    "edit",
    "revoke",
    "comment",
    "claim",
    "unclaim",
)
VOTES = b"""
    SELECT user_name, for_user FROM backbeat.approval_decisions
    WHERE request_id = %s AND revision = %s AND decision = 'approve'"""
_who = st.sampled_from(list(PEOPLE))


class Approvals(RuleBasedStateMachine):
    """Each example is one transaction of its own, so that nothing is left of it."""

    db: "psycopg.Connection[dict[str, Any]]"
    tokens: dict[str, str]

    @initialize(
        policy=st.sampled_from(POLICIES),
        requested_by=st.sampled_from(["zoe", "alice", "dave"]),
        deadline=st.sampled_from([150.0, 1000.0, 1000.0]),
    )
    def ask(self, policy: dict[str, Any], requested_by: str, deadline: float) -> None:
        self.db.rollback()
        self.seen: list[tuple[UUID, dict[str, Any]]] = []
        given = escalation(policy=policy, requested_by=requested_by, deadline_seconds=deadline, request={"n": 0})
        call = "SELECT backbeat.start_workflow('approve_effect', 1, 'default', %s::jsonb, NULL, NULL, NULL) AS id"
        self.workflow = self._one(call, json.dumps(given))["id"]
        call = "SELECT id, requested_at FROM backbeat.create_approval(%s, 'approve', %s, true)"
        made = self._one(call, self.workflow, self._hash(0))
        self.id, self.began = made["id"], made["requested_at"]
        self.model = Model(policy, deadline, requested_by)

    def teardown(self) -> None:
        """Time passes until nothing is open any more: it ends, once."""
        if hasattr(self, "model"):
            self.wait(5000.0)
            self.tick()
            assert self.model.outcomes
            self.check()
        self.db.rollback()

    # -- people -----------------------------------------------------------------------------------------------------

    @rule(who=_who, decision=st.sampled_from(DECISIONS), old=st.sampled_from([0, 0, 0, 0, 1]), twice=st.booleans())
    def decide(self, who: str, decision: str, old: int, twice: bool) -> None:
        body = {"edit": {"n": self.model.content + 1}, "claim": {"seconds": 60}}.get(decision)
        self._said(who, decision, max(0, self.model.content - old), body, twice, seconds=60.0)

    @rule(twice=st.booleans())
    def agree(self, twice: bool) -> None:
        """Everybody says yes who may."""
        for who in PEOPLE:
            self._said(who, "approve", self.model.content, None, twice)

    @rule(who=_who, fired=st.booleans())
    def take_back(self, who: str, fired: bool) -> None:
        """An approval is revoked, before its effect or after."""
        if fired:
            self.wait(100.0)
            self.fire(0)
        self._said(who, "revoke", self.model.content, None, False)

    @rule(who=_who, to=_who)
    def vote_for_another(self, who: str, to: str) -> None:
        """A right is handed on and used at once."""
        self.delegate(who, to, 100.0, False)
        self._said(to, "approve", self.model.content, None, False)

    @rule(who=_who, to=_who, seconds=st.sampled_from([100.0, 100_000.0]), twice=st.booleans())
    def delegate(self, who: str, to: str, seconds: float, twice: bool) -> None:
        body = {"to": to, "seconds": int(seconds)}
        self._said(who, "delegate", self.model.content, body, twice, to=to, seconds=seconds)

    @rule(pick=st.integers(0, 20))
    def deliver_again(self, pick: int) -> None:
        """What was said once is said again, much later: nothing changes."""
        if self.seen:
            decision_id, params = self.seen[pick % len(self.seen)]
            assert self._decide(decision_id, params)["verdict"] == "repeated"

    @rule(who=_who)
    def die_half_way(self, who: str) -> None:
        """A decision whose transaction never commits has not been."""
        params = self._params(who, "approve", self.model.content, None)
        self.db.execute("SAVEPOINT half")
        self._decide(uuid4(), params)
        self.db.execute("ROLLBACK TO SAVEPOINT half")

    # -- machines ---------------------------------------------------------------------------------------------------

    @rule()
    def revise(self) -> None:
        body = json.dumps({"n": self.model.content + 1})
        call = "SELECT backbeat.revise_approval(%s, %s, %s::jsonb) AS done"
        done = self._one(call, self.id, self.model.revision, body)["done"]
        wanted = self.model.state == "changes" and self.model.now < self.model.deadline
        assert done == wanted
        if wanted:
            self.model.revise()

    @rule()
    def tick(self) -> None:
        self.model.tick()
        found = self._one("SELECT * FROM backbeat.close_if_pending(%s)", self.id)
        assert found["state"] == self.model.state
        ended = self.model.state not in ("pending", "changes")
        assert found["settled"] == (ended and not (self.model.state == "approved" and not self.model.may_fire))
        assert found["settled"] or found["seconds_left"] > 0

    @rule(old=st.sampled_from([0, 0, 1]))
    def fire(self, old: int) -> None:
        """The effect begins only of what stands approved; what was asked first, or is shown no more, never does."""
        content = max(0, self.model.content - old)
        call = "SELECT verdict FROM backbeat.begin_effect(%s, 'workflow', %s, NULL, 'note', '{}', %s, %s, %s, %s, 10)"
        key = f"{self.workflow}:effect"
        shown = self._hash(content)
        verdict = self._one(call, key, self.workflow, shown, self.workflow, TRACE, self.id)["verdict"]
        if self.model.fired:
            assert verdict in (("wait", "look") if content == self.model.content else ("conflict",))
        else:
            may = self.model.may_fire and content == self.model.content
            assert verdict == ("fire" if may else "refused")
            self.model.fired = may

    @rule(seconds=st.sampled_from([1.0, 60.0, 140.0, 310.0]))
    def wait(self, seconds: float) -> None:
        self.db.execute("UPDATE backbeat.test_clock SET shift = shift + %s", [timedelta(seconds=seconds)])
        self.model.now += seconds

    # -- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "model"):
            return
        row = self._one("SELECT * FROM backbeat.approval_requests WHERE id = %s", self.id)
        assert (row["state"], row["revision"], row["hash"]) == (
            *(self.model.state, self.model.revision),
            self._hash(self.model.content),
        )
        assert len(self.model.outcomes) <= 1 or self.model.outcomes == ["approved", "revoked"]
        effects = self._one("SELECT count(*) AS n, max(request_hash) AS hash FROM backbeat.side_effects")
        assert effects["n"] == self.model.fired
        if self.model.fired:
            assert (row["state"], effects["hash"]) == ("approved", row["hash"])
        found = self.db.execute(VOTES, [self.id, row["revision"]]).fetchall()
        assert {vote["user_name"]: vote["for_user"] for vote in found} == self.model.votes
        pokes = self._one("SELECT count(*) AS n FROM backbeat.temporal_outbox WHERE kind = 'poke'")["n"]
        closed = [outcome for outcome in self.model.outcomes if outcome != "expired"]
        assert pokes >= len(closed) - (row["closed_by"] == "(deadline)"), "the workflow hears of what people decided"

    # -- how --------------------------------------------------------------------------------------------------------

    def _said(
        self, who: str, decision: str, content: int, body: Any, twice: bool, *, to: str = "", seconds: float = 0.0
    ) -> None:
        wanted = self.model.verdict(who, decision, content)
        if wanted == "accepted":
            self.model.decide(who, decision, to, seconds)
        params, decision_id = self._params(who, decision, content, body), uuid4()
        answer = self._decide(decision_id, params)
        assert answer["verdict"] == wanted, (who, decision, answer)
        if wanted == "accepted":
            assert answer["state"] == self.model.state
            self.seen.append((decision_id, params))
        if twice:
            assert self._decide(decision_id, params)["verdict"] == ("repeated" if wanted == "accepted" else wanted)

    def _params(self, who: str, decision: str, content: int, body: Any) -> dict[str, Any]:
        bound = decision in ("approve", "reject", "request_changes", "edit", "revoke")
        comment = "words" if decision in ("comment", "request_changes") else ""
        shown = self._hash(content) if bound else None
        proof = tokens.sign(self.tokens[who], self.id, decision, shown, comment, body)
        given = {"proof": proof, "decision": decision, "hash": shown, "comment": comment}
        return given | {"body": None if body is None else json.dumps(body)}

    def _decide(self, decision_id: UUID, params: dict[str, Any]) -> dict[str, Any]:
        call = """SELECT * FROM backbeat.decide(
            %(proof)s, %(request)s, %(decision)s, %(hash)s, %(comment)s, %(id)s, 'cli', %(body)s::jsonb)"""
        (row,) = self.db.execute(call.encode(), params | {"request": self.id, "id": decision_id}).fetchall()
        return row

    def _one(self, query: str, *params: Any) -> dict[str, Any]:
        (row,) = self.db.execute(query.encode(), params).fetchall()
        return row

    def _hash(self, content: int) -> str:
        return content_hash(request={"n": content})


@pytest.mark.timeout(3600 if SOAK else 180)
def test_any_decisions_in_any_order(database: Database) -> None:
    options = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        database=None,
    )
    made = {name: tokens.create() for name in PEOPLE}
    for name, groups in PEOPLE.items():
        database.sql("SELECT backbeat.create_token(%s, %s, %s, NULL)", [tokens.key(made[name]), name, list(groups)])
    with psycopg.connect(database.owner_url, row_factory=dict_row) as connection:

        class Connected(Approvals):
            db = connection
            tokens = made

        run_state_machine_as_test(Connected, settings=options)
