"""Identifiers: idempotency keys, and span ids that follow from a row's identity.

A span id is a function of the row it describes, so a span written twice (by a worker that died after
flushing, and by the reaper that found its row) is one span, and the spans that must exist can be
counted from Postgres alone. The same formulas stand in SQL as `backbeat.trace_id` and `backbeat.span_id`.
"""

import hashlib
from typing import Any, NamedTuple


class SpanRef(NamedTuple):
    """A W3C trace context: 32 and 16 hex digits."""

    trace_id: str
    span_id: str

    @property
    def traceparent(self) -> str:
        """The header form, always sampled."""
        return f"00-{self.trace_id}-{self.span_id}-01"


def parse_traceparent(text: str) -> SpanRef:
    """Read a `traceparent` header. Raises ValueError when it is none."""
    version, trace_id, span, _flags, *_rest = text.split("-")
    if len(version) != 2 or len(trace_id) != 32 or len(span) != 16 or not int(trace_id, 16) or not int(span, 16):
        raise ValueError(f"not a traceparent: {text!r}")
    return SpanRef(trace_id.lower(), span.lower())


def digest(*parts: object) -> str:
    """32 hex digits: the first 16 bytes of sha256 over the parts joined by colons."""
    return hashlib.sha256(":".join(str(part) for part in parts).encode()).hexdigest()[:32]


def trace_id(*parts: object) -> str:
    """32 hex digits."""
    return digest(*parts)


def span_id(*parts: object) -> str:
    """16 hex digits: the first half of a digest."""
    return digest(*parts)[:16]


def idempotency_key(workflow: str, version: int, payload: Any, salt: str = "") -> bytes:
    """The article's key: sha256 of the JSON array [workflow, version, sha256(payload), salt].

    The payload is hashed in its canonical form (RFC 8785), so key order and number spelling do not
    matter; the array is canonical too. Raises ValueError when the payload has no canonical form
    (NaN, an integer beyond 2**53).
    """
    import rfc8785

    body = hashlib.sha256(rfc8785.dumps(payload)).hexdigest()
    return hashlib.sha256(rfc8785.dumps([workflow, version, body, salt])).digest()


def payload_hash(payload: Any) -> str:
    """Hex sha256 of the canonical JSON form (RFC 8785): what an approver was shown, what an effect will send."""
    import rfc8785

    return hashlib.sha256(rfc8785.dumps(payload)).hexdigest()
