"""The tiers as SVG: each one's accuracy with its interval on one axis, and the target as a line."""

import math
from collections.abc import Collection, Sequence
from html import escape

from backbeat.evaluate.score import TierScore
from backbeat.money import dollars

_LEFT, _WIDE, _RIGHT, _ROW, _TOP = 110, 440, 350, 48, 74  # pixels
_GOOD, _OPEN, _BAD = "#2f8a4a", "#c29a1b", "#c0392b"


def svg(title: str, scores: Sequence[TierScore], target: float, note: str, simulated: Collection[str] = ()) -> str:
    """A row a tier. Green: its lower bound reaches the target; red: its upper bound does not; else open.

    `simulated` are the tiers whose answers were made up.
    """
    floor = max(math.floor(10 * min([target, *(one.low for one in scores if one.answered)])) / 10, 0.0)
    floor = min(floor, 0.9)

    def at(share: float) -> float:
        return _LEFT + _WIDE * (share - floor) / (1 - floor)

    bottom = _TOP + _ROW * len(scores)
    size = f'width="{_LEFT + _WIDE + _RIGHT}" height="{bottom + 86}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="16" y="24" font-size="15">{escape(title)}</text>',
    ]
    heads = ((16, "tier"), (_LEFT + _WIDE + 16, "right answers, what one costs, seconds it takes"))
    parts += [f'<text x="{x}" y="{_TOP - 16}" fill="#555">{words}</text>' for x, words in heads]
    ticks = round((1 - floor) * 10)
    for n in range(ticks + 1):
        share = floor + n * (1 - floor) / ticks
        parts.append(f'<path d="M{at(share):.1f} {_TOP - 8}V{bottom}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{at(share):.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555">{share:.0%}</text>')
    parts.append(f'<path d="M{at(target):.1f} {_TOP - 8}V{bottom}" stroke="#2d6cc0" stroke-dasharray="5 3"/>')
    words = f"target {target:.0%}"
    parts.append(f'<text x="{at(target):.1f}" y="{_TOP - 14}" text-anchor="middle" fill="#2d6cc0">{words}</text>')
    for n, one in enumerate(scores):
        y = _TOP + _ROW * n + _ROW // 2
        parts += _row(one, y, at(one.low), at(one.high), at(one.accuracy or 0.0), target)
        apart = ", ".join(f"{reason} {count}" for reason, count in one.infrastructure.items())
        words = "; ".join(["simulated"] * (one.tier in simulated) + [f"not counted: {apart}"] * bool(apart))
        parts.append(f'<text x="{_LEFT + _WIDE + 16}" y="{y + 18}" fill="#555">{escape(words)}</text>')
    axis = "share of right answers, of those counted, with its 95 % Wilson interval"
    parts.append(f'<text x="{_LEFT + _WIDE / 2}" y="{bottom + 36}" text-anchor="middle" fill="#555">{axis}</text>')
    parts.append(f'<text x="16" y="{bottom + 66}">{escape(note)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(one: TierScore, y: int, low: float, high: float, middle: float, target: float) -> list[str]:
    color = _GOOD if one.low >= target else _BAD if one.high < target else _OPEN
    price = "price unknown" if one.usd_per_correct is None else f"{dollars(one.usd_per_correct)} a right one"
    seconds = "" if one.p50_seconds is None else f", p50 {one.p50_seconds:.1f} s"
    parts = [f'<text x="16" y="{y + 4}" font-weight="bold">{escape(one.tier)}</text>']
    if one.answered:
        parts.append(
            f'<path d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 6}v12M{high:.1f} {y - 6}v12" stroke="{color}"/>'
        )
        parts.append(f'<circle cx="{middle:.1f}" cy="{y}" r="5" fill="{color}"/>')
    words = f"{one.correct} of {one.answered} right; {price}{seconds}"
    parts.append(f'<text x="{_LEFT + _WIDE + 16}" y="{y + 4}">{escape(words)}</text>')
    return parts
