"""A provider's bill, a CSV of day, model and cost_usd, beside what was booked."""

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path

from backbeat.reports.ask import Answer
from shared.errors import InputError

COLUMNS = ("day", "model", "cost_usd")
Bill = Mapping[tuple[date, str], Decimal]


def read_bill(path: Path) -> Bill:
    """US dollars by day and model; lines of the same day and model are added up.

    Raises InputError with the number of the first line that is not right.
    """
    bill: dict[tuple[date, str], Decimal] = defaultdict(Decimal)
    read = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = [(name or "").strip().lower() for name in reader.fieldnames or []]
            if missing := [name for name in COLUMNS if name not in names]:
                raise _wrong(path, 1, f"there is no column {missing[0]}", f"Its first line names {', '.join(COLUMNS)}")
            reader.fieldnames, read = names, 1
            for row in reader:
                day, model, cost = _line(path, reader.line_num, row)
                bill[day, model] += cost
                read = reader.line_num
    except OSError as error:
        raise InputError(f"cannot read the bill {path}: {error.strerror}", fix="Correct the path") from None
    except UnicodeDecodeError:
        raise InputError(f"the bill {path} is not UTF-8", fix="Save it as UTF-8") from None
    except csv.Error as error:
        raise _wrong(path, read + 1, f"this is no CSV: {error}", "Correct it") from None
    if not bill:
        raise InputError(f"the bill {path} has no lines", fix="Give one with a line a day and model")
    return dict(bill)


def beside(answer: Answer, bill: Bill) -> Answer:
    """The answer with what was billed; what only the bill has becomes a row without calls."""
    booked = {(row["day"], row["model"]): row for row in answer.records()}
    rows = []
    for key in sorted({*booked, *bill}):
        row = booked.get(key, {"calls": 0, "unpriced": 0, "booked_usd": None})
        billed, known = bill.get(key), row["booked_usd"]
        apart = None if billed is None or known is None else billed - known
        rows.append((*key, row["calls"], row["unpriced"], known, billed, apart))
    return replace(answer, rows=rows)


def _line(path: Path, number: int, row: Mapping[str, str | None]) -> tuple[date, str, Decimal]:
    if None in row or None in row.values():
        raise _wrong(path, number, "it has more or fewer fields than the first line", "Correct it")
    day, model, cost = ((row[name] or "").strip() for name in COLUMNS)
    try:
        found = date.fromisoformat(day)
    except ValueError:
        raise _wrong(path, number, f"{day!r} is no day", "Write 2026-11-01") from None
    try:
        amount = Decimal(cost.removeprefix("$"))
    except InvalidOperation:
        amount = Decimal("nan")
    if not amount.is_finite():
        raise _wrong(path, number, f"{cost!r} is no amount", "Write US dollars such as 12.5, without separators")
    if not model:
        raise _wrong(path, number, "it names no model", "Correct it")
    return found, model, amount


def _wrong(path: Path, number: int, what: str, fix: str) -> InputError:
    return InputError(f"line {number} of the bill {path}: {what}", fix=fix)
