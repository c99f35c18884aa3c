"""What people do to a running system: cancel, cap, stop, resume, resolve. It takes an operator's login.

Every call is in the audit log under that login. Raises AuthError when it is none.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

from psycopg.errors import InsufficientPrivilege

from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import clean, storable
from shared.errors import AuthError, SchemaError

_SQL = load("actions", "backbeat.operate")


async def cancel(db: Database, task: UUID, reason: str) -> bool:
    """End a live task, running or not; its worker's later writes are refused. False when it is not live."""
    return bool(await do(db, _SQL["cancel"], {"id": task, "reason": reason}))


async def set_budget(
    db: Database, scope: str, key: str, usd: Decimal | None, tokens: int | None, by: str, *, soft: bool = False
) -> int:
    """Set the caps of a scope, for today and from now on; returns how many held tasks go on.

    A workflow's and a tenant's are for a UTC day; `task` and `agent` name a workflow, and cap each of its tasks.
    """
    params = {"scope": scope, "key": key, "usd": usd, "tokens": tokens, "by": by, "soft": soft}
    return int(await do(db, _SQL["set_budget"], params))


async def reconcile(db: Database, owner: UUID, key: str, seq: int, cost: Decimal, tokens: int, by: str) -> bool:
    """Say what a lost call did cost, in place of what is presumed; False when it is not lost."""
    params = {"owner": owner, "key": key, "seq": seq, "cost": cost, "tokens": tokens, "by": by}
    return bool((await db.row(_SQL["reconcile"], params))["reconciled"])


async def throw_switch(db: Database, name: str, reason: str, by: str) -> None:
    """Let no model call (`all`) or no effect (`effects`) begin from now on."""
    await do(db, _SQL["throw_switch"], {"name": name, "reason": reason, "by": by})


async def release_switch(db: Database, name: str, by: str | None = None) -> bool:
    """Undo that; False when the switch was not thrown."""
    return bool(await do(db, _SQL["release_switch"], {"name": name, "by": by}))


async def resolve_effect(db: Database, key: str, outcome: Any, reason: str, by: str) -> bool:
    """Say what became of an effect: its outcome, or None when it certainly did not happen and may be fired.

    False when it is done already, or while a worker may still be at it.
    """
    said = None if outcome is None else storable(outcome)
    return bool(await do(db, _SQL["resolve_effect"], {"key": key, "outcome": said, "reason": clean(reason), "by": by}))


async def note_restore(db: Database, by: str, reason: str) -> None:
    """Say that Postgres came back as it was some time ago: effects since then are unknown."""
    await do(db, _SQL["note_restore"], {"by": by, "reason": clean(reason)})


async def do(db: Database, query: LiteralString, params: Mapping[str, Any]) -> Any:
    """The one value that a door answers with."""
    try:
        (answer,) = (await db.row(query, params)).values()
    except SchemaError as error:
        if not isinstance(error.__cause__, InsufficientPrivilege):
            raise
        fix = "Set BACKBEAT_OPERATOR_URL to one that has the role backbeat_operator"
        raise AuthError("this takes the login of an operator", fix=fix) from error
    return answer
