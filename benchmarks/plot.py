"""A picture of some series over the days, as SVG: one panel a series."""

from collections.abc import Mapping, Sequence
from html import escape

WIDE, HIGH, LEFT, GAP = 640, 120, 90, 46  # pixels


def svg(title: str, series: Mapping[str, Sequence[float]], mark: int, told: str) -> str:
    """One panel a series, each from zero, with a line at place `mark` that `told` explains."""
    panels = [_panel(n, name, values, mark) for n, (name, values) in enumerate(series.items())]
    high = GAP + len(panels) * (HIGH + GAP)
    size = f'width="{LEFT + WIDE + 20}" height="{high + 20}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    words = f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>'
    note = f'<text x="{LEFT}" y="{high + 4}" fill="#c33">| {escape(told)}</text>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', words, *panels, note, "</svg>"]) + "\n"


def _panel(n: int, name: str, values: Sequence[float], mark: int) -> str:
    top = GAP + n * (HIGH + GAP)
    most = max(values) or 1.0
    step = WIDE / max(len(values) - 1, 1)
    points = " ".join(f"{LEFT + i * step:.1f},{top + HIGH * (1 - v / most):.1f}" for i, v in enumerate(values))
    at = LEFT + mark * step
    return "\n".join(
        [
            f'<text x="{LEFT}" y="{top - 6}">{escape(name)}</text>',
            f'<path d="M{LEFT} {top}V{top + HIGH}H{LEFT + WIDE}" fill="none" stroke="#999"/>',
            f'<path d="M{at:.1f} {top}V{top + HIGH}" stroke="#c33" stroke-dasharray="3"/>',
            f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most:,.0f}</text>',
            f'<text x="{LEFT - 6}" y="{top + HIGH}" text-anchor="end">0</text>',
            f'<text x="{LEFT + WIDE}" y="{top + HIGH + 14}" text-anchor="end">day {len(values)}</text>',
            f'<polyline points="{points}" fill="none" stroke="#36c" stroke-width="2"/>',
        ]
    )
