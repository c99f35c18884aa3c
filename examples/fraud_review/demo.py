"""`make fraud-demo`: a day's card payments screened by rules, the doubtful judged by a model, the risky by people.

By default scaled down: 20,000 payments that are all there at once, 4 tick processes on a beat of 20 s. The real shape
is `--processes 47 --beat 90 --arrive S`. Data goes to stdout and its last line is one JSON object; talk goes to
stderr. Nothing leaves the machine unless a vendor's key is in the environment. Exit codes: 0 all totals agree, 1 they
do not, else as `backbeat` documents.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backbeat.embedded import stack
from examples.fraud_review.generator import transactions
from examples.fraud_review.report import report
from examples.fraud_review.run import Options, run, talk
from examples.fraud_review.tally import problems
from shared.config import load
from shared.errors import BackbeatError

ROOT = Path(__file__).resolve().parents[2]
CRON_ONLY = ("postgres", "provider")
ALL = (*CRON_ONLY, "temporal")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    try:
        found = _demo(_options(argv))
    except BackbeatError as error:
        talk.print(f"fraud-demo: {error}", style="red", markup=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 1 if found else 0


def _demo(options: Options) -> list[str]:
    """Run it, tell what came of it, return what is wrong."""
    made = transactions(options.transactions, options.seed)
    engines = CRON_ONLY if options.cron_only else ALL
    info = stack.up(options.directory, engines=engines, latency=options.latency, log=_say)
    try:
        environment = {
            "BACKBEAT_CONFIG": str(info.config),
            "BACKBEAT_DEFINITIONS": "examples.fraud_review.definitions",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        os.environ.update(environment)
        config = load()
        measured, seen = asyncio.run(run(options, info, config, environment, made))
        simulated = all(provider.simulated for provider in config.providers.values())
        words, figures = report(
            options, measured, seen, "simulated" if simulated else "+".join(sorted(config.providers))
        )
        found = list(problems(seen, decided=not options.cron_only))
        sys.stdout.write(words)
        sys.stdout.flush()
        for problem in found:
            talk.print(f"fraud-demo: {problem}", style="red", markup=False, soft_wrap=True)
    finally:
        if info.changed:
            stack.down(options.directory, log=_say)
    sys.stdout.write(json.dumps(figures) + "\n")
    return found


def _options(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="make fraud-demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--transactions", type=_at_least(int, 1), default=20_000, metavar="N", help="how many (default 20000)")
    add("--seed", type=int, default=1, help="another seed, another day (default 1)")
    add(
        "--processes",
        type=_at_least(int, 1),
        default=4,
        metavar="N",
        help="tick processes (default 4; really 47)",
    )
    add("--beat", type=_at_least(float, 0.5), default=20.0, metavar="S", help="seconds a beat (default 20; really 90)")
    add("--arrive", type=_at_least(float, 0.0), default=0.0, metavar="S", help="seconds they come in over (default 0)")
    add("--latency", default="0.2-2", help="seconds a simulated call takes, or `real` (default 0.2-2)")
    add("--dir", type=Path, default=Path("var/fraud"), help="where the data stays (default var/fraud)")
    add("--cron-only", action="store_true", help="Postgres alone: what is escalated waits for a Temporal worker")
    given = vars(parser.parse_args(argv))
    return Options(directory=given.pop("dir").absolute(), **given)


def _at_least(kind: Callable[[str], Any], least: float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"at least {least:g}")
        return value

    parse.__name__ = kind.__name__
    return parse


def _say(line: str) -> None:
    talk.print(line, style="dim", markup=False)


if __name__ == "__main__":
    sys.exit(main())
