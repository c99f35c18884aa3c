"""API tokens. Making and revoking them takes the login that runs the migrations."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from psycopg.errors import InsufficientPrivilege

from shared.db.pool import Database
from shared.db.queries import load
from shared.errors import AuthError, InputError, NotFoundError, SchemaError

NAME = re.compile(r"[^\W_][\w.@+-]{0,99}")
_SQL = load("tokens", "backbeat.operate")


async def create(db: Database, key: bytes, user: str, groups: Sequence[str], seconds: float | None) -> str:
    """Store a token's key for `seconds` (None: for ever); returns the token's public id.

    Raises InputError for a name that cannot be one, AuthError when this login may not make tokens.
    """
    for name in (user, *groups):
        if not NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot be a name", fix="Use letters, digits and . _ @ + - (not first)")
    with as_owner():
        row = await db.row(_SQL["create"], {"key": key, "user": user, "groups": list(groups), "seconds": seconds})
    return str(row["id"])


async def revoke(db: Database, token_id: str) -> None:
    """Make a token worthless from now on. Raises NotFoundError when there is no such token, or none that is valid."""
    with as_owner():
        revoked = (await db.row(_SQL["revoke"], {"id": token_id}))["revoked"]
    if not revoked:
        raise NotFoundError(f"there is no valid token {token_id}", fix="`backbeat token list` names them")


async def find(db: Database) -> list[dict[str, Any]]:
    """All tokens, oldest first, without their keys."""
    return await db.rows(_SQL["list"])


@contextmanager
def as_owner(what: str = "tokens are made and revoked") -> Iterator[None]:
    """Say it plainly when the login does not own the schema. Raises AuthError."""
    try:
        yield
    except SchemaError as error:
        if not isinstance(error.__cause__, InsufficientPrivilege):
            raise
        fix = "Set BACKBEAT_DIRECT_URL to it"
        raise AuthError(f"{what} with the login that runs the migrations", fix=fix) from error
