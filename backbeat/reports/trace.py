"""One whole trace as a tree: from the enqueuer through calls and approval to the effect."""

import io
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from backbeat.clickhouse import session
from backbeat.money import dollars
from shared.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client
    from rich.tree import Tree

_BOUNDS = "SELECT min(Start), max(End) FROM otel_traces_trace_id_ts WHERE TraceId = {trace:String} HAVING count() > 0"
_BEGINS = """
SELECT DISTINCT TraceId FROM otel_traces_trace_id_ts
WHERE TraceId BETWEEN {low:String} AND {high:String} ORDER BY TraceId LIMIT 2
"""
# Among the records of one span it chooses as v_spans does, but reads one trace only. The bounds are DateTime64:
# compared with a DateTime, ClickHouse 26.9 prunes parts whose last fraction of a second matches.
_SPANS = """
SELECT
    SpanId AS id, ParentSpanId AS parent, SpanName AS name, ServiceName AS service, StatusCode AS status,
    StatusMessage AS message, toUnixTimestamp64Nano(Timestamp) AS start, Duration AS duration,
    SpanAttributes AS attributes
FROM otel_traces
WHERE TraceId = {trace:String} AND Timestamp >= {first:DateTime64(9, 'UTC')}
    AND Timestamp < {last:DateTime64(9, 'UTC')} + INTERVAL 1 SECOND
ORDER BY
    attributes['backbeat.call_status'] = 'lost' OR attributes['backbeat.outcome'] = 'lost'
        OR attributes['backbeat.effect_status'] = 'unknown',
    ParentSpanId = '',
    Timestamp
LIMIT 1 BY SpanId
"""
_NOTES = ("backbeat.call_status", "backbeat.outcome", "backbeat.effect_status", "backbeat.validation")
_CALLS = ("chat", "generate_content", "text_completion", "embeddings")  # as llm_calls has them; a tool costs nothing
_AFTER = {"approval.voted": 1, "approval.decided": 2}  # what is told as of one moment, by cause
Span = Mapping[str, Any]


def trace_spans(client_or_url: "Client | str", trace_id: str) -> list[dict[str, Any]]:
    """A trace's spans, each once, by start: id, parent, name, status, message, service, start, duration, attributes.

    Times are nanoseconds. Raises InputError for what is no trace id, NotFoundError when it has no spans.
    """
    if len(trace_id) != 32 or not set(trace_id) <= set("0123456789abcdef"):
        raise InputError(f"{trace_id!r} is not a trace id", fix="Give its 32 hexadecimal digits")
    opened = session(client_or_url) if isinstance(client_or_url, str) else nullcontext(client_or_url)
    with opened as client:
        bounds = client.query(_BOUNDS, {"trace": trace_id}).result_rows
        if not bounds:
            raise NotFoundError(
                f"no span of trace {trace_id} is in ClickHouse",
                fix="`backbeat telemetry ship`, or correct the id; a task that ran with telemetry off has none",
            )
        first, last = bounds[0]
        answer = client.query(_SPANS, {"trace": trace_id, "first": first, "last": last})
        return sorted(answer.named_results(), key=_place)


def _place(span: Span) -> tuple[int, int, str]:
    return span["start"], _AFTER.get(span["name"], 0), span["id"]


def complete_trace(url: str, prefix: str) -> str:
    """The one trace id that begins with these hexadecimal digits. Raises NotFoundError, InputError when several do."""
    bounds = {"low": prefix.ljust(32, "0"), "high": prefix.ljust(32, "f")}
    with session(url) as client:
        found = [trace for (trace,) in client.query(_BEGINS, bounds).result_rows]
    if len(found) == 1:
        return str(found[0])
    if not found:
        fix = "Check it; `backbeat task list` names tasks"
        raise NotFoundError(f"there is no task or trace whose id begins with {prefix}", fix=fix)
    raise InputError(f"{prefix} may be {' or '.join(found)}", fix="Give more digits")


def trace_tree(client_or_url: "Client | str", trace_id: str) -> str:
    """The trace as text; a line a span: its start after the first one, its duration, status and cost.

    Raises what `trace_spans` raises.
    """
    from rich.console import Console
    from rich.tree import Tree

    spans = trace_spans(client_or_url, trace_id)
    known = {span["id"] for span in spans}
    children: dict[str, list[Span]] = {}
    for span in spans:
        children.setdefault(span["parent"] if span["parent"] in known else "", []).append(span)
    tree = Tree(_head(trace_id, spans), highlight=False)
    _grow(tree, "", children, spans[0]["start"])
    screen = io.StringIO()
    Console(file=screen, width=500, color_system=None, markup=False).print(tree)
    return "\n".join(line.rstrip() for line in screen.getvalue().splitlines()) + "\n"


def _grow(branch: "Tree", parent: str, children: Mapping[str, Sequence[Span]], began: int) -> None:
    for span in children.get(parent, ()):
        missing = "" if parent or not span["parent"] else f"  (its parent {span['parent']} is not here)"
        _grow(branch.add(_line(span, began) + missing), span["id"], children, began)


def _head(trace_id: str, spans: Sequence[Span]) -> str:
    began = datetime.fromtimestamp(spans[0]["start"] / 1e9, UTC)
    seconds = (max(span["start"] + span["duration"] for span in spans) - spans[0]["start"]) / 1e9
    costs = [_cost(span) for span in spans if _is_call(span)]
    unknown = f" + {costs.count(None)} unknown" if None in costs else ""
    cost = f", {dollars(sum((cost for cost in costs if cost is not None), Decimal()))}{unknown}" if costs else ""
    return f"trace {trace_id}: {len(spans)} spans from {began:%Y-%m-%d %H:%M:%S} UTC, {seconds:.3f} s{cost}"


def _line(span: Span, began: int) -> str:
    start, duration = (span["start"] - began) / 1e9, span["duration"] / 1e9
    notes = [span["attributes"][name] for name in _NOTES if span["attributes"].get(name, "none") != "none"]
    if _is_call(span):
        cost = _cost(span)
        notes.append("cost unknown" if cost is None else dollars(cost))
    failure = f"  ! {span['message'] or 'failed'}" if span["status"] == "Error" else ""
    return f"{span['name']}  +{start:.3f} s  {duration:.3f} s  {' '.join(notes)}".rstrip() + failure


def _is_call(span: Span) -> bool:
    return span["attributes"].get("gen_ai.operation.name") in _CALLS


def _cost(span: Span) -> Decimal | None:
    text = span["attributes"].get("backbeat.cost_usd")
    return Decimal(text) if text else None
