"""Campaigns: each has a seed, printed, and a long version under BACKBEAT_SOAK=1."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.support.rig import Rig
from tests.support.databases import Database

SOAK = os.environ.get("BACKBEAT_SOAK") == "1"
OpenRig = Callable[..., Rig]
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.durable)
            if SOAK:
                item.add_marker(pytest.mark.timeout(1800))
            elif item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="a long campaign: BACKBEAT_SOAK=1"))


@pytest.fixture
def open_rig(tmp_path: Path, seed: int) -> Iterator[OpenRig]:
    """Open a rig on a database; its settings are those of `Rig`."""
    with ExitStack() as stack:
        yield lambda database, **settings: stack.enter_context(Rig(database, tmp_path, seed=seed, **settings))


@pytest.fixture
def rig(open_rig: OpenRig, database: Database) -> Rig:
    """A rig with its defaults on the shared durable server."""
    return open_rig(database)


def soaking(short: Any, long: Any) -> Any:
    """The setting of a campaign: as `make test` runs it, or as `make soak` does."""
    return long if SOAK else short
