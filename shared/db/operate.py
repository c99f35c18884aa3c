"""What people do to a running system: cancel, cap, stop, resume."""

from decimal import Decimal
from uuid import UUID

from shared.db.pool import Database
from shared.db.queries import load

_SQL = load("operate")


async def cancel(db: Database, task: UUID, reason: str) -> bool:
    """End a live task, running or not; its worker's later writes are refused. False when it is not live."""
    return bool(await db.rows(_SQL["cancel"], {"id": task, "reason": reason}))


async def set_budget(db: Database, scope: str, key: str, usd: Decimal | None, tokens: int | None, by: str) -> int:
    """Set the daily caps of a workflow or tenant, for today and from now on; returns how many held tasks go on."""
    params = {"scope": scope, "key": key, "usd": usd, "tokens": tokens, "by": by}
    return int((await db.row(_SQL["set_budget"], params))["released"])


async def throw_switch(db: Database, name: str, reason: str, by: str) -> None:
    """Let no model call (`all`) or no effect (`effects`) begin from now on."""
    await db.rows(_SQL["throw_switch"], {"name": name, "reason": reason, "by": by})


async def release_switch(db: Database, name: str) -> bool:
    """Undo that; False when the switch was not thrown."""
    return bool((await db.row(_SQL["release_switch"], {"name": name}))["released"])
