"""Enqueues what schedules want by now. Whoever ticks: Postgres lets each slot be enqueued once."""

import logging
from datetime import datetime, timedelta

from shared import clock
from shared.db import schedules
from shared.db.schedules import Schedule
from shared.errors import BackbeatError, UnavailableError
from shared.execution.environment import Environment

AGAIN = timedelta(minutes=1)  # after which a schedule that failed is looked at again


async def schedule(env: Environment) -> int:
    """Deal with the slots that have come, the most overdue schedule first; returns how many tasks were added.

    A schedule that fails keeps its slot and says why in its note; the others go on. Raises UnavailableError.
    """
    added = 0
    for due in await schedules.due(env.db, list(env.registry.tasks)):
        if not env.deadline.allows(0.0):
            break
        try:
            added += await _catch_up(env, due)
        except UnavailableError:
            raise
        except BackbeatError as error:
            logging.warning("schedule %s: %s", due.name, error)
            await schedules.fire(env.db, due, due.watermark, due.watermark, due.now + AGAIN, note=str(error))
    if added:
        env.telemetry.flush()
    return added


async def _catch_up(env: Environment, due: Schedule) -> int:
    """One transaction a slot, so that a tick that dies between them leaves the rest to the next one."""
    from shared.domain import cron

    plan = cron.plan(due.cron, due.zone, due.catch_up, due.watermark, due.now)
    if plan is None:
        # The time zone's rules changed, or this schedule was early to be looked at again.
        following = cron.next_slot(due.cron, due.zone, due.now)
        await schedules.fire(env.db, due, due.watermark, due.watermark, following, note=due.note or "")
        return 0
    if plan.dropped:
        logging.warning("schedule %s: %s", due.name, plan.dropped)
    if not plan.fire:
        await schedules.fire(env.db, due, due.watermark, plan.newest, plan.next_at, note=plan.dropped)
        return 0
    added, watermark = 0, due.watermark
    for slot, following in zip(plan.fire, (*plan.fire[1:], plan.next_at), strict=True):
        tasks = await _slot(env, due, watermark, slot, following, plan.dropped) if env.deadline.allows(0.0) else None
        if tasks is None:
            break
        added, watermark = added + tasks, slot
    return added


async def _slot(
    env: Environment, due: Schedule, watermark: datetime, slot: datetime, following: datetime, dropped: str
) -> int | None:
    """Enqueue one slot; None when another tick is at this schedule."""
    from shared.domain import cron
    from shared.execution.schedules import gather
    from shared.execution.spans import enqueue_span

    definition, started = env.registry.tasks.get(due.target), clock.wall_ns()
    batch = await gather(env.db, due, definition, watermark, f"{due.name}@{slot.isoformat()}")
    if batch is None:
        return None
    if batch.note:
        logging.warning("schedule %s: %s", due.name, batch.note)
    tasks = await schedules.fire(
        env.db,
        due,
        watermark,
        slot,
        following,
        rows=batch.rows,
        run_after=slot + cron.delay(due.name, slot, due.jitter_seconds),
        note="; ".join(filter(None, (dropped, batch.note))),
    )
    if tasks is None:
        return None
    for task in tasks:
        if definition:
            env.telemetry.record(enqueue_span(definition, task, None, due.tenant, None, started))
    return len(tasks)
