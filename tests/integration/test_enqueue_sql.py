"""How tasks come in: migrations/postgres/0006_enqueue.sql and the COPY path, from a producer's side."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from backbeat.operate import tenants
from backbeat.producer import rows as producers
from backbeat.producer.rows import Terms
from shared.db import pool
from shared.domain.outcome import Dead, Succeed
from shared.errors import InputError, NotFoundError
from shared.ids import idempotency_key
from tests.support import every_postgres, tasks
from tests.support.databases import Database

pytestmark = every_postgres

ALPHA = Terms(workflow="alpha", version=1)
CAP = 1_048_576
_ENQUEUE = "SELECT task_id, created, status FROM backbeat.enqueue('{}', 1, %s::jsonb[]{})"


@pytest.fixture
def known(database: Database) -> Database:
    """A database in which `alpha` is registered, and `free`, whose equal payloads are different tasks."""
    free = tasks.definition("free") | {"idempotency": False}
    register = "SELECT backbeat.register_definitions('cron', %s)"
    database.sql(register, [psycopg.types.json.Jsonb([tasks.definition("alpha"), free])])
    return database


@pytest.fixture
def producer(known: Database) -> Iterator[psycopg.Connection]:
    """Another service: a login that is a member of backbeat_producer and of nothing else."""
    name = f"service_{known.name}"
    with psycopg.connect(known.admin_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'test' IN ROLE backbeat_producer".encode())
        with psycopg.connect(known.direct_worker_url, user=name) as connection:
            yield connection
            connection.rollback()
        admin.execute(f"DROP ROLE {name}".encode())


def _add(
    connection: psycopg.Connection, *payloads: str | None, name: str = "alpha", more: str = ""
) -> list[tuple[Any, ...]]:
    return connection.execute(_ENQUEUE.format(name, more).encode(), [list(payloads)]).fetchall()


# A service of its own


def test_a_service_enqueues_in_its_own_transaction_and_can_do_nothing_else(
    known: Database, producer: psycopg.Connection
) -> None:
    ((first, created, status),) = _add(producer, '{"n": 1}')
    assert (created, status) == (True, "ready")
    assert known.value("SELECT count(*) FROM backbeat.simple_tasks") == 0
    producer.commit()
    assert known.sql("SELECT id, idempotency_key FROM backbeat.simple_tasks") == [
        (first, idempotency_key("alpha", 1, {"n": 1}))
    ]
    allowed = known.sql(
        "SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'backbeat'::regnamespace"
        " AND has_function_privilege('backbeat_producer', p.oid, 'EXECUTE') ORDER BY 1"
    )
    assert allowed == [
        (name,) for name in ("canonical", "enqueue", "idempotency_key", "refuse_start", "start_orchestration")
    ]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        producer.execute("SELECT FROM backbeat.simple_tasks")


def test_a_service_starts_an_orchestration_in_its_own_transaction(
    known: Database, producer: psycopg.Connection
) -> None:
    known.sql("INSERT INTO backbeat.workflows (name, version, runtime, tier) VALUES ('sell', 1, 'temporal', '-')")
    start = "SELECT id, created FROM backbeat.start_orchestration('sell', 1, 'default', '{}', 'order 7', NULL)"
    ((first, created),) = producer.execute(start.encode()).fetchall()
    assert created
    assert known.value("SELECT count(*) FROM backbeat.orchestrated_workflows") == 0
    producer.commit()
    assert producer.execute(start.encode()).fetchall() == [(first, False)]
    assert known.sql("SELECT stream, kind FROM backbeat.temporal_outbox") == [(first, "start")]


def test_a_service_that_rolls_back_has_enqueued_nothing(known: Database, producer: psycopg.Connection) -> None:
    _add(producer, '{"n": 1}')
    producer.rollback()
    assert known.value("SELECT count(*) FROM backbeat.simple_tasks") == 0
    assert [created for _, created, _ in _add(producer, '{"n": 1}')] == [True]


def test_equal_payloads_are_one_task_by_salt_and_by_what_the_definition_says(producer: psycopg.Connection) -> None:
    added = _add(producer, '{"n": 1.0, "b": []}', '{"b":[],"n":1}', '{"n": 2}')
    assert [created for _, created, _ in added] == [True, False, True]
    assert added[0][0] == added[1][0]
    assert [created for _, created, _ in _add(producer, '{"n": 2}')] == [False]
    assert [created for _, created, _ in _add(producer, '{"n": 2}', more=", p_salt => 'today'")] == [True]
    own = ", p_keys => ARRAY[sha256('one'), sha256('one'), NULL]"
    assert [created for _, created, _ in _add(producer, "{}", "{}", "{}", more=own)] == [True, False, True]
    assert [created for _, created, _ in _add(producer, "{}", "{}", name="free")] == [True, True]


async def test_python_and_sql_name_a_task_alike(known: Database) -> None:
    payload = {"größe": 1.5, "n": [None, True]}
    async with pool.connect(known.worker_url) as db:
        (by_python,) = await tasks.submit(db, [payload], [idempotency_key("alpha", 1, payload, "s")])
    with psycopg.connect(known.worker_url) as worker:
        ((task, created, _),) = _add(worker, '{"n":[null,true],"größe":15e-1}', more=", p_salt => 's'")
    assert (task, created) == (by_python.task_id, False)


@pytest.mark.parametrize(
    ("payload", "more", "state", "said"),
    [
        ('{"id": 9007199254740992}', "", "BB003", "the number 9007199254740992 is not below 2^53"),
        ("{}", ", p_keys => '{}'", "BB003", "there are 1 payloads, but not as many keys"),
        ("{}", ", p_source_at => '{now,now}'", "BB003", "there are 1 payloads, but not as many keys"),
        ("{}", ", p_tenant => 'nobody'", "BB001", "tenant nobody does not exist"),
        ("{}", ", p_tenant => '*'", "BB001", "tenant * does not exist"),
        ("{}", ", p_class => 'vip'", "BB003", "p_class is none of urgent, high, normal, low"),
        ("{}", ", p_class => NULL", "BB003", "p_class is none of"),
        ("{}", ", p_keys => ARRAY['short'::bytea]", "BB003", "p_keys holds a key that is not 32 bytes long"),
        ("{}", ", p_salt => NULL", "BB003", "p_salt is NULL"),
        (None, "", "BB003", "p_payloads holds NULL"),
    ],
)
def test_what_is_refused_adds_nothing(known: Database, payload: str | None, more: str, state: str, said: str) -> None:
    with psycopg.connect(known.worker_url, autocommit=True) as worker:
        with pytest.raises(psycopg.Error, match=said.replace("*", r"\*").replace("^", r"\^")) as refused:
            _add(worker, "[]", payload, more=more) if payload is None else _add(worker, payload, more=more)
        assert refused.value.sqlstate == state
        assert (refused.value.diag.message_detail or "") == ""
        assert _add(worker) == []
        with pytest.raises(psycopg.Error, match="p_payloads is NULL") as refused:
            worker.execute("SELECT FROM backbeat.enqueue('alpha', 1, NULL)")
        assert refused.value.sqlstate == "BB003"
    assert known.value("SELECT count(*) FROM backbeat.simple_tasks") == 0


# Edges


async def test_the_payload_cap_is_inclusive(known: Database) -> None:
    frame = len('{"text": ""}')
    async with pool.connect(known.worker_url) as db:
        await tasks.submit(db, [{"text": "x" * (CAP - frame)}])
        with pytest.raises(InputError, match="a payload of alpha is larger than 1048576 bytes"):
            await tasks.submit(db, [{}, {"text": "x" * (CAP - frame - 1) + "é"}])
    assert known.value("SELECT count(*) FROM backbeat.simple_tasks") == 1


async def test_an_answer_says_how_each_task_stands(known: Database) -> None:
    keys: list[bytes | None] = [bytes([n]) * 32 for n in range(150)]
    async with tasks.worker(known) as db:
        for part in (keys[40:50], keys, [None] * 100, keys):
            told = await tasks.submit(db, [{}] * len(part), part)
            later = await tasks.submit(db, [{}], run_after=datetime.now(UTC) + timedelta(hours=1))
            found = dict(known.sql("SELECT id, status FROM backbeat.simple_tasks"))
            assert [one.status for one in [*told, *later]] == [found[one.task_id] for one in [*told, *later]]
    assert sorted(set(found.values())) == ["delayed", "pending", "ready"]


async def test_due_now_is_not_delayed_and_expired_already_never_starts(known: Database) -> None:
    moment = known.value("SELECT backbeat.now()")
    async with tasks.worker(known) as db:
        (past,) = await tasks.submit(db, [{}], run_after=moment)
        (later,) = await tasks.submit(db, [{}], run_after=moment + timedelta(hours=1))
        (gone,) = await tasks.submit(db, [{}], expires_at=moment)
        assert (past.status, later.status) == ("ready", "delayed")
        assert [task.id for task in await tasks.take(db)] in ([past.task_id], [past.task_id, gone.task_id])


async def test_ids_of_a_batch_sort_as_it_was_given_beyond_one_millisecond(known: Database) -> None:
    async with pool.connect(known.worker_url) as db:
        ids = [one.task_id for one in await tasks.submit(db, [{}] * 5000)]
    assert ids == sorted(set(ids))
    assert {(one.version, one.variant) for one in ids} == {(7, "specified in RFC 4122")}
    made = datetime.fromtimestamp((ids[0].int >> 80) / 1000, UTC)
    assert abs(made - datetime.now(UTC)) < timedelta(minutes=1)
    shape = r"^00-[0-9a-f]{32}-[0-9a-f]{16}-01$"
    assert known.value("SELECT count(*) FROM backbeat.simple_tasks WHERE traceparent ~ %s", [shape]) == 5000


async def test_a_key_whose_task_was_forgotten_is_free_again(known: Database) -> None:
    """Retention drops the history by whole days; the keys of what was in it may outlive it."""
    async with tasks.worker(known) as db:
        (first,) = await tasks.submit(db, [{}], [b"1" * 32])
        await tasks.settle(db, await tasks.take_one(db), Succeed({}))
        (known_,) = await tasks.submit(db, [{}], [b"1" * 32])
        known.sql("DELETE FROM backbeat.finished_tasks")
        (again,) = await tasks.submit(db, [{}], [b"1" * 32])
    assert (known_.task_id, known_.created) == (first.task_id, False)
    assert (again.created, again.status) == (True, "ready")
    assert again.task_id != first.task_id


async def test_a_letter_whose_equal_succeeded_meanwhile_is_not_run_again(known: Database) -> None:
    """A live task owns its key, so no claim needs to look for a stored answer."""
    async with tasks.worker(known) as db:
        (dead,) = await tasks.submit(db, [{}], [b"1" * 32])
        await tasks.settle(db, await tasks.take_one(db), Dead("oops", "no"))
        (equal,) = await tasks.submit(db, [{}], [b"1" * 32])
        await tasks.settle(db, await tasks.take_one(db), Succeed({"answer": 42}))
        requeue = (
            "SELECT task_id FROM backbeat.requeue_dead(ARRAY[%s::uuid], false, backbeat.now(), 0, 'tester', 'again')"
        )
        assert known.sql(requeue, [dead.task_id]) == []
        assert await tasks.take(db) == []
        (answer,) = await tasks.submit(db, [{}], [b"1" * 32])
    assert (answer.task_id, answer.created, answer.status) == (equal.task_id, False, "succeeded")


# Through COPY


async def _many(connection: Any, *rows: tuple[bytes, bytes | None], terms: Terms = ALPHA) -> list[UUID]:
    return await producers.enqueue_many(connection, terms, rows)


async def test_many_come_in_by_copy_as_they_are_and_in_order(known: Database) -> None:
    awkward = [b'{"a": "\\\\n\\t\\\\."}', b'"\\\\N"', '{"ü\\u2028": "\\ud83d\\ude00"}'.encode(), b"[1.50, null]"]
    async with pool.connect(known.worker_url) as db, db.pool.connection() as connection:
        ids = await _many(connection, *[(text, None) for text in awkward])
        assert await _many(connection) == []
    stored = known.sql("SELECT id, payload::text FROM backbeat.simple_tasks ORDER BY id")
    wanted = [known.value("SELECT %s::jsonb::text", [text.decode()]) for text in awkward]
    assert stored == list(zip(ids, wanted, strict=True))


async def test_many_answer_with_what_is_new_only(known: Database) -> None:
    keys = [bytes([n]) * 32 for n in range(4)]
    async with pool.connect(known.worker_url) as db, db.pool.connection() as connection:
        first = await _many(connection, (b"{}", keys[0]), (b"{}", keys[1]), (b"{}", keys[0]))
        second = await _many(connection, (b"{}", keys[1]), (b"{}", keys[2]), (b"{}", None))
    assert (len(first), len(second)) == (2, 2)
    assert known.value("SELECT count(*) FROM backbeat.simple_tasks") == 4


async def test_many_belong_to_the_callers_transaction(known: Database) -> None:
    async with pool.connect(known.worker_url) as db, db.pool.connection() as connection:
        async with connection.transaction(force_rollback=True):
            assert len(await _many(connection, (b"{}", None))) == 1
            assert len(await _many(connection, (b"{}", None))) == 1
            with pytest.raises(NotFoundError, match="no task nosuch version 1"):
                await _many(connection, (b"{}", None), terms=Terms(workflow="nosuch", version=1))
        assert known.value("SELECT count(*) FROM backbeat.simple_tasks") == 0
        await _many(connection, (b"{}", None))
    assert known.value("SELECT count(*) FROM backbeat.simple_tasks") == 1


# Tenants


async def test_an_unknown_tenant_is_made_where_that_was_said(known: Database) -> None:
    async with tasks.worker(known) as db:
        await tenants.set_tenant(tasks.Operator(known), "*", 2.5, 3, "alice")
        await tasks.add(db, 5, tenant="new")
        await tenants.refuse_unknown_tenants(tasks.Operator(known), "alice")
        with pytest.raises(NotFoundError, match="tenant other does not exist"):
            await tasks.add(db, tenant="other")
        await tasks.add(db, tenant="new")
    found = "SELECT id, weight, max_running FROM backbeat.tenants ORDER BY id"
    assert known.sql(found) == [("default", 1, None), ("new", 2.5, 3)]
    log = "SELECT detail ->> 'by', action, subject FROM backbeat.audit_log ORDER BY id"
    assert known.sql(log) == [("alice", "tenant.set", "*"), ("alice", "tenant.refuse_unknown", "*")]


async def test_a_tenant_that_cannot_be_is_refused(known: Database) -> None:
    impossible = [("t", weight, None) for weight in (-1.0, 0.0, float("nan"), float("inf"))]
    for name, weight, cap in [*impossible, ("t", 1.0, -1), ("", 1.0, None), (" ", 1.0, None), ("a\nb", 1.0, None)]:
        with pytest.raises(InputError, match=r"a weight from 0\.001 to 1000"):
            await tenants.set_tenant(tasks.Operator(known), name, weight, cap, "alice")
    with pytest.raises(InputError, match="out of range"):
        await tenants.set_tenant(tasks.Operator(known), "t", 1.0, 2**31, "alice")
    assert known.sql("SELECT id FROM backbeat.tenants") == [("default",)]


async def test_a_tenant_is_changed_where_it_is_named(known: Database) -> None:
    async with pool.connect(known.worker_url) as db:
        await tenants.set_tenant(tasks.Operator(known), "big", 3, 10, "alice")
        await tenants.set_tenant(tasks.Operator(known), "big", None, 0, "alice")
        await tenants.set_tenant(tasks.Operator(known), "big", 4, None, "alice")
        rows = {row["tenant"]: (row["weight"], row["max_running"]) for row in await tenants.tenants(db)}
    assert rows == {"big": (4, None), "default": (1, None)}
