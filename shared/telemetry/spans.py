"""What a span is, before any exporter sees it: one finished record with ids that follow from a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from shared.ids import SpanRef

Kind = Literal["internal", "client", "producer", "consumer", "server"]


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """A finished span. Times are nanoseconds since the epoch; `error` None means it went well."""

    name: str
    kind: Kind
    trace_id: str
    span_id: str
    parent_span_id: str | None
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    links: tuple[SpanRef, ...] = ()


class Telemetry(Protocol):
    """Where spans go. No method raises into the work it describes."""

    @property
    def shed(self) -> int:
        """How many spans were given up so far; no span is lost in any other way."""

    @property
    def untold(self) -> int:
        """How many of them are not counted on the disk, either."""

    def record(self, span: SpanRecord) -> None:
        """Keep a finished span for the next flush."""

    def flush(self) -> None:
        """Write what was recorded, waiting a bounded time at most."""

    def close(self) -> None:
        """Write the rest; nothing is recorded after this."""


class NullTelemetry:
    """`telemetry = "off"`: the same methods, nothing behind them, no OpenTelemetry imported."""

    shed = untold = 0

    def record(self, span: SpanRecord) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Nothing to write."""

    def close(self) -> None:
        """Nothing to close."""
