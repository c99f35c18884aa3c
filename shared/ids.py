"""Identifiers: idempotency keys, and span ids that follow from a row's identity.

A span id is a function of the row it describes, so a span written twice (by a worker that died after
flushing, and by the reaper that found its row) is one span, and the spans that must exist can be
counted from Postgres alone. The same formulas stand in SQL as `backbeat.trace_id` and `backbeat.span_id`.
"""

import hashlib
import json
from typing import Any, NamedTuple

_LIMIT = 2**53
_DEEPEST = 100  # levels of lists and objects
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False)


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


def canonical(value: Any) -> bytes:
    """The one JSON text of a value (RFC 8785), as `backbeat.canonical` writes it in SQL.

    Numbers are doubles and must be below 2**53: beyond that different integers would be one number. Raises
    ValueError for what has no such form or cannot be stored: NaN, NUL and lone surrogates in text, 100 levels.
    """
    if _is_plain(value, _DEEPEST):
        return _ENCODER.encode(value).encode()
    import rfc8785

    return rfc8785.dumps(value)


def _is_plain(value: Any, levels: int) -> bool:
    """Whether the standard encoder writes it canonically: no fractions, no keys beyond ASCII. Raises ValueError."""
    kind = type(value)
    if kind is str:
        if "\0" in value:
            raise ValueError("text with NUL")
        return True
    if kind is int or kind is float:
        if not -_LIMIT < value < _LIMIT:
            raise ValueError(f"the number {value!r:.40} is not below 2**53")
        return kind is int
    if kind is dict or kind is list or kind is tuple:
        if not levels:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
        plain = True
        if kind is dict:
            for key in value:
                plain = _is_plain(key, 0) and type(key) is str and key.isascii() and plain
            value = value.values()
        for item in value:
            plain = _is_plain(item, levels - 1) and plain
        return plain
    if value is None or kind is bool:
        return True
    raise ValueError(f"{kind.__name__} is not JSON")


def idempotency_key(workflow: str, version: int, payload: Any, salt: str = "") -> bytes:
    """The article's key: sha256 of the canonical JSON array [workflow, version, hex sha256 of the payload, salt].

    The payload is hashed in its canonical form, so key order and number spelling do not matter. The same formula
    stands in SQL as `backbeat.idempotency_key`. Raises ValueError when the payload has no canonical form.
    """
    return key_of(workflow, version, canonical(payload), salt)


def key_of(workflow: str, version: int, payload: bytes, salt: str = "") -> bytes:
    """The idempotency key of a payload that is in canonical form already."""
    body = hashlib.sha256(payload).hexdigest()
    return hashlib.sha256(f'[{_ENCODER.encode(workflow)},{version},"{body}",{_ENCODER.encode(salt)}]'.encode()).digest()


def payload_hash(payload: Any) -> str:
    """Hex sha256 of the canonical JSON form (RFC 8785): what an approver was shown, what an effect will send."""
    import rfc8785

    return hashlib.sha256(rfc8785.dumps(payload)).hexdigest()
