"""Tenants and workflows, as people see, weigh and pause them."""

from typing import Any

from shared.db.pool import Database
from shared.db.queries import load

_SQL = load("tenants", "backbeat.operate")


async def tenants(db: Database) -> list[dict[str, Any]]:
    """Every tenant with its weight, cap and pause, and what it has in the windows and running."""
    return await db.rows(_SQL["tenants"])


async def set_tenant(db: Database, tenant: str, weight: float | None, max_running: int | None, by: str) -> None:
    """Make a tenant, or change what is not None; a cap of 0 lifts it. Of `*`: make unknown tenants like this."""
    await db.rows(_SQL["set_tenant"], {"tenant": tenant, "weight": weight, "max_running": max_running, "by": by})


async def refuse_unknown_tenants(db: Database, by: str) -> None:
    """Undo `*`: only tenants that somebody made may have tasks."""
    await db.rows(_SQL["refuse_unknown_tenants"], {"by": by})


async def workflows(db: Database) -> list[dict[str, Any]]:
    """Every definition that was ever registered, when a worker last had it loaded, its pause and its live tasks."""
    return await db.rows(_SQL["workflows"])


async def set_canary(db: Database, workflow: str, version: int | None, percent: int | None, by: str) -> bool:
    """Let so many percent of new tasks take a version, and the others the one before it; None: whatever they name.

    False when there is none before it that runs in the same way, or nothing to undo.
    """
    params = {"workflow": workflow, "version": version, "percent": percent, "by": by}
    return bool((await db.row(_SQL["set_canary"], params))["done"])


async def pause(db: Database, scope: str, key: str, reason: str, by: str) -> int:
    """Let no task of a `tenant` or `workflow` start any more; how many left the windows. Raises NotFoundError."""
    return int((await db.row(_SQL["pause"], {"scope": scope, "key": key, "reason": reason, "by": by}))["waiting"])


async def resume(db: Database, scope: str, key: str, by: str) -> bool:
    """Undo that; False when it was not paused."""
    return bool((await db.row(_SQL["resume"], {"scope": scope, "key": key, "by": by}))["resumed"])
