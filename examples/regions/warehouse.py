"""A region's warehouse, simulated: a file of what it was told, that only workers of its region reach.

REGION is where this worker is; WAREHOUSE is the directory of the file. A warehouse has 10 units.
"""

import fcntl
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from backbeat import EffectRefusedError

STOCK = 10


def _file(request: dict[str, Any]) -> Path:
    here = os.environ.get("REGION")
    if here != request["region"]:
        raise EffectRefusedError(f"this worker is in {here or 'no region'}, the warehouse in {request['region']}")
    return Path(os.environ["WAREHOUSE"]) / f"{here}.jsonl"


def writes(kind: str) -> Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]]:
    """A write of this kind; the mark is what a look finds it by. A reservation beyond the stock is refused."""

    async def perform(request: dict[str, Any], mark: str) -> dict[str, Any]:
        with _file(request).open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            told = [json.loads(line) for line in file]
            if kind == "reserve" and _taken(told) + request["units"] > STOCK:
                raise EffectRefusedError(f"{request['region']} has {STOCK - _taken(told)} units left")
            file.write(json.dumps({"kind": kind, "mark": mark, **request}) + "\n")
        return {"mark": mark}

    return perform


def looks(kind: str) -> Callable[[dict[str, Any], str], Awaitable[dict[str, Any] | None]]:
    """Whether the warehouse was told."""

    async def read_back(request: dict[str, Any], mark: str) -> dict[str, Any] | None:
        path = _file(request)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        known = any((one["kind"], one["mark"]) == (kind, mark) for one in map(json.loads, lines))
        return {"mark": mark} if known else None

    return read_back


def _taken(told: list[dict[str, Any]]) -> int:
    signs = {"reserve": 1, "confirm": 0, "cancel": -1}
    total: int = sum(signs[one["kind"]] * one["units"] for one in told)
    return total
