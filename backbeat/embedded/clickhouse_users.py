"""Who may ask the embedded ClickHouse, and how much: its owner, and an analyst who can only read."""

import base64
import binascii
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from backbeat.embedded.clickhouse_query import Query, refusal

_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
OWNER_LIMITS: Mapping[str, str] = MappingProxyType(
    {"max_execution_time": "600", "max_memory_usage": str(_MEMORY // 2), "max_result_bytes": "1000000000"}
)
ANALYST_LIMITS: Mapping[str, str] = MappingProxyType(
    {
        "max_execution_time": "60",
        "max_memory_usage": str(min(_MEMORY // 4, 2_000_000_000)),
        "max_rows_to_read": "2000000000",
        "max_result_rows": "1000000",
        "max_result_bytes": "256000000",
        "max_threads": str(os.cpu_count() or 1),
    }
)
OWNER_BODY, ANALYST_BODY = 2**28, 2**22  # bytes of a request, packed or not
# What an analyst's client may say: the shape of an answer, and limits, which it can only lower.
_SHAPE_PREFIXES = ("output_format_", "date_time_", "input_format_", "http_", "cast_")
_SHAPE = {"session_timezone", "join_use_nulls", "max_block_size", "log_comment", "readonly", "result_overflow_mode"}


@dataclass(frozen=True, slots=True)
class User:
    """One login. `password` None lets whoever reaches the port be the owner; `database` is the only one to read."""

    name: str
    password: str | None
    analyst: bool = False
    limits: Mapping[str, str] = field(default_factory=lambda: OWNER_LIMITS)
    database: str = ""

    @property
    def body_limit(self) -> int:
        """How many bytes a request may bring."""
        return ANALYST_BODY if self.analyst else OWNER_BODY


def admit(users: Sequence[User], headers: Mapping[str, str], parameters: Mapping[str, str]) -> User:
    """The user a request is of. Raises EngineError 194 or 516."""
    # A web page can make a browser send a plain POST to loopback; no client of a database sends an Origin.
    if "origin" in headers:
        raise refusal(516, "AUTHENTICATION_FAILED", "requests of web pages are refused")
    if users[0].password is None:
        return users[0]
    given = _credentials(headers, parameters)
    if given is None:
        raise refusal(194, "REQUIRED_PASSWORD", "a user and password are required")
    found = None
    for user in users:  # all of them, so that the time tells nothing
        name_matches = hmac.compare_digest(given[0].encode(), user.name.encode())
        password_matches = hmac.compare_digest(given[1].encode(), (user.password or "").encode())
        found = user if name_matches and password_matches else found
    if found is None:
        text = "Authentication failed: password is incorrect, or there is no user with such name"
        raise refusal(516, "AUTHENTICATION_FAILED", text)
    return found


def granted(user: User, query: Query) -> Query:
    """The query as this user may ask it. Raises EngineError 164 for a setting that is not an analyst's to change."""
    if not user.analyst:
        return replace(query, settings={**user.limits, **query.settings})
    settings: dict[str, str] = {}
    for name, value in query.settings.items():
        if name in user.limits:
            settings[name] = _lower(value, user.limits[name])
        elif name in _SHAPE or name.startswith(_SHAPE_PREFIXES):
            settings[name] = value
        else:
            raise refusal(164, "READONLY", f"Cannot modify '{name}' setting in readonly mode")
    settings = {**user.limits, **settings, "readonly": "1"}
    home = query.database or user.database
    return replace(query, settings=settings, analyst=True, session=None, database=home, only=user.database)


def _lower(asked: str, limit: str) -> str:
    """The tighter of the two; in ClickHouse 0 means no limit at all."""
    try:
        return str(min(int(float(asked)), int(limit)) or limit) if float(asked) > 0 else limit
    except (ValueError, OverflowError):
        return limit


def _credentials(headers: Mapping[str, str], parameters: Mapping[str, str]) -> tuple[str, str] | None:
    user, key = headers.get("x-clickhouse-user"), headers.get("x-clickhouse-key")
    if user is not None:
        return user, key or ""
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return (parameters["user"], parameters.get("password", "")) if "user" in parameters else None
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return user, password
