"""Somebody else's judgement: the faults of llmock (PyPI) against our worker and the real SDKs, then its report.

It sees every attempt and its time, and fails a client that retries what cannot succeed, ignores retry-after or storms.
It takes equal bodies for one call, so each task's is unique. It lives in an environment of its own, because it brings
a pytest plugin and another event loop along.
"""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from backbeat.embedded import ports
from backbeat.producer.submit import submit
from shared.db import pool
from shared.telemetry.spans import NullTelemetry
from tests.support.command import clean_environ
from tests.support.databases import Database
from tests.support.matrix import matrix
from tests.support.signals import until

PROGRAM = Path(sys.prefix) / "llmock/bin/llmock"
VENDORS = {"anthropic": "/anthropic", "openai": "/v1", "other": "/v1"}  # the last is Chat Completions
TWICE = {"retry_after": 0.3, "times": 2}
FATES: dict[str, tuple[dict[str, Any], str]] = {
    **{str(status): ({"status": status}, "dead") for status in (400, 401, 403, 404, 413, 422)},
    **{str(status): ({"status": status}, "succeeded") for status in (408, 409, 429, 500, 502, 503, 504, 529)},
    "429 twice, with a pause": ({"status": 429, **TWICE}, "succeeded"),
    "503 twice, with a pause": ({"status": 503, **TWICE}, "succeeded"),
    "calm": ({}, "succeeded"),
}
CELLS = {f"{vendor} {fault}": (vendor, *fate) for vendor in VENDORS for fault, fate in FATES.items()}
ENDED = "SELECT payload ->> 'tier', status FROM backbeat.tasks"
LEFT = "SELECT 1 FROM backbeat.simple_tasks LIMIT 1"


def _post(url: str, path: str, body: Any) -> None:
    headers = {"content-type": "application/json"}
    urlopen(Request(url + path, json.dumps(body).encode(), headers)).close()


@pytest.fixture
def mock() -> Iterator[str]:
    """A running llmock."""
    if not PROGRAM.exists():
        pytest.skip(f"no {PROGRAM}: `make test` makes it from requirements/llmock.lock")
    url = f"http://127.0.0.1:{(port := ports.find())}"
    serve = [str(PROGRAM), "serve", "--port", str(port), "--log-level", "error"]
    with subprocess.Popen(serve, stdout=subprocess.DEVNULL) as process:

        def listens() -> bool:
            assert process.poll() is None
            try:
                urlopen(f"{url}/health").close()
            except URLError:
                return False
            return True

        until(listens, what="llmock's answer")
        try:
            yield url
        finally:
            process.kill()


@pytest.fixture
def environ(mock: str, database: Database, tmp_path: Path) -> dict[str, str]:
    """A tier and a route a cell of the matrix."""
    routes = ["[tiers]", *(f'"{cell}" = ["{cell}"]' for cell in CELLS), 'calm = ["other calm"]']
    for cell, (vendor, *_) in CELLS.items():
        sizes = "window = 100_000\nmax_output = 4_096\nbounded = true\nprice = {input = 1, output = 1}"
        routes.append(f'[routes."{cell}"]\nprovider = "{vendor}"\nmodel = "{cell}"\n{sizes}')
    (tmp_path / "routes.toml").write_text("\n".join(routes))
    vendors = [f'[providers.{name}]\nbase_url = "{mock}{path}"\nsimulated = true' for name, path in VENDORS.items()]
    (tmp_path / "backbeat.toml").write_text("\n".join([*vendors, 'kind = "compatible"']))
    named = {"BACKBEAT_CONFIG": str(tmp_path / "backbeat.toml"), "BACKBEAT_ROUTES_FILE": str(tmp_path / "routes.toml")}
    return {**database.environ, **named, "BACKBEAT_DEFINITIONS": "tests.support.matrix"}


@contextmanager
def _beating(home: Path, environ: dict[str, str]) -> Iterator[None]:
    beat = [sys.executable, "-m", "cron_worker", "tick", "--every", "200ms", "--concurrency", "64"]
    with subprocess.Popen(beat, cwd=home, env=clean_environ(**environ), stderr=subprocess.PIPE, text=True) as process:
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
        reader.start()
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)
            reader.join()
            print("".join(said))


async def _enqueued(database: Database) -> None:
    async with pool.connect(database.worker_url, max_size=1) as db:
        await submit(db, NullTelemetry(), matrix, [{"tier": cell} for cell in CELLS])


def test_llmock_finds_no_fault_with_the_worker(
    mock: str, environ: dict[str, str], database: Database, tmp_path: Path
) -> None:
    faults = [{"type": "fail", **fault, "match": {"model": cell}} for cell, (_, fault, _) in CELLS.items() if fault]
    _post(mock, "/_llmock/scenario", {"behaviors": faults})
    asyncio.run(_enqueued(database))
    with _beating(tmp_path, environ):
        until(lambda: not database.sql(LEFT), within=60, what="the end of all")
    assert dict(database.sql(ENDED)) == {cell: ended for cell, (*_, ended) in CELLS.items()}
    report = subprocess.run([PROGRAM, "report", "--url", mock, "--json"], capture_output=True, text=True)
    verdict = json.loads(report.stdout)
    print(json.dumps(verdict, indent=1))
    assert (report.returncode, verdict["errors"]) == (0, 0)
    assert verdict["calls"] == len(CELLS)
    assert verdict["faults_injected"] == sum(fault.get("times", 1) for fault in faults)
