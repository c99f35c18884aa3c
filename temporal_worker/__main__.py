"""`temporal-worker run`: the long-lived half, for what waits hours or days.

Exit codes: 0 stopped by a signal, 1 failed, 2 wrong usage, settings or definitions.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys

from shared.config import load
from shared.errors import BackbeatError


def main(argv: list[str] | None = None) -> int:
    """Run the command line; ends the process when it worked, returns the exit code when it could not."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="temporal-worker: %(message)s")
    for noisy in ("httpx2", "httpx", "psycopg.pool", "temporalio.worker"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        asyncio.run(_run(arguments))
    except BackbeatError as error:
        sys.stderr.write(f"temporal-worker: {error}\n")
        return error.exit_code
    # Threads of the SDK's core may still be calling into Python: an ordinary exit then crashes, one time in twenty.
    logging.shutdown()
    os._exit(0)


async def _run(arguments: argparse.Namespace) -> None:
    from temporal_worker.worker import Options, run

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(load(), Options(arguments.task_queue, arguments.build_id, arguments.region, arguments.metrics), stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="temporal-worker", description="Runs orchestrated workflows and approvals.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="run")
    run = commands.add_parser("run", help="work until SIGTERM")
    run.add_argument("--task-queue", default="backbeat", metavar="backbeat", help="Temporal task queue to serve")
    run.add_argument("--region", metavar="NAME", help="do the calls and writes of one region, and nothing else")
    run.add_argument(
        "--build-id", metavar="ID", help="pin workflows to this release (needs a current version set in Temporal)"
    )
    run.add_argument("--metrics", default="", metavar="HOST:PORT", help="serve the SDK's metrics for Prometheus there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
