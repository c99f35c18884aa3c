"""Tasks that do not end: one swallows its cancellation, one blocks the event loop, one never gives up the interpreter.

`python -m tests.support.stubborn tick …` is `cron-worker` with little patience.
"""

import asyncio
import re
import sys
import time
from typing import Any

from pydantic import BaseModel

from backbeat import Context, bounded_loop


class Wish(BaseModel):
    how: str


async def _run(_ctx: Context, wish: Wish) -> Wish:
    match wish.how:
        case "swallow":
            await _endless()
        case "shield":
            await asyncio.shield(asyncio.ensure_future(_endless()))
        case "block":
            time.sleep(600)  # noqa: ASYNC251  that is the fault
        case "seize":
            re.match(r"(a+)+$", "a" * 200 + "b")
    return wish


async def _endless() -> Any:
    while True:
        try:
            await asyncio.sleep(0.05)
        except BaseException:
            continue


stubborn = bounded_loop("stubborn", version=1, input=Wish, output=Wish, tier="small", run=_run)

if __name__ == "__main__":
    from cron_worker import execute, watchdog
    from cron_worker.__main__ import main

    execute.LAST_WORDS = execute.PATIENCE = 0.2
    watchdog.LATE = watchdog.LEAVING = 1.5
    sys.exit(main())
