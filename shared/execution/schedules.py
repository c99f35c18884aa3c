"""What a slot of a schedule enqueues: its payload, or what its selector finds, as its definition reads it."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.db import schedules
from shared.db.pool import Database
from shared.db.schedules import MOST_ROWS, Schedule
from shared.definitions import Definition
from shared.errors import DefinitionError, InputError
from shared.execution.payloads import Row, prepared
from shared.ids import canonical, key_of

_MOST_NAMED = 3  # bad rows of a slot


@dataclass(frozen=True, slots=True)
class Batch:
    """Payloads with their keys; `note` says which rows of a selector are none, "" when all are."""

    rows: list[Row]
    note: str = ""


async def gather(
    db: Database, schedule: Schedule, definition: Definition | None, watermark: datetime, salt: str
) -> Batch | None:
    """What the slot after `watermark` enqueues; None when somebody else is at it.

    Raises InputError when the selector fails, DefinitionError when a selector's definition is not loaded.
    """
    salt = "" if schedule.once else salt
    if schedule.selector is None:
        text = canonical(schedule.payload)
        return Batch([(text, key_of(schedule.workflow, schedule.version, text, salt))])
    if definition is None:
        raise DefinitionError(f"no loaded module defines {schedule.target}", fix="Set BACKBEAT_DEFINITIONS")
    found = await schedules.select(db, schedule, watermark)
    return None if found is None else sift(definition, found, salt)


def sift(definition: Definition, found: list[Any], salt: str) -> Batch:
    """The rows of a selector that are payloads, or whose only column `payload` is one."""
    good: list[Row] = []
    bad: list[str] = []
    for row in found[:MOST_ROWS]:
        payload = row["payload"] if isinstance(row, dict) and set(row) == {"payload"} else row
        try:
            good.append(prepared(definition, payload, salt))
        except InputError as error:
            bad.append(f"{json.dumps(payload)[:60]}: {error.what}")
    notes = [f"{len(bad)} of {len(found)} rows refused: {'; '.join(bad[:_MOST_NAMED])}"] if bad else []
    if len(found) > MOST_ROWS:
        notes.append(f"more than {MOST_ROWS} rows: the rest is left")
    return Batch(good, "; ".join(notes))
