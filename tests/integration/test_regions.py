"""The worked example of regions: three worker processes, one of them cut off and brought back."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from temporalio.client import Client, WorkflowHistory

from tests.integration.test_orchestrations import steps
from tests.support import children
from tests.support.command import clean_environ, command
from tests.support.databases import Database
from tests.support.temporal import Server, eventually, finished, row


class Site:
    """The processes of the README."""

    def __init__(self, database: Database, temporal: Server, home: Path) -> None:
        self.database, self.home = database, home
        self.environ = {
            **database.environ,
            "BACKBEAT_TEMPORAL_ADDRESS": temporal.address,
            "BACKBEAT_DEFINITIONS": "examples.regions.definitions",
            "WAREHOUSE": str(home),
        }
        self.workers: list[children.Process] = []

    def worker(self, region: str = "") -> children.Process:
        words = ["temporal_worker", "run", "--task-queue", f"regions-{self.database.name}"]
        words += ["--region", region] if region else []
        env = clean_environ(**self.environ, **({"REGION": region} if region else {}))
        with (self.home / "worker.log").open("ab") as log:
            self.workers.append(children.start(*words, home=self.home, environ=env, stderr=log))
        return self.workers[-1]

    def start(self, units: int) -> UUID:
        body = json.dumps({"order": f"of {units}", "units": units, "regions": ["eu", "us"]})
        words = "workflow", "start", "ship_from_regions", "--input", body, "-o", "json"
        return UUID(command("backbeat", *words, home=self.home, environ=self.environ).fine().json["id"])

    def told(self, region: str) -> list[str]:
        """What a warehouse was told, in order."""
        path = self.home / f"{region}.jsonl"
        return [json.loads(line)["kind"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def site(database: Database, temporal_server: Server, tmp_path: Path) -> Iterator[Site]:
    made = Site(database, temporal_server, tmp_path)
    yield made
    for worker in made.workers:
        worker.kill()
        worker.wait()


def reserved(history: WorkflowHistory) -> bool:
    """Whether Temporal has heard of it, too."""
    return any(one.HasField("activity_task_completed_event_attributes") for one in history.events)


async def test_a_region_is_cut_off_and_comes_back(site: Site, database: Database, temporal_server: Server) -> None:
    site.worker()
    eu, us = site.worker("eu"), site.worker("us")
    first = site.start(1)
    assert (await finished(database, first, within=60))["result"] == "confirmed"

    us.send_signal(signal.SIGSTOP)
    run = site.start(3)
    await eventually(lambda: site.told("eu") == ["reserve", "confirm", "reserve"], within=60)
    assert site.told("us") == ["reserve", "confirm"], "nothing is confirmed, or reserved, behind its back"
    us.send_signal(signal.SIGCONT)
    assert (await finished(database, run, within=60))["result"] == "confirmed"

    us.kill()
    third = site.start(2)
    await eventually(lambda: len(site.told("eu")) == 5, within=60)
    client = await Client.connect(temporal_server.address)
    handle = client.get_workflow_handle(row(database, third)["temporal_id"])
    while not reserved(await handle.fetch_history()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    eu.kill()
    site.worker("us")
    await eventually(lambda: len(site.told("us")) == 5, within=60)
    assert row(database, third)["status"] != "completed"
    site.worker("eu")
    assert (await finished(database, third, within=60))["result"] == "confirmed"
    for region in ("eu", "us"):
        assert site.told(region) == ["reserve", "confirm"] * 3
    names = [name for name, _, _ in steps(database, run)]
    assert names == ["reserve:eu", "reserve:us", "confirm:eu", "confirm:us"]


async def test_what_one_region_refuses_the_other_gives_back(site: Site, database: Database) -> None:
    for region in ("", "eu", "us"):
        site.worker(region)
    (site.home / "us.jsonl").write_text(json.dumps({"kind": "reserve", "mark": "before", "units": 5}) + "\n")
    run = site.start(8)
    failed = await finished(database, run, within=60)
    assert failed["status"] == "failed"
    assert "us has 5 units left" in failed["error"]
    assert site.told("eu") == ["reserve", "cancel"]
    assert site.told("us") == ["reserve"]
