"""The worked orchestration: every branch, the refund path, and a worker that dies around the charge."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.contrib.pydantic import pydantic_data_converter

from backbeat.embedded import ports
from backbeat.embedded.simulated.log import read
from tests.integration.test_orchestrations import steps
from tests.replay.test_approval_histories import anonymous, crossed
from tests.replay.test_orchestration_histories import HISTORIES, WAITS, replayer
from tests.support import children
from tests.support.approvals import decide, token
from tests.support.command import clean_environ, command
from tests.support.databases import Database
from tests.support.simulated import service
from tests.support.temporal import Server, eventually, finished, row

SOAK = os.environ.get("BACKBEAT_SOAK") == "1"

MODULE = "examples.fulfilment.definitions"
LONGEST = [
    *("check_address", "risk", "second_opinion", "agree", "pick", "quotes"),
    *("quote:tortoise", "quote:hare", "quote:swallow", "tax"),
    *("reserve", "declare", "charge", "invoice", "wrap", "label", "pickup", "ship"),
    *("mail:shipped", "book:shipped", "rest", "thanks", "mail:thanks"),
]
PENDING = "SELECT id, hash FROM backbeat.approval_requests WHERE state = 'pending'"


class Shop:
    """The example's processes around one database: far side, provider, workers to kill, ticks."""

    def __init__(self, database: Database, temporal: Server, home: Path, provider: str, far: str) -> None:
        self.database, self.home, self.log = database, home, home / "shop.jsonl"
        (home / "backbeat.toml").write_text(
            f'[providers.anthropic]\nbase_url = "{provider}/anthropic"\nsimulated = true\n'
        )
        self.environ = {
            **database.environ,
            "BACKBEAT_TEMPORAL_ADDRESS": temporal.address,
            "BACKBEAT_DEFINITIONS": MODULE,
            "FULFILMENT_URL": far,
        }
        self.workers: list[children.Process] = []

    def worker(self, *doom: str) -> children.Process:
        """Start a Temporal worker, perhaps one that is doomed."""
        module = ["tests.support.doomed_worker", *doom] if doom else ["temporal_worker"]
        words = [*module, "run", "--task-queue", f"shop-{self.database.name}"]
        with (self.home / "worker.log").open("ab") as log:
            started = children.start(*words, home=self.home, environ=clean_environ(**self.environ), stderr=log)
        self.workers.append(started)
        return started

    def start(self, **order: Any) -> UUID:
        body = {"customer": "ann", "country": "NL", "cents": 1000, "lines": [{"sku": "tea", "quantity": 1}], **order}
        words = "workflow", "start", "fulfil", "--input", json.dumps(body), "-o", "json"
        return UUID(command("backbeat", *words, home=self.home, environ=self.environ).fine().json["id"])

    def tick(self) -> None:
        # It ends by itself when nothing is left; its budget covers the load of a vendor's SDK, however slow.
        words = "tick", "--budget", "50", "--grace", "5"
        command("cron_worker", *words, home=self.home, environ=self.environ).fine()

    def written(self, workflow: UUID) -> list[str]:
        """The kinds of writes that arrived for a run, in order."""
        query = "SELECT mark FROM backbeat.side_effects WHERE owner = %s"
        marks = {mark for (mark,) in self.database.sql(query, [workflow])}
        return [one["kind"] for one in read(self.log) if one["reference"] in marks]


@pytest.fixture
def shop(database: Database, temporal_server: Server, tmp_path: Path) -> Iterator[Shop]:
    port = ports.find()
    far = [sys.executable, "-m", "examples.fulfilment.far_side", "--port", str(port), "--log", "shop.jsonl"]
    with service("provider", tmp_path / "calls.jsonl", "--latency", "0") as provider:
        side = subprocess.Popen(far, cwd=tmp_path, env=clean_environ(), stdout=subprocess.PIPE)
        assert side.stdout
        assert side.stdout.readline()
        found = Shop(database, temporal_server, tmp_path, provider.url, f"http://127.0.0.1:{port}")
        yield found
        for process in (*found.workers, side):
            process.kill()
            process.wait()
        side.stdout.close()


async def replays(shop: Shop, server: Server, run: UUID, kind: str) -> None:
    """The run replays with today's code, having crossed these; BACKBEAT_RECORD=1 adds it to the corpus."""
    client = await Client.connect(server.address, data_converter=pydantic_data_converter)
    handle = client.get_workflow_handle(row(shop.database, run)["temporal_id"])
    with contextlib.suppress(WorkflowFailureError):
        await handle.result()
    history = await handle.fetch_history()
    assert {*WAITS[kind]} <= crossed(history)
    await replayer().replay_workflow(history)
    if os.environ.get("BACKBEAT_RECORD") == "1":
        text = json.dumps(anonymous(json.loads(history.to_json())), indent=1, sort_keys=True)
        (HISTORIES / f"fulfil-1-{kind}.json").write_text(text + "\n", encoding="utf-8")


async def picked(shop: Shop) -> None:
    """Let a tick pick the lines once they are there."""
    await eventually(lambda: shop.database.value("SELECT count(*) FROM backbeat.simple_tasks"), within=60)
    shop.tick()


async def test_the_longest_way(shop: Shop, database: Database, temporal_server: Server) -> None:
    shop.worker()
    lines = [{"sku": f"tea {n}", "quantity": n + 1} for n in range(5)]
    run = shop.start(country="DE", cents=70_000, new_customer=True, gift=True, lines=lines, rest_seconds=1)
    ((request, shown),) = await eventually(lambda: database.sql(PENDING), within=60)
    decide(database, token(database, "eve", "sales"), request, "approve", shown)
    await picked(shop)
    done = await finished(database, run, within=60)
    assert (done["status"], done["error"]) == ("completed", None)
    assert done["result"]["status"] == "shipped"
    assert done["result"]["picked"] == 5
    assert [name for name, _, status in steps(database, run) if status == "done"] == LONGEST
    assert len(LONGEST) >= 20
    once = ["reserve", "declare", "charge", "invoice", "wrap", "label", "pickup", "ship", "mail", "book", "mail"]
    assert shop.written(run) == once
    await replays(shop, temporal_server, run, "shipped")


async def test_what_people_decline_is_not_charged(shop: Shop, database: Database, temporal_server: Server) -> None:
    shop.worker()
    run = shop.start(cents=70_000)
    ((request, shown),) = await eventually(lambda: database.sql(PENDING), within=60)
    decide(database, token(database, "eve", "sales"), request, "reject", shown)
    assert (await finished(database, run, within=60))["result"]["status"] == "declined"
    assert shop.written(run) == ["mail", "book"]
    await replays(shop, temporal_server, run, "declined")


async def test_what_cannot_be_shipped_is_refunded(shop: Shop, database: Database, temporal_server: Server) -> None:
    shop.worker()
    run = shop.start(country="DE", cents=70_000, lines=[{"sku": "undeliverable", "quantity": 1}])
    ((request, shown),) = await eventually(lambda: database.sql(PENDING), within=60)
    decide(database, token(database, "eve", "sales"), request, "approve", shown)
    await picked(shop)
    done = await finished(database, run, within=90)
    assert done["result"] == {"status": "refunded", "parcel": "", "picked": 1}
    forward = ["reserve", "declare", "charge", "invoice", "label", "pickup"]
    assert shop.written(run) == [*forward, "void", "credit", "refund", "withdraw", "release", "mail", "book"]
    drawn = command("backbeat", "workflow", "graph", run, home=shop.home, environ=shop.environ).fine().out
    assert "✗ ship (effect)" in drawn
    assert "✓ undo:charge (undo)" in drawn
    await replays(shop, temporal_server, run, "refunded")


async def test_what_is_cancelled_in_the_middle_is_taken_back(
    shop: Shop, database: Database, temporal_server: Server
) -> None:
    hold = shop.log.with_suffix(".hold")
    hold.write_text("charge", encoding="utf-8")
    shop.worker()
    run = shop.start(cents=70_000)
    ((request, shown),) = await eventually(lambda: database.sql(PENDING), within=60)
    decide(database, token(database, "eve", "sales"), request, "approve", shown)
    await picked(shop)
    await eventually(lambda: "charge" in shop.written(run), within=60)
    database.sql("SELECT backbeat.cancel_workflow(%s, 'by hand')", [run])
    waits = "SELECT bool_and(delivered_at IS NOT NULL) FROM backbeat.temporal_outbox WHERE kind = 'cancel'"
    await eventually(lambda: database.value(waits))
    hold.unlink()
    assert (await finished(database, run, within=60))["status"] == "cancelled"
    assert shop.written(run) == ["reserve", "charge", "refund", "release"]
    await replays(shop, temporal_server, run, "cancelled")


@pytest.mark.parametrize("step", [*(["before-far-write"] if SOAK else []), "during", "after-far-write"])
async def test_a_worker_that_dies_around_the_charge_charges_once(shop: Shop, database: Database, step: str) -> None:
    """Its writes: going on after the approval, the reservation, and third the charge."""
    hold = shop.log.with_suffix(".hold")
    if step == "during":
        hold.write_text("charge", encoding="utf-8")
        doomed = shop.worker()
    else:
        doomed = shop.worker(step, "3")
    run = shop.start(cents=70_000)
    ((request, shown),) = await eventually(lambda: database.sql(PENDING), within=60)
    decide(database, token(database, "eve", "sales"), request, "approve", shown)
    await picked(shop)
    if step == "during":
        await eventually(lambda: "charge" in shop.written(run), within=60)
        doomed.kill()
        hold.unlink()
    assert await eventually(lambda: doomed.poll() is not None, within=60)
    assert doomed.returncode == -9
    charges = 0 if step == "before-far-write" else 1
    assert shop.written(run) == ["reserve", *["charge"] * charges]
    intended = "SELECT status FROM backbeat.side_effects WHERE key = %s"
    # A far side that nobody heard of for its three seconds may have been looked at.
    assert database.value(intended, [f"{run}:charge"]) in ("intended", "unknown")
    shop.worker()
    done = await finished(database, run, within=90)
    assert done["result"]["status"] == "shipped"
    assert shop.written(run) == ["reserve", "charge", "invoice", "label", "pickup", "ship", "mail", "book", "mail"]
    query = "SELECT status, resolved_by FROM backbeat.side_effects WHERE key = %s"
    assert database.sql(query, [f"{run}:charge"]) == [("done", "read-back" if charges else None)]
