"""`make demo`: real commits reviewed on real engines, from an empty directory to a report, by itself.

Data goes to stdout and its last line is one JSON object; talk goes to stderr. Nothing leaves the machine unless
a vendor's key is in the environment. Exit codes: 0 all totals agree, 1 they do not, else as `backbeat` documents.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from backbeat.embedded import stack
from examples.code_review import fixture, interrupts, leftovers
from examples.code_review.approvers import IGNORED, IGNORED_DEADLINE
from examples.code_review.history import last_commits
from examples.code_review.models import Commit
from examples.code_review.run import DEFINITIONS, DemoRun, Options, talk
from examples.code_review.tally import Tally
from shared import clock
from shared.config import load
from shared.errors import BackbeatError

ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    try:
        result = _demo(_options(argv))
    except BackbeatError as error:
        talk.print(f"demo: {error}", style="red", markup=False, soft_wrap=True)
        return error.exit_code
    for problem in result.problems:
        talk.print(f"demo: {problem}", style="red", markup=False, soft_wrap=True)
    sys.stdout.write(result.totals.as_json() + "\n")
    return 1 if result.problems else 0


def _demo(options: Options) -> Tally:
    started = clock.monotonic()
    commits, notes = _commits(options)
    for note in notes:
        talk.print(f"note: {note}", markup=False, soft_wrap=True)
    with leftovers.alone(options.directory):
        leftovers.sweep(options.directory, _say)
        with leftovers.owned(options.directory, _say):
            return _on_a_stack(options, commits, started)


def _on_a_stack(options: Options, commits: list[Commit], started: float) -> Tally:
    engines = stack.CRON_ONLY if options.cron_only else stack.ALL
    info = stack.up(options.directory, engines=engines, latency=options.latency, log=_say)
    environment = {
        "BACKBEAT_CONFIG": str(info.config),
        "BACKBEAT_DEFINITIONS": DEFINITIONS,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    os.environ.update(environment)
    return asyncio.run(DemoRun(options, info, load(), environment, started).run(commits))


def _commits(options: Options) -> tuple[list[Commit], list[str]]:
    """The repository's last commits and the fixture's twelve, and what should be said about them."""
    notes: list[str] = []
    commits: list[Commit] = []
    if options.commits:
        try:
            chosen = last_commits(options.repo, options.commits)
            commits, notes = list(chosen.commits), list(chosen.notes)
        except BackbeatError as error:
            if options.repo != ROOT:
                raise
            notes.append(f"this checkout has no history ({error.what}): reviewing the fixture alone")
    known = last_commits(fixture.build(options.fixture), fixture.COMMITS)
    for commit in known.commits:
        short = commit.number == IGNORED and not options.interactive
        commits.append(commit.model_copy(update={"decide_within": IGNORED_DEADLINE}) if short else commit)
    return commits, notes


def _options(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--repo", type=Path, default=ROOT, help="the git repository to review (default: this one)")
    parser.add_argument("--commits", type=int, default=6, metavar="N", help="how many of its last commits (default 6)")
    parser.add_argument("--interactive", action="store_true", help="wait for you to approve or reject")
    parser.add_argument("--latency", default="0.2-2", help="seconds a simulated call takes, or `real` (default 0.2-2)")
    parser.add_argument("--dir", type=Path, default=Path("var"), help="where the data stays (default var)")
    parser.add_argument("--cron-only", action="store_true", help="Postgres alone: blocking reviews wait for a worker")
    given = parser.parse_args(argv)
    if given.commits < 0:
        parser.error("N is the number of commits: 0 or more")
    return Options(
        repo=given.repo,
        commits=given.commits,
        interactive=given.interactive,
        latency=given.latency,
        directory=given.dir.absolute(),
        cron_only=given.cron_only,
    )


def _say(line: str) -> None:
    if not interrupts.heard():
        talk.print(line, style="dim", markup=False, soft_wrap=True)
