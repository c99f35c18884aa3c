"""The written rules every payment passes: points for what is unusual, and doubt from 40 on."""

from collections.abc import Callable
from dataclasses import dataclass

from examples.fraud_review.models import RESOLD, Screened, Transaction

DOUBTFUL = 40


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is unusual, and what it weighs."""

    name: str
    points: int
    holds: Callable[[Transaction], bool]


RULES = (
    Rule("another country within two hours", 40, lambda one: one.jumped),
    Rule("four payments in an hour", 40, lambda one: one.last_hour >= 4),
    Rule("eight times the usual amount", 30, lambda one: one.ratio >= 8),
    Rule("three times the usual amount", 15, lambda one: 3 <= one.ratio < 8),
    Rule("easily resold", 15, lambda one: one.category in RESOLD),
    Rule("abroad", 10, lambda one: one.country != one.home),
    Rule("at night", 10, lambda one: one.at.hour < 5),
)


def screened(transaction: Transaction) -> Screened:
    """Add up what holds."""
    found = [rule for rule in RULES if rule.holds(transaction)]
    points = sum(rule.points for rule in found)
    state = "doubtful" if points >= DOUBTFUL else "clear"
    return Screened(state=state, points=points, rules=tuple(rule.name for rule in found))
