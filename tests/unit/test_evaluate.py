"""Intervals, scores and recommendations of `backbeat eval tiers`."""

import re
from decimal import Decimal
from typing import Any

import pytest

from backbeat import Dead, Escalate, single_shot
from backbeat.evaluate.picture import svg
from backbeat.evaluate.score import MODEL_FAULTS, judged, matches, recommend, smallest_sample, tally, wilson
from backbeat.evaluate.variants import Grade, Question, grader, variant
from backbeat.testing import canned
from tests.unit.test_testing import GOOD, TICKET, loop


def row(status: str = "succeeded", **also: Any) -> dict[str, Any]:
    usual = {"error_class": None, "hold_reason": None, "unpriced": 0, "faults": 0, "models": ["v m"], "seconds": 1.0}
    return {**usual, "status": status, "cost_usd": Decimal("0.01"), **also}


@pytest.mark.parametrize(
    ("correct", "answered", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_what_the_tables_say(correct: int, answered: int, low: float, high: float) -> None:
    """The last two are from R. G. Newcombe, Statistics in Medicine 17 (1998), table I."""
    assert wilson(correct, answered) == pytest.approx((low, high), abs=1e-4)


def test_a_sample_below_the_smallest_can_prove_nothing() -> None:
    need = smallest_sample(0.9)
    assert wilson(need, need)[0] >= 0.9 > wilson(need - 1, need - 1)[0]


def test_infrastructure_is_no_wrong_answer() -> None:
    rows = [row(), row("dead", error_class="invalid_output"), row("dead", error_class="timeout"), None]
    rows += [row("held", hold_reason="route", seconds=None), row(cost_usd=None)]
    score = tally("small", rows, [True, False, False, False, False, None])
    assert (score.answered, score.correct, score.accuracy) == (2, 1, 0.5)
    assert score.infrastructure == {"held: route": 1, "missing": 1, "not graded": 1, "timeout": 1}
    assert (score.usd, score.usd_per_correct) == (Decimal("0.04"), Decimal("0.04"))


def test_an_unknown_price_is_not_zero() -> None:
    score = tally("small", [row(), row(unpriced=1, cost_usd=None)], [True, True])
    assert (score.usd, score.usd_per_correct) == (None, None)


def _scored(tier: str, correct: int, answered: int, usd: str | None) -> Any:
    rows = [row(cost_usd=None if usd is None else Decimal(usd), unpriced=int(usd is None)) for _ in range(answered)]
    return tally(tier, rows, [n < correct for n in range(answered)])


def test_the_cheapest_that_is_proven() -> None:
    scores = [
        _scored("small", 160, 200, "0.001"),
        _scored("large", 199, 200, "0.1"),
        _scored("medium", 195, 200, "0.01"),
    ]
    assert recommend(scores, 0.9)[0] == "medium"
    assert recommend([*scores, _scored("own", 200, 200, None)], 0.9)[0] == "medium"
    assert recommend(scores, 0.7)[0] == "small"


def test_no_tier_and_too_small_are_different_answers() -> None:
    assert recommend([_scored("small", 100, 200, "0.1")], 0.9) == (None, "no tier reaches 0.9")
    assert recommend([_scored("small", 20, 20, "0.1")], 0.9)[1].startswith("sample too small: 0.9 takes 35 answers")
    assert recommend([_scored("small", 182, 200, "0.1")], 0.9)[1].startswith("sample too small: small may reach")


def test_what_a_dead_letter_says_of_its_model() -> None:
    """The classes by which a task dies of its answer, as `model_call` and `classify` name them."""
    assert sorted(MODEL_FAULTS) == [
        "content_policy",
        "context_overflow",
        "invalid_output",
        "output_truncated",
        "unfinished",
    ]


def test_to_the_schema_every_valid_answer_is_right() -> None:
    wrong = row(result={"category": "bug"})
    assert not judged("exact", wrong, {"category": "billing"})
    assert judged("schema", wrong, {"category": "billing"})
    assert judged("exact", wrong, {"category": "bug"})
    for scorer in ("exact", "schema"):
        assert not judged(scorer, row("dead", result=None, error_class="invalid_output"), {})
        assert not judged(scorer, None, {})


def test_only_known_fields_are_compared() -> None:
    assert matches({"category": "bug", "urgent": True}, {"category": "bug"})
    assert not matches({"category": "bug"}, {"category": "bug", "urgent": False})
    assert not matches(None, {})


def test_a_variant_asks_its_tier_and_writes_nothing() -> None:
    with canned({"kind": {**GOOD, "urgent": False}}, effects={"mail": {"message": "m1"}}) as models:
        outcome = models.run(variant(loop, "large"), TICKET).outcome
    assert isinstance(outcome, Dead)
    assert outcome.error_class == "effect_in_evaluation"
    assert (models.effects, [call.model for call in models.calls]) == ([], ["claude-opus-4-7"])


async def test_what_waits_for_batches_is_evaluated_without() -> None:
    asked: dict[str, Any] = {}

    class Asked:
        async def llm(self, _key: str, **options: Any) -> None:
            asked.update(options)

    slow = single_shot("slow", version=1, input=Question, output=Grade, tier="small", prompt="{asked}", batch=True)
    for made in (variant(slow, "large"), grader(slow, "large")):
        await made.run(Asked(), Question(asked="", expected="", answered=""))
        assert (made.batch, asked.pop("batch"), asked["tier"]) == (False, False, "large")


def test_the_picture_says_what_it_shows() -> None:
    some = [row(), row("dead", error_class="timeout"), row("held", hold_reason="route", seconds=None)]
    scores = [tally("small", some, [True, False, False]), _scored("large", 9, 10, "0.1")]
    drawn = svg("Tiers", scores, 0.9, "why", simulated=["small"])
    assert re.findall(r">([^<]*simulated[^<]*)<", drawn) == ["simulated; not counted: held: route 1, timeout 1"]
    for words in ("right answers, of those counted", "tier", "target 90%", "1 of 1 right", "9 of 10 right"):
        assert words in drawn


def test_what_a_variant_would_hand_over_is_its_answer() -> None:
    with canned({"kind": GOOD}) as models:
        end = models.run(variant(loop, "medium"), TICKET)
    assert not isinstance(end.outcome, Escalate)
    assert (end.result.message, models.escalations) == ("later", [])


def test_an_answer_that_is_wrong_twice_is_the_tiers_own() -> None:
    with canned({"kind": ["no", "no"]}) as models:
        outcome = models.run(variant(loop, "small"), TICKET).outcome
    assert isinstance(outcome, Dead)
    assert outcome.error_class == "invalid_output"
    assert {call.model for call in models.calls} == {"claude-haiku-4-5"}
