"""Letting nothing of a tenant, a workflow or a route start, and lifting that: the same door for all three."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from backbeat.cli.output import database, os_user, run_async

if TYPE_CHECKING:
    from shared.db.pool import Database

T = TypeVar("T")


def with_database(ask: "Callable[[Database], Coroutine[Any, Any, T]]", *, operator: bool = True) -> T:
    """Ask one thing of Postgres, by an operator's login unless it only reads."""

    async def main() -> T:
        from shared.config import load

        async with database(load(), operator=operator) as db:
            return await ask(db)

    return run_async(main())


def pause(scope: str, name: str, reason: str) -> int:
    """How many tasks that makes wait at once. Raises NotFoundError."""
    from backbeat.operate import tenants

    return with_database(lambda db: tenants.pause(db, scope, name, reason, os_user()))


def resume(scope: str, name: str, said: str = "paused") -> None:
    """Raises ConflictError when it was not `said`."""
    from backbeat.operate import tenants
    from shared.errors import ConflictError

    if not with_database(lambda db: tenants.resume(db, scope, name, os_user())):
        listing = "definitions" if scope == "workflow" else "list"
        raise ConflictError(f"{scope} {name!r} is not {said}", fix=f"`backbeat {scope} {listing}` shows which are")
