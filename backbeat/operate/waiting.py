"""Enqueue one task and wait for its end, wherever a worker takes it."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from backbeat.operate import agents, inspect
from backbeat.producer.submit import submit
from shared import clock
from shared.db.pool import Database
from shared.definitions import Definition
from shared.errors import NotFoundError
from shared.telemetry.spans import Telemetry

LOOK = 0.5  # seconds between looks
NOBODY = 5.0  # seconds after which it is said that no worker has taken it
_LIVE = ("pending", "ready", "running", "delayed", "held")
_GOES_ON = ("thinking", "waiting")


@dataclass(frozen=True, slots=True)
class Seen:
    """How a task, or the agent that it began, stands; `ended` once nothing more will come of it."""

    task_id: UUID
    status: str
    result: Any
    error: str | None
    cost_usd: Decimal | None
    ended: bool


async def run(
    db: Database, telemetry: Telemetry, definition: Definition, payload: Any, within: float, tell: Callable[[str], Any]
) -> Seen:
    """Enqueue and look until the end, or `within` seconds, telling what changes. Equal payloads are one task."""
    (added,) = await submit(db, telemetry, definition, [payload])
    tell(f"task {added.task_id}: {'enqueued' if added.created else 'it was there before'}")
    began, told = clock.monotonic(), ""
    while True:
        seen = await look(db, added.task_id)
        waited = clock.monotonic() - began
        if seen.status != told:
            told = seen.status
            tell(f"{waited:.0f} s: {told}{f', {seen.error}' if seen.error else ''}")
        elif NOBODY <= waited < NOBODY + LOOK and seen.status in ("pending", "ready"):
            tell("no worker has taken it yet; `cron-worker tick` would")
        if seen.ended or waited >= within:
            return seen
        await clock.sleep(LOOK)


async def look(db: Database, task: UUID) -> Seen:
    """How it stands now."""
    story = await inspect.story(db, task)
    row, ended = story.task, story.task["status"] not in _LIVE
    cost = sum((call["cost_usd"] or Decimal() for call in story.calls), Decimal())
    try:
        agent = (await agents.transcript(db, task)).agent if ended else None
    except NotFoundError:
        agent = None
    if agent:
        row, cost, ended = agent, agent["cost_usd"], agent["status"] not in _GOES_ON
    return Seen(task, row["status"], row["result"], row["error"], cost, ended)
