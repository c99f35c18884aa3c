"""Waiting for something to become true, instead of sleeping and hoping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(probe: Callable[[], T], *, within: float = 30.0, what: str = "") -> T:
    """Ask `probe` until its answer is true and return that. Raises AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what or probe}"
        time.sleep(0.02)
    return answer
