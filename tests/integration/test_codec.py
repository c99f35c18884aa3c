"""Payloads that Temporal stores: encrypted under a ring of keys, failures too; what is plain stays readable."""

import asyncio
import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError

from backbeat.embedded import temporal
from shared.errors import ConfigError
from shared.security.codec import ENCODING, Codec, data_converter, load_keys
from tests.integration.test_orchestrations import begin, loaded
from tests.support.approvals import start
from tests.support.databases import Database
from tests.support.temporal import FarSide, Server, asked, environment, finished, row, working

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


async def test_what_was_changed_or_lost_its_key_is_refused(tmp_path: Path) -> None:
    codec = Codec(load_keys(ring(tmp_path / "keys", "b", "a")))
    (sealed,) = await codec.encode([PLAIN])
    changed = Payload(metadata=sealed.metadata, data=sealed.data[:-1] + bytes([sealed.data[-1] ^ 1]))
    renamed = Payload(metadata={**sealed.metadata, "key": b"b"}, data=sealed.data)
    for bad in (changed, renamed):
        with pytest.raises(ConfigError, match="not what its key encrypted"):
            await codec.decode([bad])
    with pytest.raises(ConfigError, match="no payload key is called b'gone'"):
        await codec.decode([Payload(metadata={**sealed.metadata, "key": b"gone"}, data=sealed.data)])


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
