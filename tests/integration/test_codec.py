"""Payloads that Temporal stores: encrypted under a ring of keys, failures too; what is plain stays readable."""

import asyncio
import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError

from backbeat.embedded import temporal
from shared.errors import ConfigError
from shared.security.codec import ENCODING, Codec, data_converter, load_keys
from tests.integration.test_orchestrations import begin, loaded
from tests.support.approvals import audit, decide, start, token
from tests.support.databases import Database
from tests.support.temporal import FarSide, Server, asked, environment, eventually, finished, row, working

PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"secret"')


def ring(path: Path, *names: str) -> Path:
    """A key file with random keys, appended to what is there: the last named comes first."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [f"{name} {base64.b64encode(os.urandom(32)).decode()}\n" for name in names]
    path.write_text("".join(reversed(lines)) + old, encoding="utf-8")
    return path


async def test_a_ring_is_rotated(tmp_path: Path) -> None:
    file = ring(tmp_path / "keys", "old")
    sealed = await Codec(load_keys(file)).encode([PLAIN])
    assert b"secret" not in sealed[0].SerializeToString()
    newer = Codec(load_keys(ring(file, "new")))
    assert await newer.decode(sealed) == [PLAIN]
    assert (await newer.encode([PLAIN]))[0].metadata["key"] == b"new"
    assert await newer.decode([PLAIN]) == [PLAIN]


async def test_what_was_changed_or_lost_its_key_stays_shut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    codec = Codec(load_keys(ring(tmp_path / "keys", "b", "a")))
    (sealed,) = await codec.encode([PLAIN])
    changed = Payload(metadata=sealed.metadata, data=sealed.data[:-1] + bytes([sealed.data[-1] ^ 1]))
    renamed = Payload(metadata={**sealed.metadata, "key": b"b"}, data=sealed.data)
    empty = Payload(metadata={"encoding": ENCODING, "key": b"a"})
    for bad in (changed, renamed, empty):
        assert await codec.decode([bad, sealed]) == [bad, PLAIN]
        assert "it is not what key" in caplog.messages[-1]
    for gone in (b"gone", b""):
        lost = Payload(metadata={**sealed.metadata, "key": gone}, data=sealed.data)
        assert await codec.decode([lost]) == [lost]
        assert f"no payload key is called {gone!r}" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no key"), ("a AAAA", "keys:1 is no"), ("a !", "keys:1 is no"), (None, "cannot be read")],
)
def test_a_bad_key_file_is_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "keys").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_keys(tmp_path / "keys")


async def test_histories_hold_no_contents_and_a_plain_signal_still_decides(
    database: Database, temporal_server: Server, tmp_path: Path
) -> None:
    converter = data_converter(ring(tmp_path / "keys", "one"))
    client = await Client.connect(temporal_server.address, data_converter=converter)
    far = FarSide()
    async with environment(database, far) as env, working(await loaded(env), client):
        shipped, refused = begin(database, "ship", customer="hidden-customer"), begin(database, "undo")
        assert (await finished(database, shipped))["status"] == "completed"
        assert (await finished(database, refused, within=60))["error"] == "never"
        unsigned = {"allow_unsigned_signal": True}
        workflow = start(database, policy=unsigned)
        _, shown = await asked(database, workflow)
        name = row(database, workflow)["temporal_id"]
        body = json.dumps({"decision": "approve", "hash": shown})
        words = ["workflow", "signal", "--workflow-id", name, "--name", "decide", "--input", body]
        stock = [str(temporal.binary()), *words, "--address", temporal_server.address, "--disable-config-file"]
        await asyncio.to_thread(subprocess.run, stock, check=True, capture_output=True)
        assert (await finished(database, workflow))["result"]["decision"] == "approved"
    for run in (shipped, refused):
        handle: Any = client.get_workflow_handle(row(database, run)["temporal_id"])
        if run == refused:
            with pytest.raises(WorkflowFailureError):
                await handle.result()
        else:
            await handle.result()
        raw = b"".join(event.SerializeToString() for event in (await handle.fetch_history()).events)
        assert ENCODING in raw
        for secret in (b"hidden-customer", b"never", b"refund", b"customer"):
            assert secret not in raw


GARBAGE = [
    ["--input-meta", f"encoding={ENCODING.decode()}", "--input", "no-text-of-ours"],
    ["--input-meta", f"encoding={ENCODING.decode()}", "--input-meta", "key=gone", "--input", "no-text-of-ours"],
    ["--input-meta", "encoding=binary/weird", "--input", "weird"],
    ["--input", "1", "--input", "2"],
]


async def signal(server: Server, workflow: str, name: str, *given: str) -> None:
    """With the stock command, as anybody with access to Temporal can."""
    words = ["workflow", "signal", "--workflow-id", workflow, "--name", name, *given]
    stock = [str(temporal.binary()), *words, "--address", server.address, "--disable-config-file"]
    await asyncio.to_thread(subprocess.run, stock, check=True, capture_output=True)


@pytest.mark.parametrize("encrypted", [True, False])
async def test_a_signal_that_cannot_be_opened_is_refused_on_record_and_the_run_goes_on(
    database: Database, temporal_server: Server, tmp_path: Path, encrypted: bool
) -> None:
    converter = data_converter(ring(tmp_path / "keys", "one") if encrypted else None)
    client = await Client.connect(temporal_server.address, data_converter=converter)
    alice = token(database, "alice")
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        alone, run = start(database), begin(database, "ask_first")
        requests = [await asked(database, alone), await asked_by(database, run)]
        for workflow in (alone, run):
            for name in ("decide", "poke", "of nobody's"):
                for given in GARBAGE:
                    await signal(temporal_server, row(database, workflow)["temporal_id"], name, *given)
        request, shown = requests[0]
        await eventually(lambda: len(audit(database, request)) > len(GARBAGE))
        refused = [(who, action, detail["verdict"]) for who, action, detail in audit(database, request)[1:]]
        assert refused == [("(unauthenticated)", "approval.refused", "malformed")] * len(GARBAGE)
        for request, shown in requests:
            decide(database, alice, request, "approve", shown)
        assert (await finished(database, alone))["result"]["decision"] == "approved"
        await say(database, alice, run, "gate", "reject")
        assert (await finished(database, run))["result"]["post"] == "approved"


async def test_results_and_inputs_wait_for_a_key_that_is_missing(
    database: Database, temporal_server: Server, tmp_path: Path
) -> None:
    """Nobody but workers writes them: what they say must not be lost."""
    mine, other = ring(tmp_path / "keys", "one"), ring(tmp_path / "others", "two")
    clients = [
        await Client.connect(temporal_server.address, data_converter=data_converter(keys)) for keys in (mine, other)
    ]
    async with environment(database, FarSide()) as env:
        async with working(await loaded(env), clients[0]) as options:
            run = begin(database, "ask_first")
            request, shown = await asked_by(database, run)
        alice = token(database, "alice")
        decide(database, alice, request, "approve", shown)
        child = "SELECT temporal_id FROM backbeat.orchestrated_workflows WHERE parent_workflow = %s"
        handle: Any = clients[0].get_workflow_handle(database.value(child, [run]))
        async with working(await loaded(env), clients[1], options):
            while (await handle.describe()).raw_description.pending_workflow_task.attempt < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert row(database, run)["status"] == "waiting"
        async with working(await loaded(env), clients[0], options):
            await say(database, alice, run, "gate", "reject")
            assert (await finished(database, run, within=60))["result"]["post"] == "approved"


async def say(database: Database, who: str, run: UUID, step: str, decision: str) -> None:
    request, shown = await asked_by(database, run, step)
    assert decide(database, who, request, decision, shown)["verdict"] == "accepted"


async def asked_by(database: Database, run: UUID, step: str = "post") -> tuple[UUID, str]:
    """What a step of an orchestration asks people, once it does."""
    query = """SELECT r.id, r.hash
               FROM backbeat.approval_requests r JOIN backbeat.orchestrated_workflows w ON w.id = r.workflow_id
               WHERE (w.parent_workflow, w.parent_step) = (%s, %s)"""
    ((request, shown),) = await eventually(lambda: database.sql(query, [run, step]), within=60)
    return request, shown
