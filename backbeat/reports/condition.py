"""`--fail-if`: comparisons of columns with constants, joined by `and`; no code of the reader's is run."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from backbeat.reports.ask import Answer
from shared.errors import InputError

EXIT_HOLDS = 6  # `report --fail-if`: the condition holds
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = MappingProxyType(
    {
        ">=": operator.ge,
        "<=": operator.le,
        "!=": operator.ne,
        "==": operator.eq,
        ">": operator.gt,
        "<": operator.lt,
        "=": operator.eq,
    }
)
_TERM = re.compile(r"\s*(\w+)\s*(>=|<=|!=|==|>|<|=)\s*(?:(-?\d+(?:\.\d+)?)(%?)|'([^']*)')\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Term:
    """Column, operator, constant."""

    column: str
    operator: str
    value: Decimal | str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The rows for which the condition holds, and how many could not be compared because something is unknown."""

    rows: list[dict[str, Any]]
    unknown: int


def parse(text: str) -> list[Term]:
    """`change > 0.2 and workflow != 'demo'`; a number may be a percentage. Raises InputError."""
    terms = []
    for part in re.split(r"\band\b", text):
        match = _TERM.fullmatch(part)
        if not match:
            fix = "Write COLUMN OPERATOR NUMBER, such as 'change > 0.2 and tasks >= 30'; text stands in ''"
            raise InputError(f"--fail-if does not understand {part.strip()!r}", fix=fix)
        column, sign, number, percent, word = match.groups()
        value = word if number is None else Decimal(number) / (100 if percent else 1)
        terms.append(Term(column, sign, value))
    return terms


def judge(terms: list[Term], answer: Answer) -> Verdict:
    """Raises InputError for a column that the answer does not have, or text compared with a number."""
    if unknown := [term.column for term in terms if term.column not in answer.columns]:
        raise InputError(f"there is no column {unknown[0]!r} in this report", fix=f"It has {', '.join(answer.columns)}")
    found = [(row, [_holds(term, row[term.column]) for term in terms]) for row in answer.records()]
    held = [row for row, verdicts in found if all(verdicts)]
    return Verdict(held, sum(None in verdicts and False not in verdicts for _, verdicts in found))


def _holds(term: Term, value: Any) -> bool | None:
    if value is None:
        return None
    given = Decimal(str(value)) if isinstance(value, int | float | Decimal) else str(value)
    if isinstance(given, str) != isinstance(term.value, str):
        kind = "text: write it in ''" if isinstance(given, str) else "a number"
        raise InputError(f"column {term.column!r} is {kind}", fix="Compare like with like")
    return _OPERATORS[term.operator](given, term.value)
