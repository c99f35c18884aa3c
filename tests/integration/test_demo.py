"""`make demo` as a newcomer runs it: the whole product, twice, and then with a loss and a duplicate planted."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backbeat.clickhouse import session
from backbeat.embedded import stack
from backbeat.embedded.simulated.log import read
from shared.config import load

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one demo said."""

    code: int
    totals: dict[str, Any]
    stdout: str
    stderr: str


def run_demo(directory: Path, *arguments: str) -> Outcome:
    """Run the demo as a process of its own; no key of the surroundings reaches it."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
    command = [
        sys.executable,
        "-m",
        "examples.code_review",
        "--dir",
        str(directory),
        "--latency",
        "0-0.1",
        *arguments,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1:] or [""]
    totals = json.loads(last[0]) if last[0].startswith("{") else {}
    return Outcome(done.returncode, totals, done.stdout, done.stderr)


@pytest.mark.timeout(420)
@pytest.mark.xdist_group("demo")
def test_the_demo_adds_up_twice_and_sees_what_is_planted(tmp_path: Path) -> None:
    directory = tmp_path / "a directory with spaces" / "var"
    first = run_demo(directory, "--commits", "0")
    assert first.code == 0, first.stderr
    totals = first.totals
    assert totals["reviews"] == 12
    assert totals["escalated"] == 5
    assert (totals["approved"], totals["rejected"], totals["expired"]) == (3, 1, 1)
    assert totals["effects"] == 3 + 12 - 5
    assert totals["duplicate_effects"] == totals["llm_calls_lost"] == totals["spans_lost"] == 0
    assert totals["complete_traces"] == 12
    assert totals["llm_calls"] > 12
    assert totals["provider"] == "simulated"
    assert re.search(r"approval\.requested.*\n(.*approval\.voted.*\n)*.*approval\.decided", first.stdout), first.stdout
    assert not [line for line in stack.status(directory).engines if line.state != "stopped"]

    second = run_demo(directory, "--commits", "0")
    assert second.code == 0, second.stderr
    assert "12 commits, all reviewed by an earlier run: answered from stored results" in second.stderr
    assert "models: simulated, 0-0.1 s a call" in second.stderr
    calls = ("llm_calls", "input_tokens", "output_tokens")
    assert [second.totals[name] for name in calls] == [0, 0, 0]
    same = totals.keys() - {*calls, "cost_usd", "seconds"}
    assert {name: second.totals[name] for name in same} == {name: totals[name] for name in same}

    _plant(directory)
    third = run_demo(directory, "--commits", "0")
    assert third.code == 1
    assert third.totals["duplicate_effects"] == 1
    assert third.totals["spans_lost"] == 1
    assert third.totals["complete_traces"] == 11
    assert "posted twice" in third.stderr
    assert "did not arrive" in third.stderr


def _plant(directory: Path) -> None:
    """Post a review a second time, and take one leaf of a trace out of ClickHouse."""
    info = stack.up(directory)
    try:
        config = load({"BACKBEAT_CONFIG": str(info.config)})
        entry = next(read(info.request_log("recorder")))
        owner, repository, number = entry["pull"]
        body = {"body": entry["review"]["body"], "event": "COMMENT"}
        assert config.github_token_file
        request = urllib.request.Request(
            f"{config.github_api}/repos/{owner}/{repository}/pulls/{number}/reviews",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {config.github_token_file.read_text().strip()}"},
            method="POST",
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
        with session(config.clickhouse_url) as client:
            found = "SELECT SpanId FROM otel_traces WHERE SpanName LIKE 'chat %' ORDER BY SpanId LIMIT 1"
            span = client.query(found).result_rows[0][0]
            client.command(f"DELETE FROM otel_traces WHERE SpanId = '{span}'")
    finally:
        stack.down(directory)


def test_a_repository_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    outcome = run_demo(tmp_path / "var", "--repo", str(tmp_path / "nothing"))
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert outcome.stderr.count("\n") <= 3
    assert "nothing" in outcome.stderr
