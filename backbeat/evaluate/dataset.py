"""Labelled lines: `{"input": {…}, "expected": {…}}` each; a first line `{"about": …}` says what they are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from shared.db.pool import Database
from shared.db.queries import load
from shared.errors import InputError

_SQL = load("evaluate", "backbeat.operate")


@dataclass(frozen=True, slots=True)
class Case:
    """One input with what is right about its answer: the fields that are known."""

    input: Any
    expected: dict[str, Any]


def read(path: Path) -> tuple[str, list[Case]]:
    """What the file says of itself, and its cases. Raises InputError naming the line."""
    about, cases = "", []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"dataset {path} cannot be read: {error}", fix="Give a file of JSON lines") from error
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: this is not JSON: {error}", fix="Correct the line") from error
        if isinstance(found, dict) and "about" in found and "input" not in found:
            about = str(found["about"])
        elif isinstance(found, dict) and "input" in found and isinstance(found.get("expected"), dict):
            cases.append(Case(found["input"], found["expected"]))
        elif found is not None:
            raise InputError(f'{path}:{number}: a line is {{"input": …, "expected": {{…}}}}', fix="Correct the line")
    return about, cases


async def from_feedback(db: Database, workflow: str) -> list[Case]:
    """What people said of finished tasks: `finding` names the field, `label` is what would have been right.

    Without a finding, the label is the whole answer as JSON. What fits neither is left out.
    """
    cases: dict[Any, Case] = {}
    for row in await db.rows(_SQL["feedback"], {"workflow": workflow}):
        try:
            label = json.loads(row["label"])
        except ValueError:
            label = row["label"]
        said = {row["finding"]: label} if row["finding"] else label
        if isinstance(said, dict):
            cases.setdefault(row["id"], Case(row["payload"], {})).expected.update(said)
    return list(cases.values())


def sample(cases: Sequence[Case], size: int, seed: int) -> list[Case]:
    """The same cases for every tier, and for everybody who gives this seed."""
    return list(cases) if size >= len(cases) else Random(seed).sample(list(cases), size)  # noqa: S311
