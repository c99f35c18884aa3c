"""Spans into spool files on this host's disk, without ever failing or holding up the work they describe."""

import logging
import threading
from pathlib import Path
from queue import SimpleQueue

from shared.telemetry.otel import emit, tracer_provider
from shared.telemetry.spans import SpanRecord
from shared.telemetry.spool import MAX_SPANS, SUFFIX, batches, stats, write_batch

FLUSH_SECONDS = 0.05
CLOSE_SECONDS = 5.0
MAX_PENDING = 50_000  # spans waiting for a slow disk
MAX_SPOOL = 2**30  # bytes waiting for ClickHouse; above it only model calls are kept
_MODEL_CALL = b'"gen_ai.operation.name"'
_log = logging.getLogger("backbeat.telemetry")


class SpoolTelemetry:
    """Telemetry `spool`; safe to use from several threads.

    A flush waits 50 ms for the disk at most, and the next one, or `close` with its 5 s, goes on with what
    is left. `provider` is OpenTelemetry's, for instrumentation that makes spans of its own.
    """

    def __init__(self, directory: Path, service: str) -> None:
        self._writer = Writer(directory)
        self._lines: list[bytes] = []
        self._lock = threading.Lock()
        self.provider = tracer_provider(service, self._keep)

    @property
    def shed(self) -> int:
        """How many spans were given up so far; no span is lost in any other way."""
        return self._writer.shed

    def record(self, span: SpanRecord) -> None:
        """Keep a finished span for the next flush."""
        try:
            emit(self.provider, span)
        except Exception as error:
            self._writer.give_up(1, f"span {span.name!r} cannot be recorded: {error!r}")

    def flush(self) -> None:
        """Write what was recorded, waiting 50 ms at most."""
        self._hand_over(FLUSH_SECONDS)

    def close(self) -> None:
        """Write the rest, waiting 5 s at most; what is then not on the disk counts as shed."""
        if not self._hand_over(CLOSE_SECONDS):
            self._writer.abandon()

    def _keep(self, line: bytes) -> None:
        with self._lock:
            self._lines.append(line)
            full = len(self._lines) >= MAX_SPANS
        if full:
            self._hand_over(0)

    def _hand_over(self, patience: float) -> bool:
        with self._lock:
            lines, self._lines = self._lines, []
        return self._writer.write(lines, patience)


class Writer:
    """Writes batches in a thread of its own, so that a slow disk holds nobody up."""

    def __init__(self, directory: Path, capacity: int = MAX_SPOOL) -> None:
        self.shed = 0
        self._directory, self._capacity = directory, capacity
        self._queue: SimpleQueue[list[bytes]] = SimpleQueue()
        self._changed = threading.Condition()
        self._pending = 0
        self._size: int | None = None
        self._failing = False
        self._thread: threading.Thread | None = None

    def write(self, lines: list[bytes], patience: float) -> bool:
        """Hand rows over, then wait up to `patience` seconds; True once all that was ever handed over is done."""
        with self._changed:
            if lines and self._pending + len(lines) > MAX_PENDING:
                self.give_up(len(lines), f"the disk under {self._directory} is too slow")
            elif lines:
                self._pending += len(lines)
                self._queue.put(lines)
                self._start()
            return self._changed.wait_for(lambda: self._pending == 0, patience)

    def abandon(self) -> None:
        """Count what is still not on the disk as shed: the process ends."""
        with self._changed:
            self.give_up(self._pending, f"the disk under {self._directory} did not answer before the end")
            self._pending = 0

    def give_up(self, spans: int, why: str) -> None:
        """Count spans as shed, with a log line when shedding begins rather than each time."""
        with self._changed:
            self.shed += spans
            if spans and not self._failing:
                self._failing = True
                _log.error("telemetry: %d spans shed, the work goes on: %s", spans, why)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="spool writer", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            for batch in batches(self._queue.get()):
                self._store(batch)
                with self._changed:
                    self._pending = max(0, self._pending - len(batch))
                    self._changed.notify_all()

    def _store(self, batch: list[bytes]) -> None:
        try:
            kept = self._within_capacity(batch)
            if kept:
                self._size = (self._size or 0) + write_batch(self._directory, kept).stat().st_size
                self._failing = self._failing and len(kept) < len(batch)
        except Exception as error:
            self.give_up(len(batch), f"{self._directory} cannot be written: {error}")

    def _within_capacity(self, batch: list[bytes]) -> list[bytes]:
        size = sum(map(len, batch))
        if self._size is None or self._size + size > self._capacity:
            self._size = sum(stat.st_size for stat in stats(self._directory, SUFFIX).values())
        if self._size + size <= self._capacity:
            return batch
        kept = [line for line in batch if _MODEL_CALL in line]
        self.give_up(len(batch) - len(kept), f"{self._directory} holds {self._size} bytes; is anybody shipping?")
        return kept
