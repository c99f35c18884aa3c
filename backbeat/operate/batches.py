"""Vendors' batches, as people see them, and what a person says where the machine cannot know."""

from typing import Any

from backbeat.operate.actions import do
from shared.db.pool import Database
from shared.db.queries import load
from shared.errors import ConflictError, InputError, NotFoundError

_SQL = load("batches", "backbeat.operate")
SHORTEST = 8  # characters of a tag that may stand for it
Row = dict[str, Any]


async def listing(db: Database, limit: int, *, everything: bool) -> list[Row]:
    """The batches under way, or all of them, the newest first."""
    return await db.rows(_SQL["listing"], {"all": everything, "limit": limit})


async def waiting(db: Database) -> list[Row]:
    """The calls that wait for a batch, by route."""
    return await db.rows(_SQL["waiting"])


async def resolve(db: Database, tag: str, word: str, vendor_id: str | None, by: str) -> str:
    """Say of a batch that it was found, unsent or is lost, or cancel it; returns its whole tag.

    Raises NotFoundError, InputError when the tag may be several, ConflictError when it does not stand like that.
    """
    rows = await db.rows(_SQL["matching"], {"tag": tag}) if len(tag) >= SHORTEST else []
    if len(rows) > 1:
        raise InputError(f"{tag} may be any of {len(rows)} batches", fix="Give more of it")
    if not rows:
        raise NotFoundError(f"there is no batch {tag}", fix="`backbeat batch list --all` shows them")
    whole, status = rows[0]["tag"], {"found": "submitted", "unsent": "ended", "lost": "lost", "cancel": None}[word]
    said = {"tag": whole, "status": status, "vendor_id": vendor_id, "by": by}
    if not await do(db, _SQL["resolve"], said):
        fix = {
            "unsure": "Say what became of it: `backbeat batch resolve`",
            "ended": "Its calls are closed",
            "lost": "`backbeat budget reconcile` says what a lost call did cost",
        }.get(rows[0]["status"], "The next tick looks after it; or `backbeat batch cancel`")
        raise ConflictError(f"batch {whole} is {rows[0]['status']}", fix=fix)
    return str(whole)
