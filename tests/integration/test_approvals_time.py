"""What time does to a request: reminders, working hours, outages. All moments are Postgres'."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.support.approvals import Asked, ask, audit, decide, heard, tick, token, worker_rows
from tests.support.databases import Database

HOLIDAYS = "{2026-12-25,2027-01-01}"
OFFICE = ("default", "office", "Europe/Berlin", "{1,2,3,4,5}", "09:00", "17:00", HOLIDAYS)


def operator(database: Database, call: str, params: Any) -> None:
    with psycopg.connect(database.operator_url) as connection:
        connection.execute(call.encode(), params)


def set_calendar(database: Database, *values: str) -> None:
    operator(database, "SELECT backbeat.set_calendar(%s, %s, %s, %s, %s, %s, %s)", values or OFFICE)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# From, hours of work, until: all UTC. Berlin is at +1 in winter and +2 in summer; clocks change on 2027-03-28.
WORKED = [
    ("2026-12-21 08:00", 1, "2026-12-21 09:00"),
    ("2026-12-21 02:00", 1, "2026-12-21 09:00"),
    ("2026-12-21 15:30", 1, "2026-12-22 08:30"),
    ("2026-12-21 08:00", 8, "2026-12-21 16:00"),
    ("2026-12-24 15:00", 2, "2026-12-28 09:00"),
    ("2026-12-26 12:00", 0.5, "2026-12-28 08:30"),
    ("2026-12-21 08:00", 40, "2026-12-28 16:00"),
    ("2027-03-26 15:00", 2, "2027-03-29 08:00"),
]


@pytest.mark.parametrize(("since", "hours", "until"), WORKED)
def test_working_hours(database: Database, since: str, hours: float, until: str) -> None:
    set_calendar(database)
    call = "SELECT backbeat.after_time('default', '{\"calendar\": \"office\"}', %s, %s)"
    assert database.value(call, [moment(since), hours * 3600.0]) == moment(until)


def test_a_policy_counts_its_own_calendar(database: Database) -> None:
    set_calendar(database)
    ahead = moment("2026-12-24 14:50") - datetime.now(UTC)
    database.sql("UPDATE backbeat.test_clock SET shift = %s", [ahead])
    policy = {"approvers": ["alice"], "calendar": "office", "escalate": [{"after": 3600, "approvers": ["bob"]}]}
    asked = ask(database, seconds=7200.0, policy=policy | {"remind_every": 1800})
    query = "SELECT remind_at, escalate_at[1], deadline FROM backbeat.approval_requests WHERE id = %s"
    (found,) = database.sql(query, [asked.id])
    wanted = [moment(f"2026-12-{at}") for at in ("24 15:20", "24 15:50", "28 08:50")]
    assert [abs((a - b).total_seconds()) < 60 for a, b in zip(found, wanted, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (("default", "x", "Europe/Atlantis", *OFFICE[3:]), psycopg.errors.InvalidParameterValue),
        (("default", "x", "UTC", "{0}", "09:00", "17:00", "{}"), psycopg.errors.CheckViolation),
        (("default", "x", "UTC", "{1}", "17:00", "09:00", "{}"), psycopg.errors.CheckViolation),
    ],
)
def test_a_calendar_that_cannot_be(database: Database, values: tuple[str, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        set_calendar(database, *values)


def test_no_request_waits_by_a_calendar_there_is_not(database: Database) -> None:
    policy = {"approvers": ["alice"], "calendar": "nowhere"}
    with pytest.raises(psycopg.errors.CheckViolation, match=r"policy\.calendar: there is no calendar nowhere"):
        ask(database, policy=policy)


def test_who_has_not_decided_is_reminded(database: Database) -> None:
    alice = token(database, "alice")
    token(database, "bob")
    policy = {"approvers": ["alice", "bob"], "needed": 2, "remind_every": 600}
    asked = ask(database, policy=policy)
    assert 590 < tick(database, asked.id)["seconds_left"] <= 600
    decide(database, alice, asked.id, "approve", asked.hash)
    database.advance(timedelta(minutes=10))
    assert 590 < tick(database, asked.id)["seconds_left"] <= 600
    tick(database, asked.id)
    database.advance(timedelta(minutes=35))
    tick(database, asked.id)
    reminders = [users for event, users, _ in heard(database, asked.id) if event == "reminded"]
    assert reminders == [["bob"], ["bob"]], "once a time, and once for all that were missed"


def test_a_reminder_before_the_deadline(database: Database) -> None:
    token(database, "alice")
    policy = {"approvers": ["alice"], "remind_before": 900}
    last, both = ask(database, policy=policy), ask(database, policy={**policy, "remind_every": 1500})
    late = ask(database, seconds=600.0, policy=policy)
    assert 2690 < tick(database, last.id)["seconds_left"] <= 2700
    assert 590 < tick(database, late.id)["seconds_left"] <= 600, "its moment had passed when it was asked"
    for minutes in (25, 20, 14):
        database.advance(timedelta(minutes=minutes))
        for asked in (last, both):
            tick(database, asked.id)
    told = {asked.id: [event for event, *_ in heard(database, asked.id)] for asked in (last, both, late)}
    assert told == {last.id: ["asked", "reminded"], both.id: ["asked", "reminded", "reminded"], late.id: ["asked"]}
    # Once it has been said nothing but the deadline is waited for.
    assert 0 < tick(database, last.id)["seconds_left"] <= 60


# -- outages ----------------------------------------------------------------------------------------------------------


def beat(database: Database, name: str = "w1", kind: str = "temporal") -> None:
    worker_rows(database, "SELECT backbeat.register_worker(%s, %s, '[]')", [name, kind])


def deadline(database: Database, asked: Asked) -> datetime:
    found: datetime = database.value("SELECT deadline FROM backbeat.approval_requests WHERE id = %s", [asked.id])
    return found


def alive(database: Database, minutes: int) -> None:
    """So many minutes with a worker there."""
    for _ in range(2 * minutes):
        database.advance(timedelta(seconds=30))
        beat(database)


@pytest.mark.parametrize("back", ["a worker", "its first activity", "a person"])
def test_a_deadline_that_passed_while_nobody_was_there_comes_later(database: Database, back: str) -> None:
    """Whoever comes first after the outage sees it: the heartbeat, the activity before any heartbeat, an approver."""
    alice = token(database, "alice")
    beat(database)
    asked = ask(database, seconds=600.0)
    meant = deadline(database, asked)
    alive(database, 5)
    database.advance(timedelta(hours=2))
    if back == "a worker":
        beat(database, "w2")
    if back == "a person":
        assert decide(database, alice, asked.id, "approve", asked.hash)["state"] == "approved"
    else:
        assert tick(database, asked.id)["state"] == "pending"
    later = (deadline(database, asked) - meant).total_seconds()
    assert abs(later - 7200) < 60
    assert [entry[1] for entry in audit(database, asked.id)].count("approval.extended") == 1
    if back != "a person":
        beat(database, "w2")
        assert tick(database, asked.id)["state"] == "pending"
        assert abs((deadline(database, asked) - meant).total_seconds() - later) < 60, "counted once"
        alive(database, 6)
        assert tick(database, asked.id)["state"] == "expired"


def test_an_outage_before_the_deadline_takes_no_decision_away_and_extends_nothing(database: Database) -> None:
    beat(database)
    asked = ask(database, seconds=3600.0)
    database.advance(timedelta(minutes=30))
    beat(database, "w2")
    meant = deadline(database, asked)
    assert tick(database, asked.id)["state"] == "pending"
    assert deadline(database, asked) == meant
    alive(database, 31)
    assert tick(database, asked.id)["state"] == "expired"
    assert deadline(database, asked) == meant


def test_a_cron_worker_keeps_no_deadline(database: Database) -> None:
    beat(database)
    asked = ask(database, seconds=600.0)
    database.advance(timedelta(minutes=30))
    beat(database, "tick", "cron")
    assert tick(database, asked.id)["state"] == "pending"
    assert database.value("SELECT count(*) FROM backbeat.presence") == 1
