"""The whole demo while its engines and its worker are killed under it, one after another: the totals stay the same."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from backbeat.embedded import stack
from shared.config import load
from shared.errors import BackbeatError

ROOT = Path(__file__).resolve().parents[2]
# The demo, with a deadline that leaves time for four kills.
LONGER = """
import sys
from examples.code_review import demo
demo.IGNORED_DEADLINE = 60
sys.exit(demo.main())
"""
SAME = {
    "reviews": 12,
    "escalated": 5,
    "approved": 3,
    "rejected": 1,
    "expired": 1,
    "effects": 10,
    "duplicate_effects": 0,
    "spans_lost": 0,
    "complete_traces": 12,
}


@pytest.mark.timeout(420)
@pytest.mark.xdist_group("demo")
def test_totals_survive_kills_of_everything(tmp_path: Path, seed: int) -> None:
    directory = tmp_path / "var"
    command = [sys.executable, "-c", LONGER, "--dir", str(directory), "--commits", "0"]
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
    demo = subprocess.Popen(
        [*command, "--latency", "0.2-0.6"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _until(demo, lambda: _count(directory, "finished_tasks") >= 1, "the first review is done")
    dice, victims = random.Random(seed), ["postgres", "temporal", "worker"]
    dice.shuffle(victims)
    victims.insert(dice.randrange(2), "clickhouse")  # early: the demo ends with questions to it
    for victim in victims:
        if victim == "worker":
            os.kill(_temporal_worker(demo.pid), signal.SIGKILL)
        else:
            stack.kill(directory, victim)
            stack.restart(directory, victim)
        _until(demo, partial(_works_again, directory, _count(directory, "ticks")), f"a beat after {victim}")
    stdout, stderr = demo.communicate(timeout=300)
    assert demo.returncode == 0, stderr.decode()
    totals = json.loads(stdout.decode().strip().splitlines()[-1])
    assert {name: totals[name] for name in SAME} == SAME, victims


def _until(demo: subprocess.Popen[bytes], ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert demo.poll() is None, f"the demo ended before {what}: {demo.communicate()[1].decode()}"
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.1)


def _count(directory: Path, table: str) -> int:
    try:
        url = load({"BACKBEAT_CONFIG": str(directory / "backbeat.toml")}).database_url
        with psycopg.connect(url, connect_timeout=2) as connection:
            query = sql.SQL("SELECT count(*) FROM backbeat.{}").format(sql.Identifier(table))
            return int(connection.execute(query).fetchall()[0][0])
    except (psycopg.Error, BackbeatError):
        return 0


def _works_again(directory: Path, ticks: int) -> bool:
    return _count(directory, "ticks") > ticks or _count(directory, "finished_tasks") == SAME["reviews"]


def _temporal_worker(parent: int) -> int:
    """The child of the demo that runs the Temporal worker."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with contextlib.suppress(OSError):  # ticks come and go
            if b"temporal_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("the demo runs no Temporal worker")
