"""Schedules against a real database: one enqueue a slot, whoever ticks and whatever happens between."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, ReadOnlySqlTransaction

from backbeat.operate import schedules as operate
from cron_worker.schedule import schedule
from shared.config import Config
from shared.db import pool, queue, schedules
from shared.db.schedules import Schedule
from shared.definitions import load_definitions
from shared.errors import BackbeatError, ConflictError, InputError, NotFoundError
from shared.execution.environment import Deadline, Environment
from shared.llm.routes import Routes
from shared.telemetry.spans import NullTelemetry
from tests.support import every_postgres
from tests.support.databases import Database
from tests.support.signals import until

START = datetime(2026, 3, 28, 12, tzinfo=UTC)  # the day before clocks change in Europe
HOUR = timedelta(hours=1)
REGISTRY = load_definitions(["tests.support.triage"])
TICKET = {"subject": "Nightly", "body": "", "priority": None, "account": None}


def _at(database: Database, moment: datetime) -> None:
    """Set `backbeat.now()`, forward or backward."""
    database.sql("UPDATE backbeat.test_clock SET shift = %s - pg_catalog.now()", [moment])


@asynccontextmanager
async def _env(url: str) -> AsyncIterator[Environment]:
    async with pool.connect(url, max_size=2) as db:
        yield Environment(Config(), db, REGISTRY, Routes({}, "test"), NullTelemetry())


async def _tick(database: Database) -> int:
    async with _env(database.worker_url) as env:
        return await schedule(env)


async def _add(database: Database, **changed: Any) -> Schedule:
    """Add `nightly` at the moment of the test clock, hourly if nothing else is said."""
    async with pool.connect(database.owner_url, max_size=1) as db:
        await queue.register_definitions(db, "cron", REGISTRY.rows())
        now = await operate.now(db)
        given = {"name": "nightly", "cron": "0 * * * *", "zone": "UTC", "workflow": "support_triage", "version": 3}
        what = {} if "selector" in changed else {"payload": TICKET}
        from shared.domain import cron

        first = cron.next_slot(changed.get("cron", given["cron"]), changed.get("zone", "UTC"), now)
        made = Schedule(**{**given, **what, "watermark": now, "next_at": first, "now": now, **changed})
        async with operate.adding(db, made):
            return made


async def _row(database: Database, name: str = "nightly") -> Schedule:
    async with pool.connect(database.worker_url, max_size=1) as db:
        return await operate.one(db, name)


def _slots(database: Database) -> list[str]:
    """The slots that have a task each, in UTC, as tasks carry them."""
    rows = database.sql("SELECT source_at FROM backbeat.simple_tasks ORDER BY source_at, id")
    return [slot.astimezone(UTC).strftime("%d %H:%M") for (slot,) in rows]


@every_postgres
async def test_a_slot_comes_once_and_then_the_next(database: Database) -> None:
    _at(database, START)
    await _add(database)
    assert await _tick(database) == 0
    _at(database, START + HOUR)
    assert (await _tick(database), await _tick(database)) == (1, 0)
    _at(database, START + 2 * HOUR)
    assert await _tick(database) == 1
    assert _slots(database) == ["28 13:00", "28 14:00"]
    (first, *_) = database.sql("SELECT workflow, version, tenant, class, payload FROM backbeat.simple_tasks")
    assert first == ("support_triage", 3, "default", "normal", TICKET)
    found = await _row(database)
    assert (found.watermark, found.next_at, found.note) == (START + 2 * HOUR, START + 3 * HOUR, None)


async def test_eight_racing_ticks_enqueue_a_slot_once(database: Database) -> None:
    _at(database, START)
    await _add(database, catch_up="all")
    _at(database, START + 5 * HOUR)
    added = await asyncio.gather(*(_tick(database) for _ in range(8)))
    assert sum(added) == 5
    assert _slots(database) == [f"28 {hour}:00" for hour in range(13, 18)]


async def test_the_watermark_alone_lets_one_of_eight_win(database: Database) -> None:
    """Without keys, and all at the same slot: what is left is the one statement."""
    _at(database, START)
    made = await _add(database)
    _at(database, START + HOUR)
    payload = [(json.dumps(TICKET).encode(), None)]

    async def fire() -> int | None:
        async with pool.connect(database.worker_url, max_size=1) as db:
            slot = START + HOUR
            won = await schedules.fire(db, made, made.watermark, slot, slot + HOUR, rows=payload)
            return None if won is None else len(won)

    won = await asyncio.gather(*(fire() for _ in range(8)))
    assert sorted(won, key=str) == [1, *[None] * 7]
    assert _slots(database) == ["28 13:00"]


async def test_a_tick_that_dies_before_it_commits_leaves_the_slot(database: Database) -> None:
    _at(database, START)
    made = await _add(database)
    _at(database, START + HOUR)
    call = "SELECT backbeat.fire_schedule('nightly', %s, %s, %s, %s::jsonb[], NULL, NULL, NULL)"
    slot = START + HOUR
    async with await psycopg.AsyncConnection.connect(database.direct_worker_url) as dying:
        await dying.execute(call, [made.watermark, slot, slot + HOUR, [json.dumps(TICKET)]])
        other = asyncio.create_task(_tick(database))
        await asyncio.sleep(0.1)
        await dying.rollback()
    assert await other == 1
    assert _slots(database) == ["28 13:00"]


async def test_a_tick_that_dies_between_two_slots_leaves_the_rest(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at(database, START)
    await _add(database, catch_up="all")
    _at(database, START + 4 * HOUR)
    fire, fired = schedules.fire, []

    async def dies(*given: Any, **named: Any) -> Any:
        fired.append(given)
        if len(fired) == 3:
            raise KeyboardInterrupt
        return await fire(*given, **named)

    monkeypatch.setattr(schedules, "fire", dies)
    async with _env(database.worker_url) as env:
        with pytest.raises(KeyboardInterrupt):
            await schedule(env)
    assert _slots(database) == ["28 13:00", "28 14:00"]
    monkeypatch.undo()
    assert await _tick(database) == 2
    assert _slots(database) == ["28 13:00", "28 14:00", "28 15:00", "28 16:00"]


@pytest.mark.parametrize(
    ("catch_up", "slots", "note"),
    [
        ("all", ["28 13:00", "28 14:00", "28 15:00"], None),
        ("last", ["28 15:00"], "slots up to 2026-03-28 14:00Z dropped: 2"),
        ("none", [], "slots up to 2026-03-28 15:00Z dropped: 3"),
    ],
)
async def test_after_an_outage(database: Database, catch_up: str, slots: list[str], note: str | None) -> None:
    _at(database, START)
    await _add(database, catch_up=catch_up)
    _at(database, START + 3.5 * HOUR)
    assert await _tick(database) == len(slots)
    assert _slots(database) == slots
    found = await _row(database)
    assert (found.watermark, found.next_at, found.note) == (START + 3 * HOUR, START + 4 * HOUR, note)
    _at(database, START + 4 * HOUR)
    assert await _tick(database) == 1
    assert (await _row(database)).note is None


async def test_a_clock_that_goes_back_brings_no_slot_again(database: Database) -> None:
    _at(database, START)
    await _add(database, catch_up="all")
    _at(database, START + 2 * HOUR)
    assert await _tick(database) == 2
    _at(database, START - 6 * HOUR)
    assert await _tick(database) == 0
    _at(database, START + 3 * HOUR)
    assert await _tick(database) == 1
    assert _slots(database) == ["28 13:00", "28 14:00", "28 15:00"]


async def test_a_clock_that_went_far_ahead_is_mended_by_pausing_and_resuming(database: Database) -> None:
    _at(database, START)
    await _add(database)
    _at(database, START + timedelta(days=365))
    assert await _tick(database) == 1
    _at(database, START + HOUR)
    assert await _tick(database) == 0
    async with pool.connect(database.owner_url, max_size=1) as db:
        await operate.pause(db, "nightly")
        await operate.resume(db, await operate.one(db, "nightly"), START + 2 * HOUR)
    _at(database, START + 2 * HOUR)
    assert await _tick(database) == 1


@pytest.mark.parametrize(
    ("zone", "start", "cron", "slots"),
    [
        ("Europe/Berlin", START, "30 2 * * *", ["29 01:00", "30 00:30"]),
        ("Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC), "30 2 * * *", ["25 00:30", "26 01:30"]),
        ("America/New_York", datetime(2026, 3, 7, 12, tzinfo=UTC), "30 2 * * *", ["08 07:00", "09 06:30"]),
        ("America/New_York", datetime(2026, 10, 31, 12, tzinfo=UTC), "30 1 * * *", ["01 05:30", "02 06:30"]),
    ],
)
async def test_ticks_through_the_days_when_clocks_change(
    database: Database, zone: str, start: datetime, cron: str, slots: list[str]
) -> None:
    """A tick every hour for two days."""
    _at(database, start)
    await _add(database, cron=cron, zone=zone, catch_up="all")
    async with _env(database.worker_url) as env:
        for beat in range(1, 49):
            _at(database, start + beat * HOUR)
            await schedule(env)
    assert _slots(database) == slots


async def test_jitter_delays_the_start_and_not_the_slot(database: Database) -> None:
    from shared.domain import cron

    _at(database, START)
    await _add(database, jitter_seconds=600)
    _at(database, START + HOUR)
    assert await _tick(database) == 1
    ((status, run_after),) = database.sql("SELECT status, run_after FROM backbeat.simple_tasks")
    wanted = START + HOUR + cron.delay("nightly", START + HOUR, 600)
    assert (status, run_after) == ("delayed", wanted)


async def test_a_paused_schedule_drops_its_slots(database: Database) -> None:
    _at(database, START)
    await _add(database, catch_up="all")
    async with pool.connect(database.owner_url, max_size=1) as db:
        await operate.pause(db, "nightly")
        with pytest.raises(ConflictError, match="paused already"):
            await operate.pause(db, "nightly")
        _at(database, START + 3 * HOUR)
        assert await _tick(database) == 0
        await operate.resume(db, await operate.one(db, "nightly"), START + 4 * HOUR)
        with pytest.raises(ConflictError, match="is not paused"):
            await operate.resume(db, await operate.one(db, "nightly"), START + 4 * HOUR)
        assert await _tick(database) == 0
        _at(database, START + 4 * HOUR)
        assert await _tick(database) == 1
        await operate.remove(db, "nightly")
        with pytest.raises(NotFoundError):
            await operate.remove(db, "nightly")
    audited = database.sql("SELECT action FROM backbeat.audit_log WHERE subject = 'nightly' ORDER BY id")
    assert [action.partition(".")[2] for (action,) in audited] == ["added", "paused", "resumed", "removed"]


async def test_a_paused_schedule_refuses_a_slot_that_was_read_before(database: Database) -> None:
    _at(database, START)
    made = await _add(database)
    database.sql("SELECT backbeat.turn_schedule('nightly')")
    _at(database, START + HOUR)
    async with pool.connect(database.worker_url, max_size=1) as db:
        assert await schedules.fire(db, made, made.watermark, START + HOUR, START + 2 * HOUR) is None


async def test_no_worker_adds_or_turns(database: Database) -> None:
    for call in ("add_schedule('{}')", "remove_schedule('x')", "turn_schedule('x')"):
        with psycopg.connect(database.direct_worker_url) as worker, pytest.raises(InsufficientPrivilege):
            worker.execute(f"SELECT backbeat.{call}".encode())


@pytest.fixture
def accounts(database: Database) -> Database:
    """A business table that selectors may read, one that they may not, and a function that writes."""
    database.sql("CREATE SCHEMA crm")
    database.sql("CREATE TABLE crm.accounts (id integer PRIMARY KEY, subject text, due boolean)")
    database.sql(
        "INSERT INTO crm.accounts VALUES (1, 'one', true), (2, 'two', true), (3, NULL, true), (4, 'four', false)"
    )
    database.sql("CREATE TABLE crm.secrets (id integer)")
    database.sql(
        "CREATE FUNCTION crm.strike() RETURNS text LANGUAGE sql SECURITY DEFINER"
        " AS $$ UPDATE crm.accounts SET due = false RETURNING 'struck' $$"
    )
    database.sql("GRANT USAGE ON SCHEMA crm TO backbeat_selector, backbeat_app")
    database.sql("GRANT SELECT ON crm.accounts TO backbeat_selector")
    database.sql("GRANT EXECUTE ON FUNCTION crm.strike TO PUBLIC")
    return database


DUE = "SELECT subject, id AS account FROM crm.accounts WHERE due ORDER BY id -- those due"


@every_postgres
async def test_a_selector_enqueues_its_good_rows_and_names_the_others(accounts: Database) -> None:
    _at(accounts, START)
    await _add(accounts, selector=DUE)
    _at(accounts, START + HOUR)
    assert await _tick(accounts) == 2
    found = accounts.sql("SELECT payload ->> 'subject', payload ->> 'account' FROM backbeat.simple_tasks ORDER BY id")
    assert found == [("one", "1"), ("two", "2")]
    note = (await _row(accounts)).note
    assert note is not None
    assert note.startswith('1 of 3 rows refused: {"account": 3, "subject": null}: support_triage@3: subject: ')
    # The next slot asks again, and equal payloads of another slot are other tasks.
    _at(accounts, START + 2 * HOUR)
    accounts.sql("UPDATE crm.accounts SET subject = 'three' WHERE id = 3")
    assert await _tick(accounts) == 3
    assert (await _row(accounts)).note is None


async def test_the_same_payload_is_enqueued_once_where_the_schedule_says_so(accounts: Database) -> None:
    _at(accounts, START)
    await _add(
        accounts,
        selector="SELECT jsonb_build_object('subject', subject) AS payload FROM crm.accounts WHERE due AND id < 3",
        once=True,
    )
    _at(accounts, START + HOUR)
    assert await _tick(accounts) == 2
    accounts.sql("UPDATE crm.accounts SET due = true, subject = 'new' WHERE id = 2")
    _at(accounts, START + 2 * HOUR)
    assert await _tick(accounts) == 1


async def test_a_selector_works_behind_a_transaction_pooler(pgbouncer: Database) -> None:
    _at(pgbouncer, START)
    await _add(pgbouncer, selector="SELECT 'x' AS subject FROM generate_series(1, 3)", once=True)
    _at(pgbouncer, START + HOUR)
    assert await _tick(pgbouncer) == 1
    with psycopg.connect(pgbouncer.worker_url, autocommit=True, prepare_threshold=None) as after:
        left = after.execute(
            "SELECT current_user, current_setting('transaction_read_only'), current_setting('statement_timeout')"
        ).fetchone()
    assert left == ("backbeat_app", "off", "0")


HOSTILE = [
    ("DELETE FROM crm.accounts RETURNING *", "fails: syntax error"),
    ("WITH gone AS (DELETE FROM crm.accounts RETURNING id) SELECT * FROM gone", "must be at the top level"),
    ("SELECT crm.strike() AS subject", "cannot execute UPDATE in a read-only transaction"),
    ("SELECT 1) AS s; DELETE FROM crm.accounts; SELECT to_jsonb(s) FROM (SELECT 1", "cannot open multi-query plan"),
    ("SELECT 1) AS s; SELECT to_jsonb(s) FROM (SELECT 'x' AS subject", "cannot open multi-query plan"),
    ("SELECT * FROM crm.accounts FOR UPDATE", "not allowed in a non-volatile function"),
    ("SELECT * FROM crm.secrets", "may not: permission denied for table secrets"),
    ("SELECT * FROM backbeat.simple_tasks", "may not: permission denied for"),
    ("SELECT backbeat.throw_switch('all', 'x', 'y')::text AS subject", "may not: permission denied for function"),
    ("SELECT set_config('role', 'backbeat_owner', true) AS subject", "within security-definer function"),
    ("SELECT set_config('role', 'none', false) AS subject", "within security-definer function"),
    ("SELECT set_config('session_authorization', 'default', true) AS subject", "within security-definer function"),
    ("SELECT set_config('transaction_read_only', 'off', true) AS subject", "read-write mode"),
    ("SELECT set_config('statement_timeout', '0', true) || pg_sleep(20)::text AS subject", "ran longer than 1 s"),
    ("SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
    ("", "fails: syntax error"),
]


def _seconds(selector: str) -> int:
    """Its limit: short for one that sleeps alone, lest a slow moment be what refuses another."""
    return 1 if "pg_sleep" in selector else 30


@every_postgres
async def test_a_selector_that_does_more_than_read_is_refused(accounts: Database) -> None:
    _at(accounts, START)
    wrong = []
    for selector, said in HOSTILE:
        try:
            await _add(accounts, selector=selector, selector_seconds=_seconds(selector))
        except InputError as refused:
            wrong += [] if said in refused.what else [(selector, refused.what)]
        else:
            wrong.append((selector, "was added"))
    assert wrong == []
    assert accounts.sql("SELECT FROM backbeat.schedules") == []
    assert accounts.value("SELECT count(*) FROM crm.accounts WHERE due") == 3


@every_postgres
async def test_a_selector_that_turned_bad_gains_nothing_from_the_workers_rights(accounts: Database) -> None:
    _at(accounts, START)
    for number, _ in enumerate(HOSTILE):
        seconds = _seconds(HOSTILE[number][0])
        await _add(accounts, name=f"s{number}", selector="SELECT 'x' AS subject", selector_seconds=seconds)
        accounts.sql("UPDATE backbeat.schedules SET selector = %s WHERE name = %s", [HOSTILE[number][0], f"s{number}"])
    _at(accounts, START + HOUR)
    assert await _tick(accounts) == 0
    async with pool.connect(accounts.worker_url, max_size=1) as db:
        found = await operate.find(db)
    assert max(each.watermark for each in found) < START + HOUR
    assert min(each.next_at for each in found) > START + HOUR
    notes = {each.name: each.note or "" for each in found}
    assert [pair for number, pair in enumerate(HOSTILE) if pair[1] not in notes[f"s{number}"]] == []
    assert accounts.value("SELECT count(*) FROM crm.accounts WHERE due") == 3
    assert accounts.sql("SELECT FROM backbeat.simple_tasks") == []


async def test_a_selector_that_is_mended_gets_its_slot(accounts: Database) -> None:
    """And meanwhile the other schedules go on."""
    _at(accounts, START)
    await _add(accounts, selector=DUE)
    await _add(accounts, name="other")
    accounts.sql("ALTER TABLE crm.accounts RENAME TO clients")
    _at(accounts, START + HOUR)
    assert await _tick(accounts) == 1
    accounts.sql("ALTER TABLE crm.clients RENAME TO accounts")
    assert await _tick(accounts) == 0  # not again at once
    _at(accounts, START + HOUR + timedelta(minutes=2))
    assert await _tick(accounts) == 2
    assert _slots(accounts) == ["28 13:00"] * 3


async def test_one_tick_at_a_time_runs_a_selector(accounts: Database) -> None:
    _at(accounts, START)
    made = await _add(accounts, selector=DUE)
    _at(accounts, START + HOUR)
    lock = "SELECT pg_advisory_xact_lock(hashtextextended('backbeat.schedules:nightly', 0))"
    with psycopg.connect(accounts.direct_worker_url) as other:
        other.execute(lock)
        assert await _tick(accounts) == 0
        assert (await _row(accounts)).watermark == made.watermark
    assert await _tick(accounts) == 2
    async with pool.connect(accounts.worker_url, max_size=1) as db:
        assert await schedules.select(db, made, made.watermark) is None  # its slot is over


async def test_a_worker_runs_stored_selectors_only_and_only_reads(accounts: Database) -> None:
    """By the function's own doing, whatever its caller forgot."""
    _at(accounts, START)
    made = await _add(accounts, selector=DUE)
    with psycopg.connect(accounts.direct_worker_url) as worker:
        rows = worker.execute("SELECT * FROM backbeat.run_selector('nightly', %s, 10)", [made.watermark]).fetchall()
        assert len(rows) == 3
        with pytest.raises(ReadOnlySqlTransaction):
            worker.execute("SELECT backbeat.register_worker('x', 'cron', '[]')")
    with psycopg.connect(accounts.direct_worker_url) as worker, pytest.raises(InsufficientPrivilege):
        worker.execute("SET ROLE backbeat_selector")


async def test_more_rows_than_a_slot_takes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.db.schedules.MOST_ROWS", 5)
    monkeypatch.setattr("shared.execution.schedules.MOST_ROWS", 5)
    _at(database, START)
    await _add(database, selector="SELECT g::text AS subject FROM generate_series(1, 100) g")
    _at(database, START + HOUR)
    assert await _tick(database) == 5
    assert (await _row(database)).note == "more than 5 rows: the rest is left"


async def test_a_worker_without_the_definition_leaves_a_selector_to_others(database: Database) -> None:
    """A fixed payload was checked when it was added: that one comes, and waits where people see it."""
    _at(database, START)
    await _add(database, name="asks", selector="SELECT 'x' AS subject")
    await _add(database, name="fixed")
    _at(database, START + HOUR)
    async with _env(database.worker_url) as env:
        strange = replace(env, registry=load_definitions([]))
        assert await schedule(strange) == 1
        assert await schedule(env) == 1


async def test_a_tick_without_time_leaves_schedules_alone(database: Database) -> None:
    _at(database, START)
    await _add(database)
    _at(database, START + HOUR)
    async with _env(database.worker_url) as env:
        assert await schedule(replace(env, deadline=Deadline(0.0, 0.0))) == 0
    assert await _tick(database) == 1


async def test_while_a_selector_is_tried_the_audit_log_is_free(accounts: Database) -> None:
    _at(accounts, START)
    selector = "SELECT pg_advisory_xact_lock(7)::text AS subject"
    with psycopg.connect(accounts.owner_url) as gate:
        gate.execute("SELECT pg_advisory_xact_lock(7)")
        slow = asyncio.create_task(_add(accounts, selector=selector, selector_seconds=60))
        busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
        await asyncio.to_thread(until, lambda: accounts.value(busy), within=60, what="a selector that runs")
        accounts.sql("SET lock_timeout = '5s'; SELECT backbeat.audit('a', 'b', 'c', '{}')")
    assert (await slow).name == "nightly"


async def test_a_name_is_taken_and_a_tenant_is_known(database: Database) -> None:
    _at(database, START)
    await _add(database)
    with pytest.raises(ConflictError, match="already"):
        await _add(database)
    with pytest.raises(BackbeatError, match="does not exist"):
        await _add(database, name="other", tenant="nobody")
    assert database.value("SELECT count(*) FROM backbeat.schedules") == 1
