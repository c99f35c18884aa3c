"""A definition module for worker processes: the effect `note` appends a line to a file (a simulated far side).

BACKBEAT_TEST_NOTES names the file; while `<file>.hang` exists, a write happens and its answer never comes; while the
pipe `<file>.slow` exists, which must be there before the worker, the answer comes when somebody reads it.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

from backbeat import effect


def _file() -> Path:
    return Path(os.environ["BACKBEAT_TEST_NOTES"])


async def _write(request: dict[str, Any], key: str) -> dict[str, Any]:
    with _file().open("a", encoding="utf-8") as notes:
        notes.write(f"{key}\n")
    if _file().with_suffix(".hang").exists():
        await asyncio.Event().wait()
    if (slow := _file().with_suffix(".slow")).exists():
        await asyncio.to_thread(slow.write_text, "go on")
    return {"noted": key}


async def _look(request: dict[str, Any], key: str) -> dict[str, Any] | None:
    return {"noted": key} if _file().exists() and key in _file().read_text(encoding="utf-8").split() else None


# Whoever holds the answer back by the pipe, which is there first, takes as long as it likes.
_PATIENCE = 60.0 if Path(os.environ.get("BACKBEAT_TEST_NOTES", "none")).with_suffix(".slow").exists() else 2.0
note = effect("note", perform=_write, read_back=_look, timeout=_PATIENCE, settle=1.0)
