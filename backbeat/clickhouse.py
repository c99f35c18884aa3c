"""A ClickHouse session from a URL, with errors a person can act on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from shared.errors import AuthError, BackbeatError, ConfigError, SchemaError, UnavailableError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client
    from clickhouse_connect.driver.exceptions import Error

CONNECT_SECONDS = 5
ANSWER_SECONDS = 60
UNKNOWN_TABLE, UNKNOWN_DATABASE = 60, 81
_AUTHENTICATION = {192, 193, 194, 516}


def database_of(url: str) -> str:
    """The database a URL names; `default` when it names none."""
    return urlsplit(url).path.strip("/") or "default"


@contextmanager
def session(url: str, database: str | None = None) -> Iterator["Client"]:
    """A client on `http(s)://user:password@host:port/database`, closed at the end; `database` overrides the URL's.

    Raises ConfigError for a URL that is none, AuthError, SchemaError where the database or a table is
    missing, UnavailableError when the server does not answer; other refusals as clickhouse_connect raises them.
    """
    from clickhouse_connect import get_client
    from clickhouse_connect.driver.exceptions import Error

    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)  # it also raises what it logs
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError("the ClickHouse URL is not http(s)://user:password@host:port/database", fix="Correct it")
    try:
        client = get_client(
            interface=parts.scheme,
            host=parts.hostname,
            port=parts.port or 0,
            username=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            database=database or database_of(url),
            connect_timeout=CONNECT_SECONDS,
            send_receive_timeout=ANSWER_SECONDS,
            autogenerate_session_id=False,
            tz_mode="aware",
            show_clickhouse_errors="scrub",
        )
        with client:
            yield client
    except Error as error:
        known = _known(error, f"{parts.hostname}:{parts.port}")
        if known is None:
            raise
        raise known from error


def _known(error: "Error", server: str) -> BackbeatError | None:
    if error.code is None:
        return UnavailableError(
            f"ClickHouse at {server} does not answer: {_root(error)}", fix="Start it or correct the URL"
        )
    if error.code in _AUTHENTICATION:
        return AuthError(f"ClickHouse at {server} refuses this user or password", fix="Correct its URL")
    if error.code in {UNKNOWN_TABLE, UNKNOWN_DATABASE}:
        text = str(error).partition("\n")[0]
        return SchemaError(f"ClickHouse at {server} lacks something: {text}", fix="Run `backbeat migrate up`")
    return None


def _root(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error)
