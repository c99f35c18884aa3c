"""Policies in Python say no where Postgres does, and what they let through Postgres takes."""

import json
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from backbeat.policy import Policy, Rule, Step

DAY = timedelta(days=1)


def test_a_policy_is_the_json_that_was_meant() -> None:
    policy = Policy(
        rules=[Rule(groups=["security"], needed=2), Rule(approvers=["dave"])],
        escalate=[Step(after=DAY, groups=["board"])],
        four_eyes=True,
        remind_every=DAY / 2,
        remind_before=DAY / 24,
        calendar="office",
    )
    assert json.loads(json.dumps(policy.data)) == {
        "rules": [{"groups": ["security"], "needed": 2}, {"approvers": ["dave"]}],
        "escalate": [{"after": 86400, "groups": ["board"]}],
        "four_eyes": True,
        "remind_every": 43200,
        "remind_before": 3600,
        "calendar": "office",
    }


@pytest.mark.parametrize(
    ("given", "field", "problem"),
    [
        ({}, "", "nobody can satisfy it"),
        ({"approvers": ["a"], "needed": 2}, "", "nobody can satisfy it"),
        ({"rules": [{"approvers": []}]}, "rules.0", "nobody can satisfy it"),
        ({"rules": []}, "", "nobody can satisfy it"),
        ({"rules": [{"approvers": ["a"]}], "needed": 2}, "", "stands in place of"),
        ({"approvers": ["a"], "for_eyes": True}, "for_eyes", "Extra inputs are not permitted"),
        ({"approvers": ["a"], "escalate": [{"after": 0, "groups": ["b"]}]}, "escalate.0.after", "greater than"),
        ({"approvers": ["a"], "escalate": [{"after": 60}]}, "escalate.0", "it names nobody"),
        ({"allow_unsigned_signal": True, "four_eyes": True}, "", "cannot go with a quorum"),
    ],
)
def test_a_field_is_named(given: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Policy.model_validate(given)
    ((where, words),) = [(".".join(map(str, e["loc"])), e["msg"]) for e in raised.value.errors()]
    assert (where, problem in words) == (field, True)
