"""What a task costs in the queue, beside procrastinate, pgqueuer and what psycopg can do at all.

Every round enqueues and drains no-op tasks once with each contestant, one after the other, each in a database of its
own on one server with fsync on. Wall time and CPU of the client's and the server's processes are medians over rounds.
`ours` is a bulk definition without idempotency keys; `ours_keyed` has them; `ours_full` takes one row an attempt, with
keys, whole history and a handler's call each. Fairness and fences are always on. `x 2` is two processes side by side.
"""

import json
import os
import subprocess
import sys
from statistics import median

from benchmarks.bench import Server, Target, finish, say, server

ROUNDS = int(os.environ.get("ROUNDS", "3"))
COUNT = int(os.environ.get("COUNT", "20000"))
SLOW = 10  # procrastinate and single rows get a tenth of the tasks: they take a tenth of the rate
RUNS = (
    ("ours", 1),
    ("ours", 2),
    ("ours_keyed", 1),
    ("ours_full", 1),
    ("raw", 1),
    ("pgqueuer", 1),
    ("procrastinate", 1),
)
TARGETS = (
    ("drain_per_s", "ours", ">=", 20_000),
    ("enqueue_per_s", "ours", ">=", 60_000),
    ("enqueue_per_s", "ours_keyed", ">=", 40_000),
)


def _round(at: Server, name: str, processes: int, number: int) -> dict[str, float]:
    """One contestant in a database of its own, per task."""
    count = COUNT // SLOW if name in ("procrastinate", "ours_full") else COUNT
    database = f"bench_{name}_{processes}_{number}"
    ours = name.startswith("ours")
    owner, worker = at.database(database, migrated=ours)
    url = worker if ours else owner
    told = {}
    for step, beside in (("enqueue", 1), ("drain", processes)):
        before = at.cpu()
        answers = _together([sys.executable, "-m", "benchmarks.contestants", name, step, url, str(count)], beside)
        told[f"{step}_per_s"] = count / max(answer["seconds"] for answer in answers)
        told[f"{step}_client_us"] = sum(answer["cpu"] for answer in answers) / count * 1e6
        told[f"{step}_server_us"] = (at.cpu() - before) / count * 1e6
    at.drop(database)
    return told


def _together(command: list[str], count: int) -> list[dict[str, float]]:
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    answers = []
    for process in running:
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{command[3:5]} ended with {process.returncode}")
        answers.append(json.loads(out.splitlines()[-1]))
    return answers


def main() -> None:
    """Measure and print."""
    rounds: dict[str, list[dict[str, float]]] = {}
    with server() as at:
        for number in range(ROUNDS):
            for name, processes in RUNS:
                told = _round(at, name, processes, number)
                label = name if processes == 1 else f"{name} x {processes}"
                rounds.setdefault(label, []).append(told)
                say(round=number + 1, queue=label, **told)
    figures: dict[str, dict[str, float]] = {
        label: {key: round(median(one[key] for one in told), 1) for key in told[0]} for label, told in rounds.items()
    }
    ours = figures["ours"]["drain_per_s"]
    ratios = {
        f"drain_over_{name}": round(ours / figures[name]["drain_per_s"], 2)
        for name in ("pgqueuer", "procrastinate", "raw")
    }
    limits: list[Target] = [(f"{label} {key}", figures[label][key], op, limit) for key, label, op, limit in TARGETS]
    limits += [("drain_over_pgqueuer", ratios["drain_over_pgqueuer"], ">=", 1.5)]
    limits += [("drain_over_procrastinate", ratios["drain_over_procrastinate"], ">=", 25)]
    finish("queue", {**figures, **ratios}, limits, "pgqueuer", "procrastinate", "asyncpg")


if __name__ == "__main__":
    main()
