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
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from backbeat import migrate
from backbeat.embedded import postgres, roles, stack
from shared.config import load

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


class Bench:
    """One server, and a database a contestant and round."""

    def __init__(self, directory: Path) -> None:
        info = stack.up(directory, engines=("postgres",))
        config = load({"BACKBEAT_CONFIG": str(info.config)})
        self._owner = config.direct_url or ""
        self._worker = config.database_url or ""
        (engine,) = [engine for engine in info.engines if engine.name == "postgres"]
        self._postmaster = engine.pid
        self._admin = postgres.dsn(directory / "postgres", engine.port)

    def run(self, name: str, processes: int, number: int) -> dict[str, float]:
        """One contestant's round, per task."""
        count = COUNT // SLOW if name in ("procrastinate", "ours_full") else COUNT
        database = f"bench_{name}_{processes}_{number}"
        with psycopg.connect(self._admin, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {database} OWNER {roles.OWNER}".encode())
        url = _elsewhere(self._owner, database)
        if name.startswith("ours"):
            migrate.postgres_up(url)
            url = _elsewhere(self._worker, database)
        told = {}
        for step, beside in (("enqueue", 1), ("drain", processes)):
            before = _server_cpu(self._postmaster)
            answers = _together([sys.executable, "-m", "benchmarks.contestants", name, step, url, str(count)], beside)
            told[f"{step}_per_s"] = count / max(answer["seconds"] for answer in answers)
            told[f"{step}_client_us"] = sum(answer["cpu"] for answer in answers) / count * 1e6
            told[f"{step}_server_us"] = (_server_cpu(self._postmaster) - before) / count * 1e6
        with psycopg.connect(self._admin, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())
        return told


def _elsewhere(url: str, database: str) -> str:
    return f"{url.rpartition('/')[0]}/{database}"


def _together(command: list[str], count: int) -> list[dict[str, float]]:
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    answers = []
    for process in running:
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{command[3:5]} ended with {process.returncode}")
        answers.append(json.loads(out.splitlines()[-1]))
    return answers


def _server_cpu(postmaster: int) -> float:
    """Seconds of the postmaster, of its children that have ended, and of those that live."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(entry.name) == postmaster:
                ticks += sum(int(field) for field in fields[11:15])
            elif int(fields[1]) == postmaster:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    rounds: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="backbeat-bench-") as space:
        directory = Path(space) / "var"
        bench = Bench(directory)
        try:
            for number in range(ROUNDS):
                for name, processes in RUNS:
                    told = bench.run(name, processes, number)
                    label = name if processes == 1 else f"{name} x {processes}"
                    rounds.setdefault(label, []).append(told)
                    print(
                        json.dumps({"round": number + 1, "queue": label, **{k: round(v, 1) for k, v in told.items()}})
                    )
        finally:
            stack.down(directory)
    figures = {
        label: {key: round(median(one[key] for one in told), 1) for key in told[0]} for label, told in rounds.items()
    }
    print(json.dumps(_verdict(figures)))


def _verdict(figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    ours = figures["ours"]["drain_per_s"]
    ratios = {
        f"drain_over_{name}": round(ours / figures[name]["drain_per_s"], 2)
        for name in ("pgqueuer", "procrastinate", "raw")
    }
    limits = [(f"{label} {key}", figures[label][key], op, target) for key, label, op, target in TARGETS]
    limits += [("drain_over_pgqueuer", ratios["drain_over_pgqueuer"], ">=", 1.5)]
    limits += [("drain_over_procrastinate", ratios["drain_over_procrastinate"], ">=", 25)]
    packages = ("psycopg", "pgqueuer", "procrastinate", "asyncpg")
    return {
        "bench": "queue",
        "load": os.getloadavg()[0],
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in packages}},
        "figures": {**figures, **ratios},
        "targets": {
            name: {"value": value, "op": op, "target": target, "met": value >= target}
            for name, value, op, target in limits
        },
    }


if __name__ == "__main__":
    main()
