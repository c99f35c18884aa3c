"""Cron expressions as people write them: what is wrong with one, before a schedule of it is made."""

import difflib
from datetime import UTC, datetime
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError

from shared.domain.cron import slots
from shared.errors import InputError

_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def check(expression: str, zone: str) -> None:
    """Raise InputError for what is no expression of five fields, for one that never comes, and for no time zone."""
    known = available_timezones()
    if zone not in known:
        near = difflib.get_close_matches(zone, known, 1) or ["Europe/Berlin"]
        raise InputError(f"there is no time zone {zone!r}", fix=f"Use a name of the IANA database, such as {near[0]}")
    try:
        never = next(slots(expression, zone, _YEAR), None) is None
    except CronSimError as error:
        # `0 0 31 2 *` is refused for its day, which there is in other months.
        never = str(error) == "Bad day-of-month" and _comes(_any_month(expression))
        if not never:
            what = f"{expression[:60]!r} is no cron expression: {str(error).lower()}"
            raise InputError(what, fix="Five fields: minute hour day-of-month month day-of-week") from None
    if never:
        raise InputError(f"{expression!r} never comes", fix="No date fits its day and month")


def _any_month(expression: str) -> str:
    minute, hour, day, _, weekday = expression.split()
    return f"{minute} {hour} {day} * {weekday}"


def _comes(expression: str) -> bool:
    try:
        return next(CronSim(expression, _YEAR), None) is not None
    except CronSimError:
        return False
