"""The shipped examples stand side by side: somebody who tries two of them loads both."""

from shared.definitions import load_definitions
from temporal_worker.orchestrations import load
from tests.support.tree import ROOT


def test_all_examples_can_be_loaded_together() -> None:
    names = sorted(path.parent.name for path in (ROOT / "examples").glob("*/definitions.py"))
    registry = load_definitions([f"examples.{name}.definitions" for name in names])
    assert {"fulfil@1", "ship_from_regions@1"} <= registry.orchestrations.keys()
    assert load(registry.orchestrations.values()).workflows
