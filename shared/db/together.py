"""One statement for what many ask at the same time: rows that everybody locks are locked once for all of them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from shared.errors import UnavailableError

MOST = 64  # in one statement


class Together:
    """Sends as one batch what was asked while the batch before was under way; a lone question goes at once.

    `send` takes the questions and returns the answers by place, counted from 1; a place may be absent.
    """

    def __init__(self, send: Callable[[Sequence[Any]], Awaitable[dict[int, Any]]]) -> None:
        self._send = send
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def ask(self, question: Any) -> Any:
        """The answer, or None where the batch has none. Raises what sending it raised."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                await self._answer(batch)
        finally:
            self._sender = None

    async def _answer(self, batch: Sequence[tuple[Any, asyncio.Future[Any]]]) -> None:
        try:
            answers = await self._send([question for question, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, UnavailableError):
                # One of them is bad, and must not fail the others.
                for one in batch:
                    await self._answer([one])
            for future in _waited_for(batch).values():
                future.set_exception(error)
        else:
            for place, future in _waited_for(batch).items():
                future.set_result(answers.get(place))


def _waited_for(batch: Sequence[tuple[Any, asyncio.Future[Any]]]) -> dict[int, asyncio.Future[Any]]:
    return {place: future for place, (_, future) in enumerate(batch, 1) if not future.done()}
