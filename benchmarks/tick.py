"""What a tick makes of its minute, with real SDKs: slots kept busy, calls a second and a day, CPU and memory.

The far side (benchmarks/calls/far_side.py) answers the same after a set time, with as little work as can be. In turns:

    slots    one tick of 50 s with 30 s of grace, answers after 20 s; and one whose answers never come
    cpu      two ticks, more calls than two cores bear, against two bare asyncio loops over the same SDK
    day      a tick a minute, answers after 10 s, and beside it the article's serial worker

SHORT=1 takes the times smaller, to see that it runs: its figures say nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

import psycopg
from psycopg.types.json import Jsonb

from benchmarks.bench import Server, finish, say, server
from benchmarks.calls.definitions import triage
from shared.db.queries import load

SHORT = bool(os.environ.get("SHORT"))
ROUNDS = int(os.environ.get("ROUNDS", "1" if SHORT else "5"))
BEATS = int(os.environ.get("BEATS", "2" if SHORT else "4"))
SLOTS = 16  # the tick's own default
BUDGET, GRACE, LATENCY = (10, 6, 4) if SHORT else (50, 30, 20)  # seconds
BEAT, DAY_LATENCY, DAY_SLOTS = (20, 3, 300) if SHORT else (60, 10, 400)
ABREAST, QUICK, WARM, WINDOW = 256, 1.0, 4 if SHORT else 8, 6 if SHORT else 15
ROWS = 20_000
DAY = 86_400
SUPERVISED = 5  # seconds beyond budget and grace that supervisors allow

_ENQUEUE = """
    SELECT count(*) FROM backbeat.enqueue('bench_triage', 1, ARRAY(SELECT jsonb_build_object(
        'subject', %s || ' ' || i, 'body', 'You charged me twice.') FROM generate_series(1, %s) i))"""
_LEFT = "SELECT count(*) FROM backbeat.simple_tasks"


class Far:
    """The far side, and what it saw."""

    def __init__(self, url: str) -> None:
        self.url = url

    def at(self, label: str, latency: float) -> str:
        """Where calls of that label are answered after so many seconds."""
        return f"{self.url}/{label}/{latency:g}"

    def told(self, label: str, since: float = 0.0, until: float = 1e12) -> dict[str, float]:
        """See `Label.told`."""
        with urlopen(f"{self.url}/{label}?since={since}&until={until}") as reply:
            found: dict[str, float] = json.load(reply)
        return found


@contextmanager
def _far_side() -> Iterator[Far]:
    command = [sys.executable, "-m", "benchmarks.calls.far_side"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Far(process.stdout.readline().strip())
        finally:
            process.kill()


class Rig:
    """A database with tasks to do, and the processes that do them."""

    def __init__(self, at: Server, far: Far, home: Path) -> None:
        self.server, self.far, self._home = at, far, home
        owner, self._worker = at.database("ticks")
        self.db = psycopg.connect(owner, autocommit=True)
        kinds = {"runtime": "cron", "definitions": Jsonb([triage.row])}
        self.db.execute(load("producers")["register_definitions"], kinds)
        self._made = 0

    def fill(self, rows: int) -> None:
        """Let there be at least so many tasks."""
        ((left,),) = self.db.execute(_LEFT).fetchall()
        while left < rows:
            self._made, left = self._made + 1, left + 5000
            self.db.execute(_ENQUEUE, [f"part {self._made}", 5000])
        self.db.execute("ANALYZE backbeat.simple_tasks, backbeat.flows")

    def tick(self, label: str, latency: float, slots: int, budget: float, grace: float) -> "subprocess.Popen[bytes]":
        """Start one, as a crontab does."""
        config = self._home / f"{label}.toml"
        vendor = f'[providers.anthropic]\nbase_url = "{self.far.at(label, latency)}"\nsimulated = true\n'
        spool = f'telemetry = "spool"\nspool_dir = "{self._home / "spool"}"\n'
        known = 'definitions = "benchmarks.calls.definitions"\n'
        config.write_text(f'database_url = "{self._worker}"\n{known}{spool}{vendor}')
        times = ["--budget", str(budget), "--grace", str(grace), "--concurrency", str(slots)]
        return subprocess.Popen(
            [sys.executable, "-m", "cron_worker", "tick", *times],
            env={**os.environ, "BACKBEAT_CONFIG": str(config)},
            stderr=subprocess.DEVNULL,
        )

    def loop(self, *words: object) -> "subprocess.Popen[bytes]":
        """Start a peer."""
        return subprocess.Popen([sys.executable, "-m", "benchmarks.calls.loops", *map(str, words)])


def main() -> None:
    """Measure and print."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backbeat-tick-")))
        at, far = stack.enter_context(server()), stack.enter_context(_far_side())
        rig = Rig(at, far, home)
        slots, cpu, day = _slots(rig), _cpu(rig), _day(rig)
        rig.db.close()
    figures = {"short": SHORT, "slots": slots, "cpu": cpu, "day": day}
    targets = [
        ("busy_share", slots["busy_share"], ">=", 0.95),
        ("tick_wall_beyond_budget_and_grace_s", slots["beyond_s"], "<=", SUPERVISED),
        ("calls_per_s_of_bare", cpu["calls_per_s_of_bare"], ">=", 0.85),
        ("calls_a_day", day["calls_a_day"], ">=", 2_300_000),
        ("mean_in_flight", day["mean_in_flight"], ">=", 266),
    ]
    finish("tick", figures, targets, "anthropic", "httpx2")


def _slots(rig: Rig) -> dict[str, Any]:
    """Two ticks side by side: one whose calls are answered, one whose calls never are. They need no CPU to speak of."""
    rig.fill(1000)
    began = time.monotonic()
    steady = rig.tick("steady", LATENCY, SLOTS, BUDGET, GRACE)
    hung = rig.tick("hung", 10 * (BUDGET + GRACE), SLOTS, BUDGET, GRACE)
    wall = _ended(steady) - began
    longest = max(wall, _ended(hung) - began)
    told = rig.far.told("steady", began, began + BUDGET)
    found = {
        "slots": SLOTS,
        "budget_s": BUDGET,
        "grace_s": GRACE,
        "latency_s": LATENCY,
        "calls": told["answered"],
        "busy_share": round(told["busy"] / (SLOTS * BUDGET), 4),
        "first_call_after_s": round(told["first"] - began, 2),
        "wall_s": round(wall, 2),
        "longest_wall_s": round(longest, 2),
        "beyond_s": round(longest - BUDGET - GRACE, 2),
    }
    say(part="slots", **found)
    return found


def _cpu(rig: Rig) -> dict[str, Any]:
    """In turns; what a call took is counted while both sides are at full speed."""
    seen: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
    for number in range(ROUNDS):
        for side in ("bare", "ours") if number % 2 else ("ours", "bare"):
            rig.fill(ROWS)
            label = f"{side}{number}"
            if side == "ours":
                made = [rig.tick(label, QUICK, ABREAST, WARM + WINDOW + 30, 5) for _ in range(2)]
            else:
                made = [rig.loop("bare", rig.far.at(label, QUICK), ABREAST) for _ in range(2)]
            seen[side].append(_window(rig, label, made))
            say(part="cpu", side=side, round=number, **seen[side][-1])
    middle = {
        side: {name: round(median(one[name] for one in rounds), 3) for name in rounds[0]}
        for side, rounds in seen.items()
    }
    ratios = [ours["calls_per_s"] / bare["calls_per_s"] for ours, bare in zip(seen["ours"], seen["bare"], strict=True)]
    return {**middle, "rounds": ROUNDS, "calls_per_s_of_bare": round(median(ratios), 3)}


def _window(rig: Rig, label: str, made: "Sequence[subprocess.Popen[bytes]]") -> dict[str, float]:
    while rig.far.told(label)["answered"] < 2 * ABREAST:
        time.sleep(0.1)
    time.sleep(WARM)
    before, at = _standing(rig, label, made), time.monotonic()
    time.sleep(WINDOW)
    after, took = _standing(rig, label, made), time.monotonic() - at
    for one in made:
        one.kill()
        one.wait()
    # What was cut off is not to be recovered in the next round.
    rig.db.execute("TRUNCATE backbeat.simple_tasks, backbeat.flows CASCADE")
    calls, worker, postgres = (now - then for now, then in zip(after, before, strict=True))
    return {
        "calls_per_s": round(calls / took, 1),
        "worker_cpu_ms_a_call": round(1e3 * worker / calls, 3),
        "postgres_cpu_ms_a_call": round(1e3 * postgres / calls, 3),
    }


def _standing(rig: Rig, label: str, made: "Sequence[subprocess.Popen[bytes]]") -> tuple[float, float, float]:
    return rig.far.told(label)["answered"], sum(_burnt(one.pid) for one in made), rig.server.cpu()


def _burnt(pid: int) -> float:
    """Seconds of CPU of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _day(rig: Rig) -> dict[str, Any]:
    """A tick a beat, each with budget and grace as the crontab of deploy/ has them; the serial worker has one beat."""
    rig.fill(round(DAY_SLOTS * BEATS * BEAT / DAY_LATENCY * 1.3))
    budget, grace = BEAT * 5 / 6, BEAT / 2
    began = time.monotonic()
    serial = rig.loop("serial", rig.far.at("serial", DAY_LATENCY), rig.server.admin, budget)
    ticks, memory = [], 0
    for beat in range(BEATS):
        time.sleep(max(began + beat * BEAT - time.monotonic(), 0.0))
        ticks.append(rig.tick("day", DAY_LATENCY, DAY_SLOTS, budget, grace))
    time.sleep(max(began + BEATS * BEAT - time.monotonic(), 0.0))
    # From the second beat on: the first had none before it whose calls still ran.
    told = rig.far.told("day", began + BEAT, began + BEATS * BEAT)
    for one in ticks:
        memory = max(memory, _peak(one))
    serial.wait()
    seconds = (BEATS - 1) * BEAT
    found = {
        "latency_s": DAY_LATENCY,
        "slots": DAY_SLOTS,
        "beats": BEATS,
        "calls_a_day": round(told["answered"] / seconds * DAY),
        "mean_in_flight": round(told["busy"] / seconds, 1),
        "most_in_flight": told["most"],
        "peak_memory_mb": round(memory / 1024, 1),
        "serial_calls_a_day": round(rig.far.told("serial")["answered"] / BEAT * DAY),
    }
    say(part="day", **found)
    return found


def _ended(process: "subprocess.Popen[bytes]") -> float:
    process.wait()
    return time.monotonic()


def _peak(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process; the most memory it held, in KiB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss


if __name__ == "__main__":
    main()
