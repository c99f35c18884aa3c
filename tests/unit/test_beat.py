"""Ticks one after the other, and what each leaves behind."""

import asyncio
import gc
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from cron_worker import __main__ as beat
from cron_worker import tick, watchdog
from cron_worker.limits import Limits, Report
from shared.config import Config


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each tick that began, with its budget; the third is the last."""
    began: list[float] = []

    async def ticked(config: Config, limits: Limits, stop: asyncio.Event) -> Report:
        began.append(limits.budget)
        if len(began) == 3:
            stop.set()
        return Report()

    monkeypatch.setattr(tick, "tick", ticked)
    return began


async def _beat(every: float | None, **settings: Any) -> int:
    guard = watchdog.Watchdog()
    try:
        return await beat._beat(Config(**settings), Limits(budget=1.0), every, asyncio.Event(), guard)
    finally:
        guard.disarm()


@pytest.mark.parametrize(("every", "times"), [(None, 1), (0.001, 3)])
async def test_it_ticks_once_or_until_it_is_told_to_stop(ticks: list[float], every: float | None, times: int) -> None:
    assert await _beat(every) == 0
    assert ticks == [1.0] * times


def test_a_process_that_writes_figures_and_hangs_is_ended(
    ticks: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hanging, made = tmp_path / "hanging", []
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(hanging))
    start = asyncio.create_subprocess_exec

    async def started(*words: str) -> asyncio.subprocess.Process:
        made.append(await start(*words))
        return made[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", started)
    monkeypatch.setattr(watchdog, "LATE", 1.0)
    assert asyncio.run(_beat(None, metrics_textfile=tmp_path / "backbeat.prom")) == 0
    assert [one.returncode for one in made] == [-signal.SIGKILL]
    made.clear()
    gc.collect()  # what is not closed would be told in another test
