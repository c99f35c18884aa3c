"""The fraud example without engines: what is planted, what the rules and the simulated judge make of it."""

from collections import Counter
from decimal import Decimal

import pytest

from backbeat import FanOut
from backbeat.embedded.simulated import payment, rules, schema
from examples.fraud_review.definitions import prompt, screen
from examples.fraud_review.generator import PATTERNS, transactions
from examples.fraud_review.models import Doubt, Judgement, Screened, Transaction
from examples.fraud_review.rules import screened
from examples.fraud_review.tally import Evidence, problems
from shared.execution.batch import BatchContext
from shared.llm.structured import json_schema


def judged(one: Transaction) -> Judgement:
    """What the simulated provider answers, by the way of its schema."""
    doubt = Doubt(transaction=one, rules=screened(one).rules)
    return Judgement.model_validate(schema.build(json_schema(Judgement), rules.read(prompt(doubt))))


def test_a_seed_is_a_day_and_no_payment_carries_its_label() -> None:
    made = transactions(3000, 5)
    assert made == transactions(3000, 5)
    assert made != transactions(3000, 6)
    assert len(made) == len({one.transaction.id for one in made}) == 3000
    assert {one.pattern for one in made} == {*PATTERNS, None}
    assert [one.transaction.at for one in made] == sorted(one.transaction.at for one in made)
    assert not any(pattern in one.transaction.model_dump_json() for one in made for pattern in PATTERNS)


def test_rules_and_judge_find_most_and_accuse_few() -> None:
    found: Counter[tuple[bool, str]] = Counter()
    for one in transactions(5000, 1):
        doubtful = screened(one.transaction).state == "doubtful"
        found[one.pattern is not None, judged(one.transaction).verdict if doubtful else "cleared"] += 1
    planted = sum(count for (stolen, _), count in found.items() if stolen)
    assert found[True, "block"] > planted / 2
    assert found[True, "cleared"] > 0
    assert found[False, "block"] <= 5
    assert found[False, "clear"] > found[False, "block"]


async def test_a_doubtful_payment_goes_on_and_a_clear_one_ends() -> None:
    made = [one.transaction for one in transactions(600, 1)]

    class Nothing(BatchContext):
        def __init__(self) -> None:
            pass

    answers = await screen.run(Nothing(), made)
    assert len(answers) == len(made)
    for one, answer in zip(made, answers, strict=True):
        if screened(one).state == "clear":
            assert isinstance(answer, Screened)
        else:
            assert isinstance(answer, FanOut)
            assert [child.payload["transaction"]["id"] for child in answer.children] == [one.id]


@pytest.mark.parametrize(
    ("lines", "option"),
    [
        ("category: groceries", "clear"),
        ("amount: 900.00, 9.0 times this card's usual\ncategory: gift_cards\ntime: 03:10", "block"),
        ("amount: 1.20, 0.1 times\ncountry: US, card of DE\npayments of this card in the last hour: 5", "block"),
        ("country: FR, card of DE; 30 minutes before in DE", "watch"),
        ("amount: nonsense\ncountry: ", "clear"),
    ],
)
def test_the_simulated_judge(lines: str, option: str) -> None:
    found = payment.read(f"card payment 7\n{lines}")
    assert found
    assert option in found.options
    assert 0 <= found.risk <= 100


def test_other_prompts_are_no_payments() -> None:
    assert payment.read("You charged my card twice, the payment was wrong") is None


def evidence(**changed: object) -> Evidence:
    row = {"payment": "1", "status": "succeeded", "state": "clear", "error": None, "decision": None}
    given = {
        "truth": {"1": None},
        "screened": {"1": [row]},
        "judged": {},
        "calls": [],
        "billed": [],
        "blocks": Counter(),
    }
    return Evidence(**{**given, **changed})  # type: ignore[arg-type]


CALL = {"status": "done", "cost_usd": Decimal("0.001")}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"screened": {}}, "never screened"),
        ({"judged": {"1": [{"payment": "1", "status": "succeeded", "decision": None}]}}, "should not be"),
        ({"blocks": Counter({"1": 1})}, "people approved 0"),
        ({"calls": [CALL]}, "the ledger to"),
        ({"calls": [CALL], "billed": [Decimal("0.002")]}, "the ledger to"),
        ({"calls": [{**CALL, "cost_usd": Decimal("0.01")}], "billed": None}, "the limit is"),
        ({"calls": [{**CALL, "cost_usd": None}], "billed": None}, "no price"),
        ({"calls": [{**CALL, "status": "lost"}], "billed": []}, None),
    ],
)
def test_what_does_not_agree_is_said(changed: dict[str, object], said: str | None) -> None:
    found = list(problems(evidence(**changed), decided=True))
    assert (said is None and not found) or (said and any(said in one for one in found)), found
