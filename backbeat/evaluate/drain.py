"""The tasks of an evaluation through the real queue: enqueued, drained by `cron-worker`, read back."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from backbeat.producer.submit import submit
from shared import clock
from shared.db import queue
from shared.db.pool import Database
from shared.db.queries import load
from shared.definitions import Definition
from shared.errors import UnavailableError
from shared.telemetry.spans import Telemetry

_SQL = load("evaluate", "backbeat.operate")
_MODULE = "backbeat_evaluation"
_PAUSE = 0.5  # seconds between ticks that found nothing to do


async def enqueue(
    db: Database, telemetry: Telemetry, definition: Definition, payloads: Sequence[Any], salt: str, within: float
) -> list[UUID]:
    """A task a case, in order, equal ones too. One that has not begun after `within` seconds expires."""
    added: list[UUID] = []
    ends = clock.wall() + timedelta(seconds=within)
    for n, payload in enumerate(payloads):
        made = await submit(db, telemetry, definition, [payload], salt=f"{salt}:{n}", expires_at=ends)
        added += [one.task_id for one in made]
    return added


async def drained(
    db: Database, ids: Sequence[UUID], source: tuple[Any, ...], within: float, tell: Callable[[str], object]
) -> dict[UUID, dict[str, Any]]:
    """Run ticks until no task of `ids` is left, or `within` seconds; then end those that wait, and say how each stands.

    The ticks load the module that `source` describes and nothing else, so they leave other tasks to other workers.
    Raises UnavailableError when a tick fails.
    """
    until = clock.monotonic() + within
    with TemporaryDirectory(prefix="backbeat-eval-") as home:
        text = f"from backbeat.evaluate.variants import module\nglobals().update(module(*{source!r}))\n"
        (Path(home) / f"{_MODULE}.py").write_text(text, encoding="utf-8")
        path = os.pathsep.join([home, *(place or str(Path.cwd()) for place in sys.path)])
        environ = {**os.environ, "BACKBEAT_DEFINITIONS": _MODULE, "PYTHONPATH": path}
        while (left := (await db.row(_SQL["open"], {"ids": list(ids)}))["tasks"]) and clock.monotonic() < until:
            tell(f"{len(ids) - left} of {len(ids)} answered")
            budget = max(min(50.0, until - clock.monotonic()), 1.0)
            words = ("-m", "cron_worker", "tick", "--budget", f"{budget:.0f}s")
            tick = await asyncio.create_subprocess_exec(
                sys.executable, *words, env=environ, stderr=asyncio.subprocess.PIPE
            )
            _, said = await tick.communicate()
            if tick.returncode:
                last = said.decode("utf-8", "replace").strip().splitlines()[-1:]
                raise UnavailableError(f"a tick ended with {tick.returncode}: {''.join(last)}", fix="Try again")
            await clock.sleep(_PAUSE)
    if left:
        await queue.sweep(db)
    return {row["id"]: row for row in await db.rows(_SQL["ended"], {"ids": list(ids)})}
