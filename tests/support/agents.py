"""Agents as authors write them, whose input says what the simulated model decides; and what they did."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from backbeat import ToolError, writing_tool
from shared.execution.effects import EffectRefusedError


class Job(BaseModel):
    """`script` is what the simulated model decides, a JSON list of steps."""

    n: int
    script: str


class Found(BaseModel):
    summary: str


class Line(BaseModel):
    text: str


def job(n: int, *steps: dict[str, Any]) -> dict[str, Any]:
    """A payload whose agent takes these steps."""
    return {"n": n, "script": json.dumps(steps)}


def use(tool: str, **args: Any) -> dict[str, Any]:
    """A step that calls a tool."""
    return {"action": "tool_call", "tool": tool, "args": args or None}


DONE = {"action": "done", "args": {"summary": "all done"}}
NOTES = "AGENTS_NOTES"  # a directory: one file of its text for each note that was written


async def _write(request: dict[str, Any], mark: str) -> dict[str, Any]:
    if request["text"] == "refuse":
        raise EffectRefusedError("the far side takes no such text")
    (Path(os.environ[NOTES]) / f"{mark}-{time.monotonic_ns()}").write_text(request["text"])
    return {"written": request["text"]}


async def _look(_request: dict[str, Any], mark: str) -> dict[str, Any] | None:
    found = _texts(Path(os.environ[NOTES]), f"{mark}-*")
    return {"written": found[0]} if found else None


note = writing_tool(
    "note", description="Write a line down.", args=Line, perform=_write, read_back=_look, timeout=1.0, settle=1.0
)


async def look_up(word: str) -> dict[str, Any]:
    """Look a word up."""
    return {"word": word, "means": word[::-1]}


def slow(seconds: float) -> str:
    """Take so long, in a thread that nobody can end."""
    time.sleep(seconds)
    return "late"


async def fail(how: str) -> str:
    """Fail."""
    if how == "refuse":
        raise ToolError("no such word", fix="Ask for another")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ConnectionError(f"the far side is away ({how})")


async def long(size: int) -> str:
    """Answer a text of this size."""
    return "".join(str(n % 10) for n in range(size))


async def hang() -> str:
    """Never answer."""
    await asyncio.Event().wait()
    return ""


def written(directory: Path) -> list[str]:
    """What was written, a text for each time."""
    return _texts(directory, "*")


def _texts(directory: Path, pattern: str) -> list[str]:
    return [path.read_text() for path in directory.glob(pattern)]
