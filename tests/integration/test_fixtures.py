"""The test database itself: its clock, its two logins, and its pooler."""

from datetime import timedelta

import psycopg
import pytest

from tests.support import every_postgres
from tests.support.databases import Database


@every_postgres
def test_the_clock_moves_for_every_session(database: Database) -> None:
    with psycopg.connect(database.direct_worker_url, autocommit=True) as worker:
        before = worker.execute("SELECT backbeat.now(), backbeat.clock() - backbeat.now(), now()").fetchone()
        database.advance(timedelta(days=40, seconds=7))
        after = worker.execute("SELECT backbeat.now(), backbeat.clock() - backbeat.now(), now()").fetchone()
    assert before is not None
    assert after is not None
    moved = (after[0] - before[0]) - (after[2] - before[2])
    assert moved == timedelta(days=40, seconds=7)
    assert timedelta() <= after[1] < timedelta(seconds=60)


def test_two_clients_of_the_pooler_share_one_server_connection(pgbouncer: Database) -> None:
    assert pgbouncer.worker_url != pgbouncer.direct_worker_url
    with psycopg.connect(pgbouncer.worker_url) as one, psycopg.connect(pgbouncer.worker_url) as other:
        first = one.execute("SELECT pg_backend_pid()").fetchone()
        one.commit()
        assert other.execute("SELECT pg_backend_pid()").fetchone() == first


def test_a_private_server_survives_a_kill(private_database: Database) -> None:
    server = private_database.server
    private_database.sql("CREATE TABLE kept AS SELECT 7 AS n")
    assert server.daemon.kill()
    server.start()
    assert private_database.value("SELECT n FROM kept") == 7
    assert private_database.value("SHOW fsync") == "on"


@pytest.mark.durable
def test_a_durable_database_syncs(database: Database) -> None:
    assert database.value("SHOW fsync") == "on"


def test_any_other_database_does_not(database: Database) -> None:
    assert database.value("SHOW fsync") == "off"
