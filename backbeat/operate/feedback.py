"""What people say about results: kept in Postgres, and told to ClickHouse as a span that is linked to the work's trace.

Whoever says the same of the same thing at the same moment has said it once, so a file may be read again: what died
half-way goes on, and what ClickHouse did not hear it hears then.
"""

import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from backbeat.operate.actions import do
from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import clean, storable
from shared.errors import InputError
from shared.ids import parse_traceparent, span_id, trace_id
from shared.telemetry.spans import SpanRecord, Telemetry

_SQL = load("feedback", "backbeat.operate")
_NAMES = UUID("6f0c8f0e-5a5e-5d0f-9c39-3d5b3a6f6a11")
LABELS = ("correct", "false_positive", "wrong", "missed")
FIELDS = ("task", "label", "finding", "by", "at")
BATCH = 1_000  # words a transaction
LONGEST = {"label": 100, "finding": 2_000, "by": 100}  # characters


@dataclass(frozen=True, slots=True)
class Word:
    """What `by` says of a task's result, or of one finding in it. `at` None: now."""

    task: UUID
    label: str
    finding: str
    by: str
    at: datetime | None = None


def word(given: Any, by: str) -> Word:
    """Read one line; `by` says it where the line does not. Raises InputError saying what is wrong with it."""
    if not isinstance(given, dict):
        raise InputError("it is no object with the fields task and label")
    if unknown := sorted(set(given) - set(FIELDS)):
        raise InputError(f"unknown field {unknown[0]!r}; there are {', '.join(FIELDS)}")
    texts = {name: given.get(name) or "" for name in FIELDS}
    if wrong := [name for name, value in texts.items() if not isinstance(value, str)]:
        raise InputError(f"{wrong[0]} is no text")
    label = "_".join(texts["label"].lower().replace("-", " ").split())
    texts |= {"label": label, "by": texts["by"] or by}
    if not label:
        raise InputError("label is missing")
    if long := [name for name, most in LONGEST.items() if len(texts[name]) > most]:
        raise InputError(f"{long[0]} has more than {LONGEST[long[0]]} characters")
    try:
        task = UUID(texts["task"])
    except ValueError:
        raise InputError(f"task: {texts['task']!r} is no id of a task or workflow") from None
    return Word(task, clean(label), clean(texts["finding"]), clean(texts["by"]), _moment(texts["at"]))


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise InputError(f"at: {text!r} names no time zone; add Z or +01:00")
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(f"at: {text!r} is no moment such as 2030-01-31T08:00:00Z") from None


async def known(db: Database, tasks: Iterable[UUID]) -> set[UUID]:
    """Those that are tasks or workflows of this database."""
    return {row["id"] for row in await db.rows(_SQL["subjects"], {"ids": list(set(tasks))})}


async def add(db: Database, telemetry: Telemetry, words: Sequence[Word], now: datetime) -> int:
    """Keep words about known tasks, and tell ClickHouse of all of them; how many were new.

    Takes an operator's login. Raises AuthError, and KeyError for an unknown task.
    """
    rows = await db.rows(_SQL["subjects"], {"ids": list({one.task for one in words})})
    about = {row["id"]: row for row in rows}
    new = 0
    for start in range(0, len(words), BATCH):
        kept = [_row(one, about[one.task]["origin_id"], now) for one in words[start : start + BATCH]]
        new += int(await do(db, _SQL["add"], {"rows": storable([{**row, **_texts(row)} for row in kept])}))
        _tell(telemetry, kept, about)
    return new


async def retell(db: Database, telemetry: Telemetry, since: timedelta) -> AsyncIterator[int]:
    """Tell ClickHouse again what was said since; yields how many. What it knows already stays one word."""
    params: dict[str, Any] = {"since": since, "after": UUID(int=0), "limit": BATCH}
    while rows := await db.rows(_SQL["said"], params):
        params["after"] = rows[-1]["id"]
        found = await db.rows(_SQL["subjects"], {"ids": list({row["task_id"] for row in rows})})
        _tell(telemetry, rows, {row["id"]: row for row in found})
        yield len(rows)


async def latest(db: Database, since: timedelta, task: UUID | None, limit: int) -> list[dict[str, Any]]:
    """What was said, the newest first."""
    return await db.rows(_SQL["latest"], {"since": since, "task": task, "limit": limit})


def _row(said: Word, origin: UUID, now: datetime) -> dict[str, Any]:
    identity = "\0".join((str(said.task), said.finding, said.label, said.by, said.at.isoformat() if said.at else ""))
    return {
        "id": uuid.uuid5(_NAMES, identity),
        "origin_id": origin,
        "task_id": said.task,
        "finding": said.finding,
        "label": said.label,
        "said_by": said.by,
        "said_at": said.at or now,
    }


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    ids = {name: str(row[name]) for name in ("id", "origin_id", "task_id")}
    return ids | {"said_at": row["said_at"].isoformat()}


def _tell(telemetry: Telemetry, rows: Iterable[Mapping[str, Any]], about: Mapping[UUID, Mapping[str, Any]]) -> None:
    for row in rows:
        task = about.get(row["task_id"], {})
        at = int(row["said_at"].timestamp() * 1_000_000) * 1000
        telemetry.record(
            SpanRecord(
                name="feedback",
                kind="internal",
                trace_id=trace_id("feedback", row["id"]),
                span_id=span_id("feedback", row["id"]),
                parent_span_id=None,
                start_ns=at,
                end_ns=at,
                attributes={
                    "backbeat.feedback_id": str(row["id"]),
                    "backbeat.feedback_label": row["label"],
                    "backbeat.feedback_finding": row["finding"],
                    "backbeat.feedback_by": row["said_by"],
                    "backbeat.task_id": str(row["task_id"]),
                    "backbeat.origin_id": str(row["origin_id"]),
                    **{f"backbeat.{name}": task.get(name) for name in ("workflow", "version", "tenant")},
                },
                links=(parse_traceparent(task["traceparent"]),) if task else (),
            )
        )
    telemetry.flush()
