"""A run drawn from its steps, as text and as SVG. Steps that overlap in time stand side by side."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape

Row = Mapping[str, Any]
_SIGNS = {"done": "✓", "failed": "✗", "cancelled": "–", "waiting": "…", "running": "▸"}
_FILLS = {"done": "#e3f4e6", "failed": "#fbe3e1", "cancelled": "#ececec", "waiting": "#fdf3d3", "running": "#e1ecfb"}
_LINES = {"done": "#3b8f4c", "failed": "#c0392b", "cancelled": "#888888", "waiting": "#c29a1b", "running": "#2d6cc0"}
_WIDTH, _HEIGHT, _GAP, _MARGIN = 210, 46, 26, 20
_SHORT = 28  # letters of a step's name that fit its box


def layers(steps: Sequence[Row]) -> list[list[Row]]:
    """The steps in rows: those of one row ran at the same time as the first of it, and no later row's did."""
    found: list[list[Row]] = []
    ends: datetime | None = None
    for step in sorted(steps, key=lambda one: (one["started_at"], one["seq"])):
        # What holds others (a barrier) is drawn before them, not beside.
        holds = found and found[-1][0]["kind"] == "barrier"
        if found and not holds and step["kind"] != "barrier" and (ends is None or step["started_at"] < ends):
            found[-1].append(step)
        else:
            found.append([step])
        last = [one["ended_at"] for one in found[-1]]
        ends = None if None in last else max(last)
    return found


def as_text(run: Row, steps: Sequence[Row]) -> str:
    """A line a step; steps that ran together are joined by a bracket."""
    name, status = run["workflow"], run["status"]
    lines = [f"{name}@{run['version']} {run['id']}: {status}"]
    for layer in layers(steps):
        for place, step in enumerate(layer):
            last = place == len(layer) - 1
            bar = "│ " if len(layer) == 1 else "├┬" if place == 0 else "│└" if last else "│├"
            sign, took = _SIGNS[step["status"]], _took(step)
            waits = f"  waits for {step['waits_for']}" if step["waits_for"] else ""
            problem = f"  {step['detail']['error']}" if step["detail"] and "error" in step["detail"] else ""
            lines.append(f"{bar} {sign} {step['step']} ({step['kind']}){took}{waits}{problem}")
    end = run["error"] or run["waiting_for"] or ""
    lines.append(f"└─ {status}{': ' + end if end else ''}")
    return "\n".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines)


def as_svg(run: Row, steps: Sequence[Row]) -> str:
    """A picture: boxes from top to bottom, coloured by how each step stands."""
    rows = layers(steps)
    widest = max([len(row) for row in rows], default=1)
    width = 2 * _MARGIN + widest * _WIDTH + (widest - 1) * _GAP
    top = _MARGIN + 24
    height = top + (len(rows) + 1) * (_HEIGHT + _GAP) + _MARGIN
    middle = width / 2
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
            ' font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{width}" height="{height}" fill="white"/>',
        (
            f'<text x="{middle}" y="{_MARGIN}" text-anchor="middle" font-weight="bold">'
            f"{_safe(run['workflow'])}@{run['version']} · {str(run['id'])[:8]}</text>"
        ),
    ]
    above: list[float] = []
    for number, row in enumerate(rows):
        y = top + number * (_HEIGHT + _GAP)
        span = len(row) * _WIDTH + (len(row) - 1) * _GAP
        places = [middle - span / 2 + _WIDTH / 2 + at * (_WIDTH + _GAP) for at in range(len(row))]
        parts += _joins(above, places, y)
        parts += [_box(x, y, step) for x, step in zip(places, row, strict=True)]
        above = places
    y = top + len(rows) * (_HEIGHT + _GAP)
    parts += _joins(above, [middle], y)
    end = {"step": run["status"], "kind": run["error"] or run["waiting_for"] or "", "status": _end(run["status"])}
    parts.append(_box(middle, y, {**end, "started_at": None, "ended_at": None, "waits_for": None, "detail": {}}))
    return "\n".join([*parts, "</svg>"])


def _end(status: str) -> str:
    return {"completed": "done", "starting": "running"}.get(status, status)


def _joins(above: Sequence[float], below: Sequence[float], y: float) -> list[str]:
    half = _GAP / 2
    return [
        f'<path d="M{a} {y - _GAP} V{y - half} H{b} V{y}" fill="none" stroke="#999"/>' for a in above for b in below
    ]


def _box(x: float, y: float, step: Row) -> str:
    status = step["status"]
    under = step["waits_for"] or f"{step['kind']}{_took(step)}"
    return (
        f"<g><title>{_safe(step['step'])}: {_safe(under)}</title>"
        f'<rect x="{x - _WIDTH / 2}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{_FILLS[status]}"'
        f' stroke="{_LINES[status]}"/>'
        f'<text x="{x}" y="{y + 19}" text-anchor="middle">{_SIGNS[status]} {_cut(step["step"], _SHORT)}</text>'
        f'<text x="{x}" y="{y + 36}" text-anchor="middle" fill="#555" font-size="10">'
        f"{_cut(under, _SHORT + 6)}</text></g>"
    )


def _took(step: Row) -> str:
    if not step["ended_at"]:
        return ""
    seconds = (step["ended_at"] - step["started_at"]).total_seconds()
    if seconds < 120:
        return f" {seconds:.1f} s"
    return f" {seconds / 60:.0f} min" if seconds < 7200 else f" {seconds / 3600:.0f} h"


def _cut(text: str, letters: int) -> str:
    return _safe(text if len(text) <= letters else text[: letters - 1] + "…")


def _safe(text: str) -> str:
    return escape("".join(c if c.isprintable() else " " for c in text), {'"': "&quot;"})
