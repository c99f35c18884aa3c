"""Which moments a cron expression means, the weeks when clocks change among them."""

from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbeat.operate.cron import check
from shared.domain import cron
from shared.errors import ConfigError, InputError

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
# Sundays on which clocks change, in a zone east and one west of Greenwich, and the one whose step is half an hour.
WEEKS = [
    ("Europe/Berlin", datetime(2026, 3, 29, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 25, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 5, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 4, tzinfo=UTC)),
]


def _local(expression: str, zone: str, after: datetime, count: int) -> list[str]:
    found = islice(cron.slots(expression, zone, after), count)
    return [slot.astimezone(ZoneInfo(zone)).strftime("%d %H:%M %z") for slot in found]


def _by_hand(minutes: set[int], hours: set[int], *, elapsed: bool, zone: str, day: datetime) -> list[datetime]:
    """Four days of slots, by looking at every minute of the real and of the wall clock."""
    tz, found = ZoneInfo(zone), set()
    for n in range(4 * 1440):
        real = day + n * MINUTE
        local = real.astimezone(tz)
        if elapsed and local.minute in minutes and local.hour in hours:
            found.add(real)
        wall = day.replace(tzinfo=None) + n * MINUTE
        if not elapsed and wall.minute in minutes and wall.hour in hours:
            while (real := wall.replace(tzinfo=tz).astimezone(UTC)).astimezone(tz).replace(tzinfo=None) != wall:
                wall += MINUTE
            found.add(real)
    return sorted(found)


@pytest.mark.parametrize(("zone", "sunday"), WEEKS)
@pytest.mark.parametrize(
    ("expression", "minutes", "hours", "elapsed"),
    [
        ("30 2 * * *", {30}, {2}, False),
        ("0,30 1-3 * * *", {0, 30}, {1, 2, 3}, False),
        ("*/15 * * * *", {0, 15, 30, 45}, set(range(24)), True),
        ("*/20 2 * * *", {0, 20, 40}, {2}, True),
        ("15 */2 * * *", {15}, set(range(0, 24, 2)), True),
    ],
)
def test_slots_of_the_days_when_clocks_change(
    zone: str, sunday: datetime, expression: str, minutes: set[int], hours: set[int], elapsed: bool
) -> None:
    first, last = sunday - DAY / 2, sunday + 2 * DAY
    expected = _by_hand(minutes, hours, elapsed=elapsed, zone=zone, day=sunday - DAY)
    slots = list(takewhile(lambda slot: slot <= last, cron.slots(expression, zone, first)))
    assert slots == [slot for slot in expected if first < slot <= last]
    assert slots


def test_half_past_two_on_the_day_without_one_and_on_the_day_with_two() -> None:
    spring = _local("30 2 * * *", "Europe/Berlin", datetime(2026, 3, 27, 12, tzinfo=UTC), 3)
    assert spring == ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]
    autumn = _local("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC), 2)
    assert autumn == ["25 02:30 +0200", "26 02:30 +0100"]
    # Asked within the second of the two hours, it has come.
    assert _local("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 25, 1, 10, tzinfo=UTC), 1) == ["26 02:30 +0100"]


def test_leap_day() -> None:
    assert cron.next_slot("0 12 29 2 *", "UTC", datetime(2026, 1, 1, tzinfo=UTC)) == datetime(
        2028, 2, 29, 12, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("0 0 31 2 *", "'0 0 31 2 *' never comes"),
        ("0 0 30 2 *", "'0 0 30 2 *' never comes"),
        ("0 0 31 4,6,9,11 *", "'0 0 31 4,6,9,11 *' never comes"),
        ("0 0 */30 2 1#5", "'0 0 */30 2 1#5' never comes"),
        ("61 * * * *", "'61 * * * *' is no cron expression: bad minute"),
        ("0 0 32 * *", "'0 0 32 * *' is no cron expression: bad day-of-month"),
        ("0 0 * * * *", "'0 0 * * * *' is no cron expression: not five fields"),
        ("@daily", "'@daily' is no cron expression: not five fields"),
        ("", "'' is no cron expression: not five fields"),
        ("* * * * " + "1," * 200 + "1", "is no cron expression: not five fields"),
    ],
)
def test_what_is_no_expression(expression: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        check(expression, "UTC")
    assert said in refused.value.what
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("zone", ["Europe/Berln", "europe/berlin", "../etc/passwd", "Europe", ""])
def test_what_is_no_time_zone(zone: str) -> None:
    with pytest.raises(InputError, match="there is no time zone"):
        check("0 0 * * *", zone)
    with pytest.raises(ConfigError, match="this host has no time zone"):
        cron.next_slot("0 0 * * *", zone or "/", datetime(2026, 1, 1, tzinfo=UTC))


def test_a_misspelt_time_zone_is_corrected() -> None:
    with pytest.raises(InputError, match="such as Europe/Berlin"):
        check("0 0 * * *", "Europe/Berln")


NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("catch_up", "late", "fired", "dropped"),
    [
        ("none", 3, ["12:00"], "slots up to 2026-05-01 11:00Z dropped: 2"),
        ("none", 16, [], "slots up to 2026-05-01 12:00Z dropped: 3"),
        ("last", 16, ["12:00"], "slots up to 2026-05-01 11:00Z dropped: 2"),
        ("all", 16, ["10:00", "11:00", "12:00"], ""),
    ],
)
def test_what_comes_late(catch_up: str, late: int, fired: list[str], dropped: str) -> None:
    now = NOON + late * MINUTE
    plan = cron.plan("0 * * * *", "UTC", catch_up, NOON.replace(hour=9), now)
    assert plan is not None
    assert [slot.strftime("%H:%M") for slot in plan.fire] == fired
    assert (plan.newest, plan.next_at, plan.dropped) == (NOON, NOON.replace(hour=13), dropped)
    assert cron.plan("0 * * * *", "UTC", catch_up, NOON, now) is None


def test_ten_years_of_minutes_are_not_all_looked_at() -> None:
    plan = cron.plan("* * * * *", "Europe/Berlin", "all", NOON.replace(year=2016), NOON)
    assert plan is not None
    assert plan.fire == tuple(NOON - n * MINUTE for n in reversed(range(cron.MOST_SLOTS)))
    assert plan.dropped == "slots up to 2026-04-30 19:20Z dropped: 1 or more"


def test_jitter_is_the_same_whoever_asks_and_spreads() -> None:
    delays = [cron.delay("nightly", NOON + n * DAY, 600) for n in range(200)]
    assert delays == [cron.delay("nightly", NOON + n * DAY, 600) for n in range(200)]
    assert all(timedelta() <= delay <= timedelta(seconds=600) for delay in delays)
    assert len(set(delays)) > 100
    assert cron.delay("nightly", NOON, 0) == timedelta()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["30 2 * * *", "*/7 * * * *", "0,59 0-3 * * 0", "5 */3 1,29,31 * *", "0 0 L * *", "*/30 0 * * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001
    st.lists(st.integers(1, 3000), max_size=4),
)
def test_slots_do_not_depend_on_where_one_begins(expression: str, zone: str, start: datetime, steps: list[int]) -> None:
    after = start.replace(tzinfo=UTC)
    slots = list(islice(cron.slots(expression, zone, after), 40))
    assert slots == sorted(set(slots))
    assert slots[0] > after
    for step in steps:
        later = after + step * MINUTE
        rest = [slot for slot in slots if slot > later]
        assert list(islice(cron.slots(expression, zone, later), len(rest))) == rest
