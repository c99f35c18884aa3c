"""What 2.3 million card payments a day take of one box: the fraud review at its real pace and shape, BEATS beats long.

47 tick processes on a beat of 90 s, payments that come in evenly at the day's rate, a simulated model. The share counts
the CPU of ticks and Postgres against all cores; of it, starting 47 processes a beat is the same whatever they find.
"""

import json
import os
import subprocess
import sys
import tempfile

from benchmarks.bench import finish, say

A_DAY, DAY = 2_300_000, 86_400  # payments, seconds
PROCESSES, BEAT = 47, 90
BEATS = int(os.environ.get("BEATS", "4"))
DEAREST = 0.01  # USD a payment


def main() -> None:
    """Run the example, then price and weigh what it told."""
    seconds = BEATS * BEAT
    with tempfile.TemporaryDirectory(prefix="backbeat-bench-") as space:
        shape = {"transactions": A_DAY * seconds // DAY, "arrive": seconds, "processes": PROCESSES, "beat": BEAT}
        options = [part for name, value in shape.items() for part in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "examples.fraud_review.demo", *options, "--dir", f"{space}/fraud"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    say(**told)
    cores = os.cpu_count() or 1
    share = round(A_DAY * told["cpu_ms_per_transaction"] / 1000 / (cores * DAY), 4)
    cost = float(told["cost_usd_per_transaction"])
    figures = {
        "share_of_the_box": share,
        "cores": cores,
        "cpu_ms_per_transaction": told["cpu_ms_per_transaction"],
        "cpu_ms_postgres": told["cpu_ms_postgres"],
        "cost_usd_per_transaction": cost,
        "transactions_per_day": told["transactions_per_day"],
        "ticks": told["ticks"],
        "late_s": round(told["seconds"] - seconds, 1),
    }
    targets = [("cost_usd_per_transaction", cost, "<=", DEAREST), ("share_of_the_box", share, "<=", 1.0)]
    finish("day", figures, targets)


if __name__ == "__main__":
    main()
