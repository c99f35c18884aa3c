"""OpenTelemetry's SDK with our ids: a span becomes a row of `otel_traces` the moment it ends."""

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from shared.ids import SpanRef
from shared.telemetry.spans import SpanRecord

SCOPE = "backbeat"
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_given: ContextVar[SpanRef | None] = ContextVar("ids of the span being recorded", default=None)


class _Ids(RandomIdGenerator):
    def generate_span_id(self) -> int:
        ref = _given.get()
        return int(ref.span_id, 16) if ref else super().generate_span_id()

    def generate_trace_id(self) -> int:
        ref = _given.get()
        return int(ref.trace_id, 16) if ref else super().generate_trace_id()

    def is_trace_id_random(self) -> bool:
        return False


class _Ended(SpanProcessor):
    def __init__(self, keep: Callable[[ReadableSpan], None]) -> None:
        self._keep = keep

    def on_end(self, span: ReadableSpan) -> None:
        self._keep(span)


def tracer_provider(service: str, keeps: Sequence[Callable[[ReadableSpan], None]]) -> TracerProvider:
    """A provider that gives each ended span to all of `keeps`.

    It samples everything: a caller who does not sample must not make a model call disappear.
    """
    try:
        release = version("backbeat")
    except PackageNotFoundError:
        release = ""
    about = {
        "service.name": service,
        "service.namespace": "backbeat",
        "service.version": release,
        "host.name": socket.gethostname(),
    }
    provider = TracerProvider(ALWAYS_ON, Resource.create(about), shutdown_on_exit=False, id_generator=_Ids())
    for keep in keeps:
        provider.add_span_processor(_Ended(keep))
    return provider


def emit(tracer: trace.Tracer, record: SpanRecord) -> None:
    """Run one finished span through its provider, with its own ids and times."""
    context = Context()
    if record.parent_span_id:
        parent = SpanRef(record.trace_id, record.parent_span_id)
        context = trace.set_span_in_context(NonRecordingSpan(_remote(parent)), context)
    token = _given.set(SpanRef(record.trace_id, record.span_id))
    try:
        span = tracer.start_span(
            record.name,
            context=context,
            kind=SpanKind[record.kind.upper()],
            attributes={name: _value(value) for name, value in record.attributes.items() if value is not None},
            links=[Link(_remote(ref)) for ref in record.links],
            start_time=record.start_ns,
        )
    finally:
        _given.reset(token)
    if record.error is not None:
        span.set_status(Status(StatusCode.ERROR, record.error))
    span.end(record.end_ns)


def _remote(ref: SpanRef) -> SpanContext:
    return SpanContext(int(ref.trace_id, 16), int(ref.span_id, 16), is_remote=True, trace_flags=_SAMPLED)


def _value(value: Any) -> Any:
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [str(item) for item in value]
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def row(span: ReadableSpan) -> bytes:
    """One line of JSONEachRow."""
    context, start = span.get_span_context() or trace.INVALID_SPAN_CONTEXT, span.start_time or 0
    scope, resource = span.instrumentation_scope, span.resource.attributes
    columns = {
        "Timestamp": _time(start),
        "TraceId": f"{context.trace_id:032x}",
        "SpanId": f"{context.span_id:016x}",
        "ParentSpanId": f"{span.parent.span_id:016x}" if span.parent else "",
        "TraceState": context.trace_state.to_header(),
        "SpanName": span.name,
        "SpanKind": span.kind.name.capitalize(),
        "ServiceName": _text(resource.get("service.name", "")),
        "ResourceAttributes": _texts(resource),
        "ScopeName": scope.name if scope else "",
        "ScopeVersion": (scope.version or "") if scope else "",
        "SpanAttributes": _texts(span.attributes),
        "Duration": max(0, (span.end_time or start) - start),
        "StatusCode": span.status.status_code.name.capitalize(),
        "StatusMessage": span.status.description or "",
        "Events.Timestamp": [_time(event.timestamp) for event in span.events],
        "Events.Name": [event.name for event in span.events],
        "Events.Attributes": [_texts(event.attributes) for event in span.events],
        "Links.TraceId": [f"{link.context.trace_id:032x}" for link in span.links],
        "Links.SpanId": [f"{link.context.span_id:016x}" for link in span.links],
        "Links.TraceState": [link.context.trace_state.to_header() for link in span.links],
        "Links.Attributes": [_texts(link.attributes) for link in span.links],
    }
    # A lone surrogate in one text would make ClickHouse refuse the whole file.
    return json.dumps(columns, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def _time(ns: int) -> str:
    """Seconds since the epoch, to the nanosecond: no server's time zone can misread that."""
    return f"{ns // 1_000_000_000}.{ns % 1_000_000_000:09d}"


def _texts(attributes: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: _text(value) for name, value in (attributes or {}).items()}


def _text(value: Any) -> str:
    if type(value) is int:
        return str(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
