"""Large payloads whose workflows are gone: the files of `payload_dir` that no history refers to any more."""

import asyncio
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

from backbeat.operate.runs import position
from shared import clock
from shared.config import Config
from shared.db.pool import Database
from shared.db.queries import load
from shared.errors import NotFoundError

_SQL = load("runs", "backbeat.operate")


@dataclass(frozen=True, slots=True)
class Gone:
    """A workflow that nobody knows any more, and how many bytes it left behind."""

    temporal_id: str
    size: int


async def clean(db: Database, config: Config, directory: Path, idle: timedelta, *, dry: bool = False) -> list[Gone]:
    """Remove what workflows left that Temporal has forgotten and Postgres does not count as open.

    A workflow whose newest file is younger than `idle` may be about to start, and is not asked about. Raises
    UnavailableError when Temporal does not answer, having removed nothing of the workflow it asked about.
    """
    found = []
    for home, gone in await asyncio.to_thread(_idle, directory, idle):
        if await _known(db, config, gone.temporal_id):
            continue
        if not dry:
            await asyncio.to_thread(shutil.rmtree, home)
        found.append(gone)
    return found


def _idle(directory: Path, idle: timedelta) -> list[tuple[Path, Gone]]:
    """Directories of workflows in which nothing was written lately."""
    found = []
    for home in sorted(path for path in directory.iterdir() if path.is_dir() and path.name != "-"):
        files = [file.stat() for file in home.iterdir()]
        newest = max([home.stat().st_mtime, *(file.st_mtime for file in files)])
        if clock.wall().timestamp() - newest >= idle.total_seconds():
            found.append((home, Gone(unquote(home.name), sum(file.st_size for file in files))))
    return found


async def _known(db: Database, config: Config, name: str) -> bool:
    if await db.rows(_SQL["open"], {"temporal_id": name}):
        return True
    try:
        await position(config, name)
    except NotFoundError:
        return False
    return True
