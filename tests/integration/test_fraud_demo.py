"""`make fraud-demo` small: every payment ends once, every cent is accounted for, and what is planted turns it red."""

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backbeat.embedded import stack
from backbeat.embedded.simulated.log import read
from examples.fraud_review.demo import ALL
from shared.config import load

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--transactions", "600", "--processes", "2", "--beat", "4", "--latency", "0-0.1", "--seed", "33")


def run_demo(directory: Path) -> tuple[int, dict[str, Any], str]:
    """Run the demo as a process of its own; no key of the surroundings reaches it."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
    command = [sys.executable, "-m", "examples.fraud_review.demo", "--dir", str(directory), *SMALL]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def dollars(log: Path) -> Decimal:
    """The bill of the provider's log, at a dollar a million tokens in and five out: a small model without a cache."""
    usages = [entry["usage"] for entry in read(log) if entry["event"] == "end" and entry["billed"]]
    assert not any(usage["cache_read"] or usage["cache_write"] for usage in usages)
    return sum((Decimal(usage["uncached"] + 5 * usage["output"]) / 1_000_000 for usage in usages), Decimal())


@pytest.mark.timeout(180)
@pytest.mark.xdist_group("fraud-demo")
def test_the_demo_adds_up_and_sees_what_is_planted(tmp_path: Path) -> None:
    info = stack.up(tmp_path, engines=ALL, latency="0-0.1")
    try:
        code, found, said = run_demo(tmp_path)
        assert code == 0, said
        assert found["transactions"] == found["screened"] == 600
        assert found["planted"] == found["found"] + found["missed"]
        assert found["approved"] == found["blocked"] == found["found"] > 0
        assert found["rejected"] == found["false_alarms"] > 0
        assert found["blocked_twice"] == 0
        assert found["judged"] == found["llm_calls"] >= found["escalated"]
        assert found["provider"] == "simulated"
        assert Decimal(found["cost_usd"]) == dollars(info.request_log("provider"))
        assert 0 < Decimal(found["cost_usd_per_transaction"]) < Decimal("0.01")

        _plant(info, tmp_path / "issuer" / "blocks.jsonl")
        code, second, said = run_demo(tmp_path)
        assert code == 1
        assert second["screened"] == 600
        assert second["judged"] == found["judged"] - 1
        assert second["blocked_twice"] == 1
        assert "1 payment(s) were never judged" in said
        assert "1 payment(s) were blocked twice" in said
        assert "adds up to" in said
    finally:
        stack.down(tmp_path)


def _plant(info: stack.StackInfo, blocks: Path) -> None:
    """Lose a judgement, halve what the ledger says of another one's call, block one payment twice."""
    config = load({"BACKBEAT_CONFIG": str(info.config)})
    one = "(SELECT id FROM backbeat.finished_tasks WHERE workflow = 'judge' AND status = %s ORDER BY id LIMIT 1)"
    with psycopg.connect(config.direct_url, autocommit=True) as owner:
        owner.execute(f"DELETE FROM backbeat.finished_tasks WHERE id = {one}", ["succeeded"])
        owner.execute(f"UPDATE backbeat.model_calls SET cost_usd = cost_usd / 2 WHERE owner = {one}", ["escalated"])
    with blocks.open("a", encoding="utf-8") as log:
        log.write(json.dumps(next(read(blocks))) + "\n")
