"""Charts as they are drawn: nothing runs off the picture, lies over something else, or is written in powers of ten."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.text import Text

from backbeat.reports.ask import Answer, Period
from backbeat.reports.catalog import find, names
from backbeat.reports.plot import _STYLE, draw

END = datetime(2026, 11, 23, tzinfo=UTC)
PERIOD = Period(END - timedelta(days=30), END)


def answer(name: str, rows: Sequence[Mapping[str, Any]], by: Sequence[str] = ()) -> Answer:
    """Rows that say this; a number where they say nothing."""
    report = find(name)
    keys = report.choose(by)
    columns = tuple(dict.fromkeys([*keys, *report.units]))
    return Answer(report, PERIOD, keys, columns, [tuple(row.get(c, 7) for c in columns) for row in rows], END)


def texts(of: Answer) -> list[tuple[str, Any]]:
    """What is written in a chart, and where, all of which must be within the picture."""
    with mpl.rc_context(_STYLE):
        figure = draw(of)
        figure.draw_without_rendering()
    axes = figure.axes[0]
    unseen = {
        text
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        for text in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    found = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in unseen]
    places = [(text.get_text(), text.get_window_extent()) for text in found]
    for text, place in places:
        assert 0 <= place.x0 < place.x1 <= figure.bbox.width, f"{text!r} runs off"
        assert 0 <= place.y0 < place.y1 <= figure.bbox.height, f"{text!r} runs off"
    return places


LONG = {
    "workflow": "a workflow of a name",
    "model": "claude-sonnet-4-6",
    "trace_id": "6e9f5a5ca14affca91475e9656068270",
}
CHARTS = {
    "latency": answer("latency", [{"model": f"claude-{n}", "p50_s": n, "p95_s": n, "p99_s": 2 * n} for n in (1, 2, 3)]),
    "budget by tier": answer(
        "budget",
        [{"tier": name, "forecast_month_usd": Decimal("466.6712")} for name in ("small", "medium", "large")],
        ["tier"],
    ),
    "graduation": answer(
        "graduation", [{**LONG, "threshold": f"sub-second need {n}", "of_limit": n} for n in range(72)]
    ),
    "slowest": answer("slowest", [{**LONG, "duration_s": 9.1 - n / 10} for n in range(20)]),
    "journey": answer("journey", [{"workflow": "code_review", "p50_s": 27_650_000.0, "p99_s": 28_501_433.0}]),
    "tokens": answer("prompts", [{"workflow": "x", "version": "1", "input_tokens_per_task": 28_501_433.0}]),
    "mix": answer("mix", [{"of": "tier", "name": "small", "share": 0.07, "usual": 0.1}]),
    "cost by day": answer(
        "cost", [{"day": date(2026, 11, n), "cost_usd": Decimal(2 * 10**7 + n)} for n in (1, 2, 3)], ["day"]
    ),
}


@pytest.mark.parametrize("name", CHARTS)
def test_nothing_runs_off_or_lies_over_something(name: str) -> None:
    places = texts(CHARTS[name])
    assert not [text for text, _ in places if "1e" in text]
    flat = [(text, place) for text, place in places if "20" not in text[:2]]  # dates are slanted
    for (one, here), (other, there) in combinations(flat, 2):
        assert not here.shrunk(0.9, 0.9).overlaps(there.shrunk(0.9, 0.9)), f"{one!r} lies over {other!r}"


def test_long_waits_are_shown_in_days() -> None:
    said = {text for text, _ in texts(CHARTS["journey"])}
    assert {"329.9", "[d]", "p99_d"} <= said
    hours = answer("journey", [{"workflow": "x", "p50_s": 7200.0, "p99_s": 86_400.0}])
    assert {"24", "[h]", "p99_h"} <= {text for text, _ in texts(hours)}
    assert "[s]" in {text for text, _ in texts(CHARTS["latency"])}


@pytest.mark.parametrize("name", names())
def test_every_report_fits_with_a_row_and_with_many(name: str) -> None:
    keys = find(name).choose()
    for count in (1, 40):
        rows = [
            dict.fromkeys(keys, f"name {n}") | {key: date(2026, 11, 1) for key in keys if key == "day"}
            for n in range(count)
        ]
        assert texts(answer(name, rows))
