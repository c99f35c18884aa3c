"""What production asks of the Temporal worker: TLS profiles, stopping, deploys, large payloads, metrics, bugs."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.common import RawValue

from backbeat import orchestration
from backbeat.embedded import ports, temporal
from backbeat.operate import payloads
from shared.config import Config, load
from shared.db.pool import connect as pool_of
from shared.definitions import Effect
from shared.errors import ConfigError, UnavailableError
from shared.execution.environment import Environment
from shared.security.codec import data_converter
from shared.security.temporal import connection
from temporal_worker import constants
from temporal_worker.worker import Options
from temporal_worker.worker import connect as connect_worker
from tests.integration.test_worker_process import Process, noted, notes, worker  # noqa: F401
from tests.support import greetings
from tests.support.approvals import decide, start, token, worker_rows
from tests.support.command import command
from tests.support.databases import Database
from tests.support.parcels import Order
from tests.support.temporal import FarSide, Server, asked, environment, eventually, finished, forget, row, working
from tests.support.tls import Authority, door

PROFILE = """
[profile.cloud]
address = "localhost:{port}"
namespace = "default"
[profile.cloud.tls]
server_ca_cert_path = "{home}/ca.pem"
client_cert_path = "{home}/client.pem"
client_key_path = "{home}/client.key"
"""


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write Temporal's own settings file, which is then found; nothing else of Temporal's is in the environment."""

    def write(text: str) -> Path:
        path = tmp_path / "temporal.toml"
        path.write_text(text)
        return path

    for name in [name for name in os.environ if name.startswith("TEMPORAL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "temporal.toml"))
    return write


async def test_a_profile_with_certificates_reaches_a_server_that_wants_them(
    temporal_server: Server, tmp_path: Path, profile: Callable[[str], Path]
) -> None:
    stop = asyncio.Event()
    async with door(Authority(tmp_path), temporal_server.port) as port:
        profile(PROFILE.format(port=port, home=tmp_path))
        client = await connect_worker(Config(temporal_profile="cloud"), stop)
        assert client is not None
        assert (await client.count_workflows("")).count >= 0
        with pytest.raises(RuntimeError, match=r"[Cc]onnect"):
            await Client.connect(f"localhost:{port}", tls=True)


def test_our_own_settings_win_over_a_profile(profile: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    profile('[profile.cloud]\naddress = "them:7233"\nnamespace = "theirs"\napi_key = "secret"\n')
    theirs = {"target_host": "them:7233", "namespace": "theirs", "api_key": "secret", "tls": True}
    assert connection(Config(temporal_profile="cloud")) == theirs
    ours = Config(temporal_profile="cloud", temporal_address="us:7233", temporal_namespace="ours")
    assert connection(ours) == {**theirs, "target_host": "us:7233", "namespace": "ours"}
    monkeypatch.setenv("TEMPORAL_API_KEY", "newer")
    assert connection(ours)["api_key"] == "newer"
    monkeypatch.setenv("TEMPORAL_ADDRESS", "elsewhere:7233")
    plain = load({"BACKBEAT_TEMPORAL_ADDRESS": "here:7233"})
    assert connection(plain) == {"target_host": "here:7233", "namespace": "default"}, "nothing that is not named"


def test_a_profile_that_is_not_there_is_one_line(profile: Callable[[str], Path]) -> None:
    profile('[profile.cloud]\napi_key = "secret" nonsense\n')
    with pytest.raises(ConfigError, match="temporal_profile 'cloud' cannot be read") as broken:
        connection(Config(temporal_profile="cloud"))
    assert "secret" not in str(broken.value)
    profile("[profile.cloud]\n")
    with pytest.raises(ConfigError, match="'other' not found"):
        connection(Config(temporal_profile="other"))
    with pytest.raises(ConfigError, match="temporal_address is not set"):
        connection(Config(temporal_profile="cloud"))


async def test_told_to_stop_it_finishes_what_it_does(
    database: Database,
    worker: Callable[[Database], Process],  # noqa: F811
    notes: Path,  # noqa: F811
) -> None:
    slow = notes.with_suffix(".slow")
    os.mkfifo(slow)
    process = worker(database)
    workflow = start(database)
    request, shown = await asked(database, workflow)
    decide(database, token(database, "alice"), request, "approve", shown)
    await eventually(lambda: noted(notes))
    process.process.send_signal(signal.SIGTERM)
    process.says("stopping: activities may end")
    # Reading the pipe lets the far write answer.
    await asyncio.to_thread(slow.read_text)
    assert await asyncio.to_thread(process.process.wait, 30) == 0
    assert database.sql("SELECT status, fires, resolved_by FROM backbeat.side_effects") == [("done", 1, None)]
    slow.unlink()
    worker(database)
    assert (await finished(database, workflow))["result"]["decision"] == "approved"
    assert len(noted(notes)) == 1


def _declared(env: Environment, cls: type, name: str = "greet") -> Environment:
    made = orchestration(name, version=1, input=Order, workflow=cls)
    return replace(env, registry=replace(env.registry, orchestrations={made.full_name: made}))


def _begin(database: Database, name: str = "greet", customer: str = "acme") -> UUID:
    row = {"name": name, "version": 1, "tier": "-", "max_attempts": 1}
    worker_rows(database, "SELECT backbeat.register_definitions('temporal', %s::jsonb)", [json.dumps([row])])
    call = "SELECT id FROM backbeat.start_orchestration(%s, 1, 'default', %s::jsonb, NULL, NULL)"
    (found,) = worker_rows(database, call, [name, json.dumps({"customer": customer})])
    assert isinstance(found["id"], UUID)
    return found["id"]


async def _question(database: Database, run: UUID) -> tuple[UUID, str]:
    query = """SELECT r.id, r.hash FROM backbeat.approval_requests r
               JOIN backbeat.orchestrated_workflows w ON w.id = r.workflow_id WHERE w.parent_workflow = %s"""
    ((request, shown),) = await eventually(lambda: database.sql(query, [run]))
    await eventually(lambda: row(database, run)["status"] == "waiting")
    return request, shown


def _current(server: Server, build: str) -> bool:
    """Make new runs go to this build, once Temporal has heard of it."""
    choose = ["worker", "deployment", "set-current-version", "--deployment-name", "backbeat", "--yes", "--build-id"]
    command = [str(temporal.binary()), *choose, build, "--address", server.address, "--disable-config-file"]
    return subprocess.run(command, capture_output=True).returncode == 0


async def test_a_deploy_leaves_runs_with_the_release_that_began_them(database: Database, tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    alice = token(database, "alice")
    old, new = Options("deploys", build_id="v1"), Options("deploys", build_id="v2")
    try:
        client = await Client.connect(server.address, data_converter=data_converter(None))
        async with environment(database, FarSide()) as env:
            first, second = _declared(env, greetings.Old), _declared(env, greetings.New)
            async with working(first, client, old):
                await eventually(lambda: _current(server, "v1"))
                begun = _begin(database)
                request, shown = await _question(database, begun)
            async with working(second, client, new):
                await eventually(lambda: _current(server, "v2"))
                later = _begin(database)
                decide(database, alice, request, "approve", shown)
                other, also = await _question(database, later)
                decide(database, alice, other, "approve", also)
                assert (await finished(database, later))["result"] == "the new release"
                assert row(database, begun)["status"] == "waiting", "nobody who could go on with it works"
                async with working(first, client, old):
                    assert (await finished(database, begun, within=60))["result"] == "the old release"
    finally:
        server.kill()


async def test_overlapping_releases_begin_what_each_knows_and_all_of_it_on_the_current_one(
    database: Database, tmp_path: Path
) -> None:
    server = Server(tmp_path)
    server.start()
    alice = token(database, "alice")
    old, new = Options("deploys", build_id="v1"), Options("deploys", build_id="v2")
    try:
        client = await Client.connect(server.address, data_converter=data_converter(None))
        async with environment(database, FarSide()) as env:
            first = _declared(env, greetings.Old)
            both = {**_declared(env, greetings.New).registry.orchestrations}
            both |= _declared(env, greetings.Carry, "carry").registry.orchestrations
            second = replace(env, registry=replace(env.registry, orchestrations=both))
            async with working(second, client, new):
                await eventually(lambda: _current(server, "v2"))
            made = [_begin(database, name) for _ in range(10) for name in ("greet", "carry")]
            async with working(first, client, old):
                told = """SELECT DISTINCT workflow, o.attempts > 0, delivered_at IS NOT NULL, last_error
                          FROM backbeat.temporal_outbox o JOIN backbeat.orchestrated_workflows w ON w.id = o.stream
                          WHERE kind = 'start'"""
                left = ("carry", False, False, None)
                await eventually(lambda: set(database.sql(told)) == {("greet", True, True, None), left})
                async with working(second, client, new):
                    for request, shown in [await _question(database, run) for run in made]:
                        decide(database, alice, request, "approve", shown)
                    ends = [(await finished(database, run))["result"] for run in made]
        assert ends == ["the new release", "emca"] * 10
    finally:
        server.kill()


@asynccontextmanager
async def carrying(database: Database, server: Server, keys: Path, directory: Path) -> AsyncIterator[Client]:
    client = await Client.connect(server.address, data_converter=data_converter(keys, directory))
    queue = Options(f"carry-{database.name}")
    async with (
        environment(database, FarSide()) as env,
        working(_declared(env, greetings.Carry, "carry"), client, queue),
    ):
        yield client


async def test_what_is_large_lies_in_files_encrypted_and_outlives_workers(
    database: Database, temporal_server: Server, tmp_path: Path
) -> None:
    keys, directory = tmp_path / "keys", tmp_path / "payloads"
    keys.write_text(f"one {base64.b64encode(b'k' * 32).decode()}\n")
    directory.mkdir()
    large = "a long story, " * 40_000
    async with carrying(database, temporal_server, keys, directory) as client:
        run = _begin(database, "carry", large)
        request, shown = await _question(database, run)
    name = row(database, run)["temporal_id"]
    assert [path.name for path in directory.iterdir()] == [quote(name, safe="")]
    stored = sorted(directory.glob("*/*"))
    assert len(stored) == 1
    assert b"a long story" not in stored[0].read_bytes()
    history = await client.get_workflow_handle(row(database, run)["temporal_id"]).fetch_history()
    assert history.to_json().count("A") < 100_000
    data = stored[0].read_bytes()
    stored[0].write_bytes(data[:-1])
    decide(database, token(database, "alice"), request, "approve", shown)
    async with carrying(database, temporal_server, keys, directory):
        # Nobody takes a damaged file for what was stored, and nothing fails over it.
        handle = client.get_workflow_handle(row(database, run)["temporal_id"])
        await _tried_twice(handle)
        assert row(database, run)["status"] == "waiting"
        stored[0].write_bytes(data)
        assert (await finished(database, run, within=60))["result"] == large[::-1]
        # The row is told before the workflow itself ends.
        await handle.result()
    config = Config(temporal_address=temporal_server.address)
    async with pool_of(database.worker_url) as db:
        clean = partial(payloads.clean, db, config, directory)
        assert await clean(timedelta(0)) == [], "Temporal knows it"
        await forget(client, name)
        assert await clean(timedelta(days=1)) == [], "it is too young"
        elsewhere = replace(config, temporal_namespace="elsewhere")
        with pytest.raises(UnavailableError, match="elsewhere"):
            await payloads.clean(db, elsewhere, directory, timedelta(0))
        (gone,) = await clean(timedelta(0), dry=True)
        assert (gone.temporal_id, gone.size > 500_000, len(list(directory.iterdir()))) == (name, True, 1)
        database.sql("UPDATE backbeat.orchestrated_workflows SET status = 'running', result = NULL, finished_at = NULL")
        assert await clean(timedelta(0)) == [], "open in Postgres"
        database.sql("UPDATE backbeat.orchestrated_workflows SET status = 'cancelled', finished_at = now()")
        assert await clean(timedelta(0)) == [gone]
        assert list(directory.iterdir()) == []


async def test_who_points_at_a_payload_that_is_nowhere_stops_a_run_and_decides_nothing(
    database: Database, temporal_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing to the namespace is enough to end a run there as well; both leave a run that can be done again."""
    monkeypatch.setattr(constants, "RECONCILE_EVERY", 0.5)
    keys, directory = tmp_path / "keys", tmp_path / "payloads"
    keys.write_text(f"one {base64.b64encode(b'k' * 32).decode()}\n")
    directory.mkdir()
    plain = await Client.connect(temporal_server.address)
    forged = [
        {"driver_name": "backbeat.files", "driver_claim": {"claim_data": {"of": "../..", "sha256": "0" * 64}}},
        {"driver_name": "elsewhere", "driver_claim": {"claim_data": {}}},
    ]
    async with carrying(database, temporal_server, keys, directory):
        for reference in forged:
            run = _begin(database, "carry", "a story")
            request, shown = await _question(database, run)
            handle = plain.get_workflow_handle(row(database, run)["temporal_id"])
            data = json.dumps(reference).encode()
            body = Payload(metadata={"encoding": b"json/external-storage-reference"}, data=data)
            await handle.signal("decide", RawValue(body))
            await _tried_twice(handle)
            assert row(database, run)["status"] == "waiting"
            await handle.terminate("somebody pointed nowhere")
            database.sql("UPDATE backbeat.orchestrated_workflows SET checked_at = '-infinity' WHERE id = %s", [run])
            assert (await finished(database, run))["status"] in ("failed", "cancelled")
            command("backbeat", "workflow", "retry", run, home=tmp_path, environ=database.environ).fine()
            request, shown = await _question(database, run)
            decide(database, token(database, "alice"), request, "approve", shown)
            assert (await finished(database, run))["result"] == "a story"[::-1]


async def _tried_twice(handle: WorkflowHandle[Any, Any]) -> None:
    for _ in range(200):
        if (await handle.describe()).raw_description.pending_workflow_task.attempt > 1:
            return
        await asyncio.sleep(0.1)
    pytest.fail("no second attempt")


def test_a_place_for_payloads_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"payload_dir .* is no directory"):
        data_converter(None, tmp_path / "nowhere")


def test_metrics_are_served_where_asked(database: Database, tmp_path: Path, temporal_server: Server) -> None:
    port = ports.find()
    environ = {
        **database.environ,
        "BACKBEAT_TEMPORAL_ADDRESS": temporal_server.address,
        "BACKBEAT_DEFINITIONS": "tests.support.noting",
        "BACKBEAT_TEST_NOTES": str(tmp_path / "notes"),
    }
    queue = ["--task-queue", f"metrics-{database.name}"]
    process = Process(tmp_path, environ, *queue, "--metrics", f"127.0.0.1:{port}")
    try:
        process.says("running approve_effect")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            told = answer.read().decode()
        again = Process(tmp_path, environ, *queue, "--metrics", f"127.0.0.1:{port}")
        assert "metrics cannot be served" in again.says("metrics")
        assert again.process.wait(30) == 2
        assert process.end(signal.SIGTERM) == 0
    finally:
        process.process.kill()
    assert "temporal_worker_start" in told
    assert f"metrics-{database.name}" in told


def actions(history: WorkflowHistory) -> int:
    """What Temporal Cloud bills of a history: the start, signals, timers and attempts of activities; no heartbeats."""
    billed: Counter[str] = Counter()
    for event in history.events:
        kind = event.WhichOneof("attributes") or ""
        billed[kind] += event.activity_task_started_event_attributes.attempt or 1
    names = ("execution_started", "execution_signaled")
    return sum(billed[f"workflow_{name}_event_attributes"] for name in names) + sum(
        billed[f"{name}_started_event_attributes"] for name in ("timer", "activity_task")
    )


def waits_for_time(history: WorkflowHistory) -> bool:
    return any(one.HasField("timer_started_event_attributes") for one in history.events)


async def test_an_approval_costs_eight_actions(database: Database, temporal_server: Server) -> None:
    """docs/how-to/temporal.md says so."""
    client = await Client.connect(temporal_server.address)
    async with environment(database, FarSide(patience=30.0)) as env, working(env, client):
        workflow = start(database)
        request, shown = await asked(database, workflow)
        handle = client.get_workflow_handle(row(database, workflow)["temporal_id"])
        while not waits_for_time(await handle.fetch_history()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # its row is told before it begins to wait
        decide(database, token(database, "alice"), request, "approve", shown)
        await finished(database, workflow)
        await handle.result()
    assert actions(await handle.fetch_history()) == 8


async def test_a_bug_ends_where_people_see_it_and_a_retry_goes_on(
    database: Database, temporal_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("temporal_worker.activities.BUG_ATTEMPTS", 3)
    client = await Client.connect(temporal_server.address)
    far = FarSide()
    async with environment(database, far) as env:
        broken = Effect(kind="note", perform=far.perform, read_back=far.read_back, timeout=0.5, settle=0.5)
        monkeypatch.setattr(Effect, "problem", lambda self, request: dict[str, str]()["no such key"])
        async with working(replace(env, registry=replace(env.registry, effects={"note": broken})), client) as options:
            workflow = start(database)
            failed = await finished(database, workflow)
            assert (failed["status"], failed["error"]) == ("failed", "bug: KeyError: 'no such key'")
        monkeypatch.undo()
        async with working(env, client, options):
            database.sql("SELECT backbeat.retry_workflow(%s, 'test')", [workflow])
            request, shown = await asked(database, workflow)
            decide(database, token(database, "alice"), request, "approve", shown)
            assert (await finished(database, workflow))["status"] == "completed"
    assert far.writes == 1


def test_a_payload_names_no_model_but_an_orchestrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import backbeat.policy  # noqa: F401  # loaded, and nobody's
    from examples.fulfilment.definitions import fulfil
    from examples.fulfilment.models import Letter
    from shared.errors import DefinitionError
    from temporal_worker.activities.calls import _model

    (tmp_path / "trap.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = "examples.fulfilment.models"
    for place in ("trap:Model", "os:path", f"{loaded}:DEAR", f"{loaded}:Letter.x", "backbeat.policy:Policy"):
        with contextlib.suppress(DefinitionError):
            pytest.fail(f"{place}: {_model(place, [fulfil])}")
    assert _model(f"{loaded}:Letter", [fulfil]) is Letter
    # Of another package, but imported by the module of the class.
    monkeypatch.setattr(sys.modules["examples.fulfilment.workflow"], "Order", Order)
    assert _model("tests.support.parcels:Order", [fulfil]) is Order
