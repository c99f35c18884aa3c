"""Right or wrong, how sure that is, what a right answer costs, and which tier to take."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import median, quantiles
from typing import Any

from shared.domain.usage import Usage
from shared.llm.classify import classify
from shared.llm.protocol import Reply, Stop

Z = 1.959964  # two-sided 95 %
# What dead letters call an answer that came and is worth nothing: it did not fit, was cut off or declined, the model
# stopped for no known reason, or no window of its tier holds the question. All else says nothing about the model.
_STOPS: tuple[Stop, ...] = ("length", "refusal", "unknown")
MODEL_FAULTS = frozenset(
    {"invalid_output", "context_overflow", *(classify(Reply("", Usage(), stop, "", "")).reason for stop in _STOPS)}
)
_NANO = Decimal("0.000000001")


@dataclass(frozen=True, slots=True)
class TierScore:
    """One tier on the sample. `answered` is without `infrastructure`, the errors that say nothing about the model.

    `low` and `high` are the Wilson interval of `accuracy`; `usd_per_correct` is all that was paid, wrong ones included.
    """

    tier: str
    models: list[str]
    answered: int
    correct: int
    accuracy: float | None
    low: float
    high: float
    usd: Decimal | None
    usd_per_correct: Decimal | None
    p50_seconds: float | None
    p95_seconds: float | None
    infrastructure: dict[str, int]
    faults: int


def wilson(correct: int, answered: int, z: float = Z) -> tuple[float, float]:
    """The score interval of a proportion.

    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n): E. B. Wilson, "Probable inference, the law of succession, and
    statistical inference", Journal of the American Statistical Association 22 (1927), 209-212.
    """
    if not answered:
        return 0.0, 1.0
    p, n = correct / answered, answered
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)


def smallest_sample(target: float, z: float = Z) -> int:
    """How many answers there must be before even an unbroken run of right ones has its lower bound at the target."""
    return math.ceil(round(z * z * target / (1 - target), 9))


def matches(result: Any, expected: Mapping[str, Any]) -> bool:
    """Whether every field that is known is what it should be."""
    return isinstance(result, dict) and all(
        name in result and result[name] == value for name, value in expected.items()
    )


def judged(scorer: str, row: Mapping[str, Any] | None, expected: Mapping[str, Any]) -> bool:
    """Whether a task is right by the scorer `exact`, or by `schema`, to which every valid answer is."""
    done = row is not None and row["status"] == "succeeded"
    return done and (scorer == "schema" or matches(row and row["result"], expected))


def infrastructure_fault(row: Mapping[str, Any] | None) -> str | None:
    """Why a task says nothing about its model; None when it does."""
    if row is None:
        return "missing"
    if row["status"] == "succeeded":
        return None
    if row["status"] == "dead":
        reason = row["error_class"]
        return None if reason in MODEL_FAULTS else str(reason)
    return f"held: {row['hold_reason']}" if row["hold_reason"] else f"not finished: {row['status']}"


def tally(tier: str, rows: Sequence[Mapping[str, Any] | None], right: Sequence[bool | None]) -> TierScore:
    """Add up one tier; `right` is None where the grader failed, which is infrastructure too."""
    faults: Counter[str] = Counter()
    answered = correct = 0
    for row, good in zip(rows, right, strict=True):
        fault = infrastructure_fault(row) or ("not graded" if good is None else None)
        if fault:
            faults[fault] += 1
        else:
            answered += 1
            correct += bool(good)
    known = [row for row in rows if row is not None]
    priced = not any(row["unpriced"] for row in known)
    usd = sum((row["cost_usd"] or Decimal(0) for row in known), Decimal(0)) if priced else None
    seconds = [row["seconds"] for row in known if row["seconds"] is not None and row["status"] == "succeeded"]
    low, high = wilson(correct, answered)
    return TierScore(
        tier=tier,
        models=sorted({model for row in known for model in row["models"] or ()}),
        answered=answered,
        correct=correct,
        accuracy=correct / answered if answered else None,
        low=low,
        high=high,
        usd=usd,
        usd_per_correct=(usd / correct).quantize(_NANO) if usd is not None and correct else None,
        p50_seconds=median(seconds) if seconds else None,
        p95_seconds=quantiles(seconds, n=20)[-1] if len(seconds) > 1 else None,
        infrastructure=dict(sorted(faults.items())),
        faults=sum(row["faults"] for row in known),
    )


def recommend(scores: Sequence[TierScore], target: float) -> tuple[str | None, str]:
    """The cheapest tier whose lower bound reaches the target, and why; no tier, or a sample too small to tell.

    Cheapest by what a right answer costs; a tier whose price is unknown comes last.
    """
    enough = [one for one in scores if one.answered and one.low >= target]
    if enough:
        best = min(enough, key=lambda one: (one.usd_per_correct is None, one.usd_per_correct or 0))
        return best.tier, f"{best.tier}: its lower bound {best.low:.3f} reaches {target:g}, and no cheaper tier's does"
    need = smallest_sample(target)
    most = max((one.answered for one in scores), default=0)
    if most < need:
        return None, f"sample too small: {target:g} takes {need} answers even if all are right, and {most} were scored"
    open_ = [one.tier for one in scores if one.high >= target]
    if open_:
        return None, f"sample too small: {', '.join(open_)} may reach {target:g} or not; take a larger one"
    return None, f"no tier reaches {target:g}"
