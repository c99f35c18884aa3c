"""The rate of a route against the provider's own log: sixteen workers as processes, some of them killed."""

import signal
import time
from datetime import datetime

import pytest

from tests.chaos.conftest import OpenRig
from tests.support.databases import Database
from tests.support.rates import fullest
from tests.support.signals import until

RPM = 300
MINUTES = 3
ROUTES = f"""
[tiers]
small = ["haiku"]
[routes.haiku]
provider = "anthropic"
model = "claude-haiku-4-5"
window = 200_000
max_output = 8_000
bounded = true
rpm = {RPM}
"""


@pytest.mark.soak
def test_sixteen_workers_keep_every_minute_under_the_limit_and_use_it_up(open_rig: OpenRig, database: Database) -> None:
    rig = open_rig(database, latency="0.5-2")
    (rig.directory / "routes.toml").write_text(ROUTES)
    rig.enqueue("single", [{"n": n} for n in range(RPM * (MINUTES + 2))])
    flags = "--every", "200ms", "--budget", "10m", "--lease", "10s"
    workers = [rig.tick(*flags) for _ in range(16)]
    rig.called(100, within=180)
    began = time.time()
    for minute in range(1, MINUTES + 1):
        until(lambda at=began + 60 * minute: time.time() > at, within=70, what="a minute")  # type: ignore[misc]
        workers.pop(0).send(signal.SIGKILL)
        workers.append(rig.tick(*flags))
    ended = time.time()
    log = [(_seconds(entry["at"]), 1.0) for entry in rig.provider.entries("start")]
    mean = sum(began <= at < ended for at, _ in log) / (ended - began) * 60
    print([sum(second <= at - log[0][0] < second + 1 for at, _ in log) for second in range(240)])
    print(f"mean {mean:.0f} of {RPM} a minute, fullest minute {fullest(log, 60.0):.0f}")
    assert fullest(log, 60.0) <= RPM
    assert mean >= 0.9 * RPM


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
