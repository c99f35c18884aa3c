"""The two logins of an embedded database: one owns and migrates it, one works in it.

`backbeat_owner` may create roles, because the first migration makes `backbeat_worker`; `backbeat_app`
is a member of that role and has no right of its own.
"""

import contextlib
from collections.abc import Iterator

import psycopg
from psycopg import sql

from shared.errors import UnavailableError

OWNER = "backbeat_owner"
APP = "backbeat_app"
WORKER = "backbeat_worker"
DATABASE = "backbeat"


def create_owner(admin_url: str, password: str, database: str = DATABASE) -> None:
    """Make the owner and its database, or bring the password up to date. Needs the superuser's URL."""
    with _session(admin_url) as connection:
        _login(connection, OWNER, password, "CREATEROLE")
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
            names = sql.Identifier(database), sql.Identifier(OWNER)
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))


def create_app(admin_url: str, password: str) -> None:
    """Make the workers' login; after the migrations, which make the role it is a member of."""
    with _session(admin_url) as connection:
        _login(connection, APP, password, "NOCREATEROLE")
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(WORKER), sql.Identifier(APP)))


@contextlib.contextmanager
def _session(admin_url: str) -> Iterator[psycopg.Connection]:
    try:
        with psycopg.connect(admin_url, autocommit=True, connect_timeout=10) as connection:
            yield connection
    except psycopg.OperationalError as error:
        what = " ".join(str(error).split())
        raise UnavailableError(
            f"the embedded PostgreSQL failed: {what}", fix="Look at its log, then try again"
        ) from error


def _login(connection: psycopg.Connection, name: str, password: str, option: str) -> None:
    known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone()
    verb = sql.SQL("ALTER ROLE" if known else "CREATE ROLE")
    parts = verb, sql.Identifier(name), sql.SQL(option), sql.Literal(password)
    connection.execute(sql.SQL("{} {} LOGIN {} PASSWORD {}").format(*parts))
