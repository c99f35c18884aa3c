"""What a beat costs when the queue is empty: CPU of a whole `cron-worker tick` process, start to exit.

The peer in the same interleaved run is the least that any worker on this driver does: a Python process that
imports psycopg, connects and asks one question. DESIGN's limit is 0.25 s of CPU.
"""

import os
import subprocess
import sys
from statistics import median

from benchmarks.bench import finish, say, server

ROUNDS = 15
LIMIT = 0.25  # seconds of CPU
PEER = "import psycopg, sys; psycopg.connect(sys.argv[1]).execute('SELECT 1').fetchall()"


def main() -> None:
    """Measure and print."""
    ticks, peers = [], []
    with server() as at:
        environment = {**os.environ, "BACKBEAT_CONFIG": str(at.config)}
        for number in range(ROUNDS + 1):
            tick = _cpu([sys.executable, "-m", "cron_worker", "tick"], environment)
            peer = _cpu([sys.executable, "-c", PEER, at.worker], environment)
            if number:  # the first round fills caches
                ticks.append(tick)
                peers.append(peer)
                say(round=number, tick_cpu_s=tick, peer_cpu_s=peer)
    value = round(median(ticks), 4)
    figures = {"tick_cpu_s": value, "peer_cpu_s": round(median(peers), 4), "ratio": round(value / median(peers), 2)}
    finish("empty_tick", figures, [("tick_cpu_s", value, "<=", LIMIT)])


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
