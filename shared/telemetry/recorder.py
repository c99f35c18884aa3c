"""Spans to where the settings say, without ever failing or holding up the work they describe."""

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from shared import clock
from shared.telemetry.otel import SCOPE, emit, row, tracer_provider
from shared.telemetry.spans import SpanRecord
from shared.telemetry.spool import MAX_SPANS, batches, count_shed, make_room, model_calls, write_batch

FLUSH_SECONDS = 0.05
CLOSE_SECONDS = 5.0
MAX_PENDING = 50_000  # spans waiting for a slow medium
MAX_SPOOL = 2**30  # bytes waiting for ClickHouse
LOOK_SECONDS = 60.0  # between looks at how many they are, and how old
Put = Callable[[list[Any]], int]  # takes a batch and returns how many of it were given up; may raise
_log = logging.getLogger("backbeat.telemetry")


class Recorder:
    """Telemetry to all of its writers; safe to use from several threads.

    A flush waits 50 ms at most, and the next one, or `close`, goes on with what is left. `provider` is OpenTelemetry's,
    for instrumentation that makes spans of its own.
    """

    def __init__(self, service: str, writers: "Sequence[Writer]") -> None:
        self._writers = writers
        self.provider = tracer_provider(service, [writer.keep for writer in writers])
        self._tracer = self.provider.get_tracer(SCOPE)

    @property
    def shed(self) -> int:
        """How many spans were given up so far; no span is lost in any other way."""
        return sum(writer.shed for writer in self._writers)

    @property
    def untold(self) -> int:
        """How many of them are not counted on the disk, either."""
        return sum(writer.untold for writer in self._writers)

    def record(self, span: SpanRecord) -> None:
        """Keep a finished span for the next flush."""
        try:
            emit(self._tracer, span)
        except Exception as error:
            self._writers[0].give_up(1, f"span {span.name!r} cannot be recorded: {error!r}")

    def flush(self) -> None:
        """Write what was recorded, waiting 50 ms at most."""
        until = clock.monotonic() + FLUSH_SECONDS
        for writer in self._writers:
            writer.hand_over()
        for writer in self._writers:
            writer.wait(until - clock.monotonic())

    def close(self) -> None:
        """Write the rest, waiting 5 s at most; what is then not written counts as shed."""
        self.flush()
        for writer in self._writers:
            writer.close()


class SpoolTelemetry(Recorder):
    """Telemetry `spool`: files on this host's disk."""

    def __init__(self, directory: Path, service: str) -> None:
        super().__init__(service, [Writer(spool(directory), directory)])


def spool(directory: Path, capacity: int = MAX_SPOOL) -> Put:
    """Into files on this host's disk. Over the capacity, what is no model call goes: the oldest, then what comes."""
    room, look_at = 0, 0.0

    def put(batch: list[bytes]) -> int:
        nonlocal room, look_at
        size = sum(map(len, batch))
        if size > room or clock.monotonic() > look_at:
            count_shed(directory, 0)  # while there is room for the file that counts
            room, look_at = capacity - make_room(directory, capacity - size), clock.monotonic() + LOOK_SECONDS
        kept = batch if size <= room else model_calls(batch)
        if kept:
            write_batch(directory, kept)
            room -= size
        return len(batch) - len(kept)

    return put


class Writer:
    """Writes spans in a thread of its own, so that a slow medium holds nobody up.

    What was shed is counted under `directory`. `form` is what becomes of a span that ends; `last`, the seconds that the
    end of the process may be put off.
    """

    def __init__(
        self, put: Put, directory: Path, where: str = "", form: Callable[[Any], Any] = row, last: float = CLOSE_SECONDS
    ) -> None:
        self.shed = self.untold = self._pending = 0
        self._put, self._directory, self._where = put, directory, where or str(directory)
        self._form, self._last = form, last
        self._buffer: list[Any] = []
        self._queue: SimpleQueue[list[Any]] = SimpleQueue()
        self._changed = threading.Condition()
        self._failing = False
        self._thread: threading.Thread | None = None

    def keep(self, span: Any) -> None:
        """Take a span that ended."""
        kept = self._form(span)
        with self._changed:
            self._buffer.append(kept)
            if len(self._buffer) >= MAX_SPANS:
                self.hand_over()

    def hand_over(self) -> None:
        """Give the thread what was taken, unless it is too far behind."""
        with self._changed:
            spans, self._buffer = self._buffer, []
            if spans and self._pending + len(spans) > MAX_PENDING:
                self.give_up(len(spans), "what is before them takes too long")
            elif spans:
                self._pending += len(spans)
                self._queue.put(spans)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="span writer", daemon=True)
                    self._thread.start()

    def wait(self, patience: float) -> bool:
        """Wait up to `patience` seconds; True once all that was ever handed over is done."""
        with self._changed:
            return self._changed.wait_for(lambda: self._pending == 0, patience)

    def close(self) -> None:
        """Wait for what is under way, then count as shed what is not written."""
        if not self.wait(self._last):
            with self._changed:
                self.give_up(self._pending, "they could not be written before the end")
                self._pending = 0

    def give_up(self, spans: int, why: str) -> None:
        """Count spans as shed, with a log line when shedding begins rather than each time."""
        with self._changed:
            self.shed += spans
            self.untold += spans
            if spans and not self._failing:
                self._failing = True
                _log.error("telemetry: %d spans shed, the work goes on: %s", spans, why)

    def _work(self) -> None:
        while True:
            for batch in batches(self._queue.get()):
                self._store(batch)
                with self._changed:
                    self._pending = max(0, self._pending - len(batch))
                    self._changed.notify_all()

    def _store(self, batch: list[Any]) -> None:
        shed, why = len(batch), f"{self._where} takes no more; is anybody shipping?"
        try:
            shed = self._put(batch)
        except Exception as error:
            why = f"{self._where} cannot be written: {error}"
        self.give_up(shed, why)
        self._failing = self._failing and shed > 0
        if untold := self.untold:
            with contextlib.suppress(Exception):  # the thread goes on, whatever the count's file is
                count_shed(self._directory, untold)
                with self._changed:
                    self.untold -= untold
