"""What people ask and set around approvals: what waits, who decides for who left, working hours; and the audit log."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import psycopg

from backbeat.operate.tokens import as_owner
from shared.db.approvals import Request
from shared.db.pool import Database
from shared.db.queries import load
from shared.errors import BackbeatError, InputError, NotFoundError

_SQL, _REQUESTS = load("approvals", __package__), load("approvals")


async def find(db: Database, state: str | None, limit: int, token_id: str | None = None) -> list[Request]:
    """Requests of one state (`open`: people can decide), or of all: open ones first, the nearest deadline first.

    `token_id`: only those its bearer may approve and has not.
    """
    states = None if state is None else ["pending", "changes"] if state == "open" else [state]
    params = {"id": None, "states": states, "token": token_id, "limit": limit}
    return [Request(**row) for row in await db.rows(_REQUESTS["list"], params)]


async def history(db: Database, request: UUID) -> list[dict[str, Any]]:
    """What the audit log says of a request, refusals included, oldest first."""
    return await db.rows(_SQL["history"], {"id": str(request)})


async def handed_to(db: Database, request: UUID, user: str) -> str | None:
    """Who has this person's right to decide on a request, where she handed it on."""
    rows = await db.rows(_SQL["handed_to"], {"request": request, "user": user})
    return rows[0]["to_user"] if rows else None


async def reassign(db: Database, leaver: str, heir: str, reason: str) -> int:
    """Revoke somebody's tokens and hand all her rights on; the number of open requests that touches.

    Raises NotFoundError when `heir` holds no token, AuthError for a login that does not own the schema.
    """
    with as_owner("rights are reassigned"):
        found = (await db.row(_SQL["reassign"], {"leaver": leaver, "heir": heir, "reason": reason}))["open"]
    if found is None:
        raise NotFoundError(f"{heir} holds no token, or is who leaves", fix="`backbeat token list` names people")
    return int(found)


async def set_calendar(db: Database, calendar: Mapping[str, Any]) -> None:
    """Write a calendar's hours, in place of those it had. Raises InputError for hours or a time zone that cannot be."""
    try:
        await db.rows(_SQL["set_calendar"], calendar)
    except BackbeatError as error:
        if isinstance(error.__cause__, psycopg.IntegrityError | psycopg.DataError):
            raise InputError(f"the calendar cannot be: {error.what}", fix="See `approval calendar --help`") from error
        raise


async def audit_head(db: Database) -> dict[str, Any]:
    """The id and hash (hex) of the newest row of the audit log; id 0 when there is none."""
    return await db.row(_SQL["audit_head"])


async def audit_problems(db: Database) -> list[dict[str, Any]]:
    """The first row that is not as it was written, and what is wrong with it; empty when all is well."""
    return await db.rows(_SQL["audit_problems"])


async def audit_rows(db: Database, after: int, limit: int) -> list[dict[str, Any]]:
    """Rows with a higher id, oldest first, with the hashes (hex) that chain them."""
    return await db.rows(_SQL["audit_rows"], {"after": after, "limit": limit})
