"""`cron-worker tick`: what a crontab line, a systemd timer or a CronJob starts.

Exit codes: 0 done, 1 failed, 2 wrong usage or definitions, 70 a task would not end, 75 Postgres is away: try again.
"""

import argparse
import asyncio
import gc
import logging
import signal
import sys
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, NoReturn

from shared.config import Config, load
from shared.errors import EXIT_USAGE, BackbeatError

if TYPE_CHECKING:
    from cron_worker.limits import Limits, Report
    from cron_worker.watchdog import Watchdog

LONGEST = 604_800.0  # seconds that a flag may name
_SUFFIXES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    # A tick lives for seconds: collecting cycles while modules load costs more than it frees.
    gc.disable()
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="cron-worker: %(message)s")
    for noisy in ("httpx2", "httpx", "psycopg.pool"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        return asyncio.run(_run(load(), arguments))
    except BackbeatError as error:
        sys.stderr.write(f"cron-worker: {' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


async def _run(config: Config, arguments: argparse.Namespace) -> int:
    from cron_worker.limits import Limits
    from cron_worker.watchdog import LEAVING, Watchdog

    gc.freeze()
    gc.enable()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    limits = Limits(**{one.name: getattr(arguments, one.name) for one in fields(Limits)})
    watchdog = Watchdog()
    try:
        return await _beat(config, limits, arguments.every, stop, watchdog)
    finally:
        watchdog.arm(LEAVING)


async def _beat(
    config: Config, limits: "Limits", every: float | None, stop: asyncio.Event, watchdog: "Watchdog"
) -> int:
    """One tick, or with `every` one after the other until `stop`."""
    from cron_worker.tick import tick
    from cron_worker.watchdog import LATE, leave
    from shared import clock

    while True:
        started = clock.monotonic()
        watchdog.arm(limits.budget + limits.grace + LATE)
        try:
            report = await tick(config, limits, stop)
        except BackbeatError as error:
            if not every or error.exit_code != 75:
                raise
            sys.stderr.write(f"cron-worker: {error}\n")
        else:
            _tell(report, clock.monotonic() - started)
            if report.hanging:
                leave(f"past its end and cancelled, a task still hangs: {', '.join(report.hanging)}")
        if config.metrics_textfile:  # by a process of its own, so that a tick imports nothing of what it takes
            figures = "-m", "backbeat", "metrics", "--textfile", str(config.metrics_textfile)
            writing = await asyncio.create_subprocess_exec(sys.executable, *figures)
            await asyncio.wait([ended := asyncio.create_task(writing.wait())], timeout=LATE / 2)
            if writing.returncode is None:
                writing.kill()
            await asyncio.wait([ended], timeout=LATE / 4)  # what waits for a dead disk is not ended by this, either
        watchdog.disarm()
        if every:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(every - (clock.monotonic() - started), 0.0))
        if not every or stop.is_set():
            return 0


def _tell(report: "Report", took: float) -> None:
    if report.stopped:
        logging.warning("stopped by `backbeat stop --all`: %s", report.stopped)
    if any(counts := (report.claimed, report.settled, report.refused, report.recovered)):
        logging.info("claimed %d, settled %d, refused %d, recovered %d in %.1f s", *counts, took)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for everything else that is wrong."""
        self.exit(EXIT_USAGE, f"cron-worker: {message}. See `{self.prog} --help`\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="cron-worker", description="Drains simple_tasks, one bounded tick at a time.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="tick")
    tick = commands.add_parser("tick", help="claim tasks, run them, settle them, exit")
    tick.add_argument("--budget", type=seconds, default=50.0, metavar="50s", help="start no call after this long")
    tick.add_argument("--grace", type=seconds, default=30.0, metavar="30s", help="then let calls end for this long")
    tick.add_argument("--max-tasks", type=positive, metavar="N", help="claim at most N tasks")
    tick.add_argument("--concurrency", type=positive, default=16, metavar="16", help="attempts under way at once")
    tick.add_argument("--lease", type=seconds, default=60.0, metavar="60s", help="free a silent worker's rows after")
    tick.add_argument("--every", type=seconds, metavar="10s", help="do not exit: tick again at this interval")
    return parser


def seconds(text: str) -> float:
    """A duration such as 50, 50s, 500ms, 2m. Raises ArgumentTypeError."""
    digits = text.rstrip("smh")
    try:
        value = float(digits) * _SUFFIXES[text[len(digits) :] or "s"]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration (50, 50s, 500ms, 2m)") from None
    if not 0 < value <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration between 0 and a week")
    return value


def positive(text: str) -> int:
    """A whole number of at least 1. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
