"""What a beat costs when the queue is empty: CPU of a whole `cron-worker tick` process, start to exit.

The peer in the same interleaved run is the least that any worker on this driver does: a Python process that
imports psycopg, connects and asks one question. DESIGN's limit is 0.25 s of CPU.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median

from backbeat.embedded import stack
from shared.config import load

ROUNDS = 15
LIMIT = 0.25  # seconds of CPU
PEER = "import psycopg, sys; psycopg.connect(sys.argv[1]).execute('SELECT 1').fetchall()"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="backbeat-bench-") as space:
        directory = Path(space) / "var"
        info = stack.up(directory, engines=("postgres",))
        try:
            url = load({"BACKBEAT_CONFIG": str(info.config)}).database_url
            environment = {**os.environ, "BACKBEAT_CONFIG": str(info.config)}
            ticks, peers = [], []
            for number in range(ROUNDS + 1):
                tick = _cpu([sys.executable, "-m", "cron_worker", "tick"], environment)
                peer = _cpu([sys.executable, "-c", PEER, url], environment)
                if number:  # the first round fills caches
                    ticks.append(tick)
                    peers.append(peer)
                    print(json.dumps({"round": number, "tick_cpu_s": round(tick, 4), "peer_cpu_s": round(peer, 4)}))
        finally:
            stack.down(directory)
    value = round(median(ticks), 4)
    figures = {"tick_cpu_s": value, "peer_cpu_s": round(median(peers), 4), "ratio": round(value / median(peers), 2)}
    print(
        json.dumps(
            {
                "bench": "empty_tick",
                "load": os.getloadavg()[0],
                "versions": {"python": sys.version.split()[0], "psycopg": version("psycopg")},
                "figures": figures,
                "targets": {"tick_cpu_s": {"value": value, "op": "<=", "target": LIMIT, "met": value <= LIMIT}},
            }
        )
    )


def _cpu(command: list[str], environment: dict[str, str]) -> float:
    """User and system seconds of one process and what it waited for."""
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[:4]} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
