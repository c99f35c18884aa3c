"""A database a test: a copy of the template, dropped afterwards."""

import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg

from backbeat.embedded import roles
from shared.db.queries import load
from tests.support.servers import TEMPLATE, Server

AUDIT_PROBLEMS = load("approvals", "backbeat.operate")["audit_problems"]

# A new session costs ten times what most queries do. One for each thread, so that none waits for another's query.
_sessions: dict[tuple[str, int], psycopg.Connection] = {}


def _session(url: str) -> psycopg.Connection:
    key = url, threading.get_ident()
    kept = _sessions.get(key)
    if kept and (kept.closed or select.select([kept], [], [], 0)[0]):  # the server's end of it is gone
        kept.close()
        kept = None
    if kept is None:
        kept = _sessions[key] = psycopg.connect(url, autocommit=True, prepare_threshold=None)
    return kept


def forget(database: "Database") -> None:
    """Close what `Database.sql` keeps open."""
    for key in [key for key in _sessions if key[0] == database.owner_url]:
        _sessions.pop(key).close()


@dataclass(frozen=True, slots=True)
class Database:
    """A test's own database. `worker_url` passes the pooler when the run has one; the others are direct."""

    name: str
    server: Server
    worker_url: str

    @property
    def owner_url(self) -> str:
        """The login that owns the schema and migrates it."""
        return self.server.url(self.name, roles.OWNER)

    @property
    def operator_url(self) -> str:
        """The login of people who operate."""
        return self.server.url(self.name, roles.PEOPLE)

    @property
    def direct_worker_url(self) -> str:
        """The workers' login, past any pooler."""
        return self.server.url(self.name, roles.APP)

    @property
    def admin_url(self) -> str:
        """The superuser: for pg_terminate_backend and pg_stat_activity only."""
        return self.server.url(self.name)

    @property
    def environ(self) -> dict[str, str]:
        """What a worker process, or a person who operates, needs in its environment to work here."""
        urls = {"DATABASE": self.worker_url, "DIRECT": self.owner_url, "OPERATOR": self.operator_url}
        return {f"BACKBEAT_{name}_URL": url for name, url in urls.items()}

    def sql(self, query: str, params: Any = None) -> list[tuple[Any, ...]]:
        """Run one query as the owner in a transaction of its own; the rows, or an empty list when it returns none."""
        cursor = _session(self.owner_url).execute(query.encode(), params)
        return cursor.fetchall() if cursor.description else []

    def value(self, query: str, params: Any = None) -> Any:
        """The first column of the only row of a query. Raises ValueError when there is not exactly one row."""
        ((first, *_),) = self.sql(query, params)
        return first

    def advance(self, by: timedelta) -> None:
        """Move `backbeat.now()` forward, for every process at once; a transaction that runs keeps its time."""
        self.sql("UPDATE backbeat.test_clock SET shift = shift + %s", [by])


def create(server: Server, *, template: str = TEMPLATE, pooler_port: int | None = None) -> Database:
    """Make a database; `template0` gives an empty one."""
    name = f"t_{uuid4().hex[:16]}"
    worker_url = server.url(name, roles.APP)
    if pooler_port:
        worker_url = worker_url.replace(f":{server.port}/", f":{pooler_port}/")
    # Files are copied in a third of the time, for a checkpoint before and after, which is dear where fsync is on.
    strategy = "wal_log" if server.durable else "file_copy"
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        made = f"CREATE DATABASE {name} TEMPLATE {template} OWNER {roles.OWNER} STRATEGY {strategy}"
        admin.execute(made.encode())
    return Database(name, server, worker_url)


@contextmanager
def lent(server: Server, *, template: str = TEMPLATE, pooler_port: int | None = None) -> Iterator[Database]:
    """A database for as long as the context lasts; whoever is still connected then is thrown out."""
    made = create(server, template=template, pooler_port=pooler_port)
    try:
        yield made
    finally:
        forget(made)
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {made.name} WITH (FORCE)".encode())
