"""`cron-worker tick`: what a crontab line, a systemd timer or a CronJob starts.

Exit codes: 0 done, 1 failed, 2 wrong usage or definitions, 75 Postgres is away (try again at the next beat).
"""

import argparse
import asyncio
import gc
import logging
import signal
import sys

from shared.config import Config, load
from shared.errors import BackbeatError

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
        sys.stderr.write(f"cron-worker: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


async def _run(config: Config, arguments: argparse.Namespace) -> int:
    from cron_worker.tick import Limits, tick
    from shared import clock

    gc.freeze()
    gc.enable()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    limits = Limits(
        budget=arguments.budget,
        grace=arguments.grace,
        max_tasks=arguments.max_tasks,
        concurrency=arguments.concurrency,
        lease=arguments.lease,
    )
    while True:
        started = clock.monotonic()
        try:
            report = await tick(config, limits, stop)
        except BackbeatError as error:
            if not arguments.every or error.exit_code != 75:
                raise
            sys.stderr.write(f"cron-worker: {error}\n")
        else:
            if report.stopped:
                logging.warning("stopped by `backbeat stop --all`: %s", report.stopped)
            if report.claimed or report.recovered:
                logging.info(
                    "claimed %d, settled %d, refused %d, recovered %d in %.1f s",
                    *(report.claimed, report.settled, report.refused, report.recovered, clock.monotonic() - started),
                )
        if not arguments.every or stop.is_set():
            return 0
        pause = max(arguments.every - (clock.monotonic() - started), 0.0)
        try:
            await asyncio.wait_for(stop.wait(), pause)
        except TimeoutError:
            continue
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cron-worker", description="Drains simple_tasks, one bounded tick at a time.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="tick")
    tick = commands.add_parser("tick", help="claim tasks, run them, settle them, exit")
    tick.add_argument("--budget", type=seconds, default=50.0, metavar="50s", help="start no call after this long")
    tick.add_argument("--grace", type=seconds, default=30.0, metavar="30s", help="then let calls end for this long")
    tick.add_argument("--max-tasks", type=positive, metavar="N", help="claim at most N tasks")
    tick.add_argument("--concurrency", type=positive, default=16, metavar="16", help="attempts under way at once")
    tick.add_argument(
        "--lease", type=seconds, default=60.0, metavar="60s", help="a silent worker's rows are free after"
    )
    tick.add_argument("--every", type=seconds, metavar="10s", help="do not exit: tick again at this interval")
    return parser


def seconds(text: str) -> float:
    """A duration such as 50, 50s, 500ms, 2m. Raises ArgumentTypeError."""
    digits = text.rstrip("smh")
    try:
        value = float(digits) * _SUFFIXES[text[len(digits) :] or "s"]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration (50, 50s, 500ms, 2m)") from None
    if value <= 0:
        raise argparse.ArgumentTypeError("a duration must be positive")
    return value


def positive(text: str) -> int:
    """A whole number of at least 1. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
