"""Steps that can be undone: when a later one fails, those before it are compensated in reverse order."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from backbeat.orchestrate.run import REGION, current
from backbeat.orchestrate.steps import effect, in_region, to_the_end, write
from shared.orchestration.messages import Write


class Saga:
    """Effects with their compensations. Leaving the block by an exception undoes what was done, last first.

    A compensation is registered before its step begins. It is itself an effect, tried until it is done, even when the
    workflow is cancelled, in the region of its step; where that certainly wrote nothing, nothing is undone.
    """

    def __init__(self) -> None:
        self._undo: list[tuple[str, str, dict[str, Any], str]] = []
        self._wrote: set[str] = set()

    async def step(
        self, key: str, kind: str, request: Mapping[str, Any], *, undo: tuple[str, Mapping[str, Any]] | None = None
    ) -> Any:
        """Make an effect, undone by another, (kind, request), should a later step fail; returns its outcome.

        The last step, which cannot be taken back, has no `undo`. Raises what `effect` raises.
        """
        if undo is not None:
            self._undo.append((key, undo[0], dict(undo[1]), REGION.get()))
        outcome = await effect(key, kind, request)
        self._wrote.add(key)
        return outcome

    async def __aenter__(self) -> "Saga":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception | asyncio.CancelledError):
            await to_the_end(self._compensate())

    async def _compensate(self) -> None:
        run = current()
        while self._undo:
            step, kind, request, region = self._undo[-1]
            with in_region(region), run.step(f"undo:{step}", "undo", effect=kind) as note:
                written = await write(note, Write(run.id, f"undo:{step}", kind, request, step, step in self._wrote))
                note.add(undone=written.status == "done")
            self._undo.pop()


def saga() -> Saga:
    """`async with saga() as steps: await steps.step(…, undo=…)`."""
    return Saga()
