"""API tokens. Making and revoking them takes the login that runs the migrations."""

from collections.abc import Sequence
from typing import Any

from shared.db.pool import Database
from shared.db.queries import load
from shared.errors import NotFoundError

_SQL = load("tokens")


async def create(db: Database, key: bytes, user: str, groups: Sequence[str], seconds: float | None) -> str:
    """Store a token's key for `seconds` (None: for ever); returns the token's public id."""
    row = await db.row(_SQL["create"], {"key": key, "user": user, "groups": list(groups), "seconds": seconds})
    return str(row["id"])


async def revoke(db: Database, token_id: str) -> None:
    """Make a token worthless from now on. Raises NotFoundError when there is no such token, or none that is valid."""
    if not (await db.row(_SQL["revoke"], {"id": token_id}))["revoked"]:
        raise NotFoundError(f"there is no valid token {token_id}", fix="`backbeat token list` names them")


async def find(db: Database) -> list[dict[str, Any]]:
    """All tokens, oldest first, without their keys."""
    return await db.rows(_SQL["list"])
