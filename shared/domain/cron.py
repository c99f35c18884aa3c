"""Cron expressions in a time zone: which moments they mean. Pure, and by the rules of Debian's cron.

A minute and an hour that are both named (`30 2 * * *`) mean a time of day: on the day when clocks skip it, it comes
when they have skipped, and on the day when they repeat it, the first time only. With a `*` at the start of either
(`*/15 * * * *`) elapsed time counts: nothing comes in an hour that is skipped, and one that is repeated counts twice.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from shared.errors import ConfigError, InputError
from shared.ids import digest

MOST_SLOTS = 1000  # enqueued late at once; of what was missed before them nothing is
PUNCTUAL = timedelta(minutes=15)  # later than that, a slot is missed
_LONGEST = 200  # characters of an expression
_LONGEST_REPEAT = timedelta(hours=3)  # by which clocks have been set back at once


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about the slots that have come: enqueue `fire`, in order; then `newest` is dealt with.

    `next_at` is the slot after them; `dropped` says which were given up, "" when none was.
    """

    fire: tuple[datetime, ...]
    newest: datetime
    next_at: datetime
    dropped: str


def slots(expression: str, zone: str, after: datetime) -> Iterator[datetime]:
    """The moments after one, in UTC, for as long as there are any within fifty years of each other."""
    fields, tz, last = _fields(expression), _zone(zone), after
    elapsed = any(field.startswith("*") for field in fields[:2])
    coming: list[datetime] = []
    # Wall times that are earlier than it may come later: the second time.
    for wall in CronSim(" ".join(fields), after.astimezone(tz).replace(tzinfo=None) - _LONGEST_REPEAT):
        if not (moments := _moments(wall, tz, elapsed=elapsed)):
            continue
        for moment in moments:
            heapq.heappush(coming, moment)
        while coming and coming[0] <= moments[0]:
            if (slot := heapq.heappop(coming)) > last:
                yield slot
                last = slot


def next_slot(expression: str, zone: str, after: datetime) -> datetime:
    """The first slot after a moment. Raises InputError when there is none."""
    try:
        return next(slots(expression, zone, after))
    except (StopIteration, CronSimError) as error:
        why = str(error).lower() or "it never comes"
        fix = "Five fields: minute hour day-of-month month day-of-week"
        raise InputError(f"{expression[:60]!r}: {why}", fix=fix) from None


def plan(expression: str, zone: str, catch_up: str, watermark: datetime, now: datetime) -> Plan | None:
    """What to do about the slots after the watermark, up to now; None when there is none.

    `none` enqueues the newest if it is punctual, `last` the newest, `all` every one, of the newest MOST_SLOTS.
    """
    come = _come(expression, zone, watermark, now)
    if not come:
        return None
    most = {"none": int(now - come[-1] <= PUNCTUAL), "last": 1, "all": MOST_SLOTS}[catch_up]
    fire = come[len(come) - min(most, len(come)) :]
    dropped = len(come) - len(fire)
    many = f"{dropped}{' or more' if len(come) > MOST_SLOTS else ''}"
    return Plan(
        fire=tuple(fire),
        newest=come[-1],
        next_at=next_slot(expression, zone, now),
        dropped=f"slots up to {come[dropped - 1]:%Y-%m-%d %H:%M}Z dropped: {many}" if dropped else "",
    )


def delay(name: str, slot: datetime, jitter_seconds: int) -> timedelta:
    """How long after its slot a task of this schedule may start: always the same for the same slot."""
    return timedelta(seconds=int(digest("jitter", name, slot.isoformat()), 16) % (jitter_seconds + 1))


def _come(expression: str, zone: str, after: datetime, until: datetime) -> list[datetime]:
    """The newest slots in between, oldest first: MOST_SLOTS + 1 at most. Looks back no further than needed."""
    span = timedelta(hours=1)
    while True:
        start = max(after, until - span)
        found = list(takewhile(lambda slot: slot <= until, slots(expression, zone, start)))
        if start == after or len(found) > MOST_SLOTS:
            return found[-MOST_SLOTS - 1 :]
        span *= 2


def _moments(wall: datetime, tz: tzinfo, *, elapsed: bool) -> list[datetime]:
    """When clocks in the zone show it."""
    while True:
        first, second = (wall.replace(tzinfo=tz, fold=fold).astimezone(UTC) for fold in (0, 1))
        # In an hour that is skipped the first reads later than the second (PEP 495).
        if first <= second:
            return [first, second] if elapsed and first < second else [first]
        if elapsed:
            return []
        wall += timedelta(minutes=1)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        fix = "Install the host's time zones, or the package tzdata"
        raise ConfigError(f"this host has no time zone {name!r}", fix=fix) from error


def _fields(expression: str) -> list[str]:
    fields = expression.split()
    if len(expression) > _LONGEST or len(fields) != 5:
        raise CronSimError("not five fields")
    return fields
