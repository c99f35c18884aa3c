"""The request log: JSON lines, each written to the file before the caller hears anything.

A request leaves a `start` line when its body was read and an `end` line when its outcome is certain, so
what the provider would bill can be added up after any process was killed. An `end` line repeats who asked.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.clock import wall


class JsonLog:
    """An append-only file of JSON lines. With `durable` a line is on the disk when `write` returns."""

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._durable = durable
        _drop_torn_line(path)

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line. Raises OSError when the disk refuses."""
        line = json.dumps({"at": wall().isoformat(timespec="microseconds"), **entry}, separators=(",", ":"))
        os.write(self._descriptor, line.encode() + b"\n")
        if self._durable:
            os.fsync(self._descriptor)


def _drop_torn_line(path: Path) -> None:
    """A writer killed in the middle of a line leaves a piece that the next line would be glued to."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a log, oldest first; a line still being written is left out."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a request log adds up to. `unanswered` requests have no `end`: the provider itself was killed."""

    calls: int = 0
    billed: int = 0
    unanswered: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


def totals(path: Path) -> Totals:
    """Add up the calls that were made and what they are billed for."""
    entries = list(read(path))
    ends = [entry for entry in entries if entry["event"] == "end"]
    billed = [entry for entry in ends if entry["billed"]]
    started = sum(entry["event"] == "start" for entry in entries)
    return Totals(
        calls=started,
        billed=len(billed),
        unanswered=started - len(ends),
        input_tokens=sum(entry["input_tokens"] for entry in billed),
        output_tokens=sum(entry["output_tokens"] for entry in billed),
    )
