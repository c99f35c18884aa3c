"""How many days what is over is kept; ticks remove the rest (`backbeat.retain`)."""

from typing import Any

from shared.db.pool import Database
from shared.db.queries import load

_SQL = load("retention", "backbeat.operate")


async def policies(db: Database) -> list[dict[str, Any]]:
    """Each policy with its days, who set them, and the oldest row there is."""
    return await db.rows(_SQL["policies"])


async def set_days(db: Database, policy: str, days: int, by: str) -> None:
    """Keep what `policy` names for so many days from now on. Needs the owner's login."""
    await db.rows(_SQL["set"], {"policy": policy, "days": days, "by": by})
