"""The three logins of an embedded database: one owns and migrates it, one works in it, one is of people who operate.

`backbeat_owner` may create roles, because the first migration makes `backbeat_worker` and `backbeat_operator`;
`backbeat_app` and `backbeat_people` are members of one each and have no right of their own.
"""

import contextlib
from collections.abc import Iterator

import psycopg
from psycopg import sql

from shared.errors import UnavailableError

OWNER = "backbeat_owner"
APP = "backbeat_app"
PEOPLE = "backbeat_people"
MEMBERS = {APP: "backbeat_worker", PEOPLE: "backbeat_operator"}
DATABASE = "backbeat"


def create_owner(admin_url: str, password: str, database: str = DATABASE) -> None:
    """Make the owner and its database, or bring the password up to date. Needs the superuser's URL."""
    with _session(admin_url) as connection:
        _login(connection, OWNER, password, "CREATEROLE")
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
            names = sql.Identifier(database), sql.Identifier(OWNER)
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))


def create_member(admin_url: str, login: str, password: str) -> None:
    """Make one of `MEMBERS`; after the migrations, which make the role it is a member of."""
    with _session(admin_url) as connection:
        _login(connection, login, password, "NOCREATEROLE")
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(MEMBERS[login]), sql.Identifier(login)))


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
