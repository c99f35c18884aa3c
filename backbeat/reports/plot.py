"""A report's answer as SVG. Every chart says its title, units, n, period, source and how far the data reach.

bars COLUMN      a bar a row
ranges COLUMN…   a line a row from the first column's value to the last's, with a dot at each
parts COLUMN…    a bar a row, stacked of columns that add up, below zero to the left
shares COLUMN TARGET   a bar a row, and a mark where it should end

With a column of time (day, week, month, hour) any of them is a curve over it, one a combination of the other keys.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, time
from textwrap import fill
from threading import Lock
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from backbeat.reports.ask import Answer
from backbeat.reports.catalog import TIMES
from backbeat.reports.render import provenance, shown
from backbeat.visible import clean, one_line
from shared.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS, MOST_CURVES = 30, 10
_COLORS = ("#2d6cc0", "#c77b1a", "#2f8a4a", "#a83279", "#6b6b6b", "#8c6d1f", "#1a8c8c", "#c0392b", "#5b4bb7", "#7a9a01")
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "backbeat",
    "text.parse_math": False,  # a dollar is a dollar
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "xtick.color": "#444444",
    "ytick.color": "#222222",
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
}
_WIDE, _ROW, _MARGINS, _CURVES = 9.0, 0.32, 1.9, 4.4  # inches
_LONGEST, _LINE = 58, 120  # characters of a label, and of a line below the chart
_LONG = {"d": 86_400, "h": 3_600}  # seconds
_drawing = Lock()  # matplotlib's settings are the process'


def render_svg(answer: Answer) -> str:
    """The same answer makes the same bytes. Raises ConfigError where the plotting library is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        fix = "Install the extra `plots`: pip install 'backbeat[plots]'"
        raise ConfigError("no charts without matplotlib", fix=fix) from None
    out = io.StringIO()
    with _drawing, mpl.rc_context(_STYLE):
        draw(answer).savefig(out, format="svg", metadata={"Date": None, "Creator": "Backbeat"})
    return out.getvalue()


def draw(answer: Answer) -> "Figure":
    """The chart."""
    from matplotlib.figure import Figure

    answer = _in_sensible_units(answer)
    over = next((name for name in (*TIMES, "hour") if name in answer.columns), None)
    rows = min(len(answer.rows), MOST_ROWS)
    high = 2.2 if not rows else _CURVES if over else _MARGINS + _ROW * max(rows, 2)
    figure = Figure(figsize=(_WIDE, high), layout="constrained")
    axes = figure.add_subplot()
    if not rows:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing in this period", ha="center", va="center", color="#555555", fontsize=12)
    elif over:
        _curves(axes, answer, over)
    else:
        _KINDS[answer.report.chart[0]](axes, answer, answer.report.chart[1:])
    _frame(figure, answer, over)
    return figure


def _in_sensible_units(answer: Answer) -> Answer:
    """Seconds as hours or days where they are many: columns, legend and axis."""
    report = answer.report
    seconds = [name for name in report.chart[1:] if name.endswith("_s") and report.units[name] == "s"]
    most = max((abs(value) for name in seconds for value in answer.column(name) if value is not None), default=0)
    unit = next((unit for unit in _LONG if most >= 2 * _LONG[unit]), None)
    if unit is None:
        return answer
    names = {name: f"{name[:-1]}{unit}" for name in seconds}
    units = {names.get(name, name): unit if name in names else said for name, said in report.units.items()}
    chart = tuple(names.get(word, word) for word in report.chart)
    rows = [
        tuple(
            value / _LONG[unit] if name in names and value is not None else value
            for name, value in zip(answer.columns, row, strict=True)
        )
        for row in answer.rows
    ]
    columns = tuple(names.get(name, name) for name in answer.columns)
    return replace(answer, report=replace(report, chart=chart, units=units), columns=columns, rows=rows)


def _frame(figure: "Figure", answer: Answer, over: str | None) -> None:
    column = answer.report.chart[-1]
    gaps = "; a gap is unknown" if over and None in answer.column(column) else ""
    cut = f"; the first {MOST_ROWS} of {len(answer.rows)} rows" if len(answer.rows) > MOST_ROWS and not over else ""
    figure.suptitle(clean(answer.report.title), x=0.01, ha="left", fontsize=13)
    foot = fill(clean(provenance(answer) + gaps + cut), _LINE)
    figure.supxlabel(foot, x=0.01, ha="left", fontsize=8, color="#555555")
    figure.set_figheight(figure.get_figheight() + foot.count("\n") * 0.15)


def _bars(axes: "Axes", answer: Answer, columns: Sequence[str]) -> None:
    values = answer.column(columns[0])[:MOST_ROWS]
    axes.barh(range(len(values)), [_number(value) or 0.0 for value in values], color=_COLORS[0], height=0.62)
    for at, value in enumerate(values):
        _write(axes, _number(value) or 0.0, at, shown(value))
    _rows(axes, answer, columns)


def _ranges(axes: "Axes", answer: Answer, columns: Sequence[str]) -> None:
    for at, row in enumerate(answer.records()[:MOST_ROWS]):
        known = [(_number(row[name]), index) for index, name in enumerate(columns) if row[name] is not None]
        if not known:
            _write(axes, 0.0, at, shown(None))
            continue
        places = [place or 0.0 for place, _ in known]
        axes.plot([min(places), max(places)], [at, at], color="#999999", linewidth=2, zorder=1)
        axes.scatter(places, [at] * len(places), c=[_COLORS[index] for _, index in known], s=34, zorder=2)
        _write(axes, max(places), at, shown(row[columns[-1]]))
    _rows(axes, answer, columns)
    _legend(axes, columns, "o")


def _parts(axes: "Axes", answer: Answer, columns: Sequence[str]) -> None:
    for at, row in enumerate(answer.records()[:MOST_ROWS]):
        left = right = 0.0
        for index, name in enumerate(columns):
            value = _number(row[name])
            if value:
                start = right if value > 0 else left
                axes.barh(at, value, left=start, color=_COLORS[index], height=0.62)
                left, right = (left, right + value) if value > 0 else (left + value, right)
        known = [row[name] for name in columns]
        _write(axes, right, at, shown(None) if None in known else f"{sum(map(float, known)):+.3f}")
    axes.axvline(0, color="#444444", linewidth=0.8)
    _rows(axes, answer, columns)
    _legend(axes, columns, "s")


def _shares(axes: "Axes", answer: Answer, columns: Sequence[str]) -> None:
    values, targets = (answer.column(name)[:MOST_ROWS] for name in columns)
    axes.barh(range(len(values)), [_number(value) or 0.0 for value in values], color=_COLORS[0], height=0.62)
    for at, (value, target) in enumerate(zip(values, targets, strict=True)):
        _write(axes, max(_number(value) or 0.0, _number(target) or 0.0), at, shown(value))
        if target is not None:
            axes.plot([float(target)] * 2, [at - 0.42, at + 0.42], color="#c0392b", linewidth=2)
    _rows(axes, answer, columns[:1])
    _legend(axes, [columns[1]], "|", "#c0392b")


_KINDS = {"bars": _bars, "ranges": _ranges, "parts": _parts, "shares": _shares}


def _curves(axes: "Axes", answer: Answer, over: str) -> None:
    column = answer.report.chart[1] if answer.report.chart[0] != "ranges" else answer.report.chart[-1]
    series: dict[str, list[tuple[Any, float | None]]] = {}
    for row in answer.records():
        label = " ".join(shown(row[key]) for key in answer.by if key != over) or column
        series.setdefault(label, []).append((_time(row[over]), _number(row[column])))
    for index, (label, points) in enumerate(list(series.items())[:MOST_CURVES]):
        times = [at for at, _ in points]
        values = [float("nan") if value is None else value for _, value in points]
        color = _COLORS[index % len(_COLORS)]
        axes.plot(
            times, values, color=color, marker="o", markersize=3.5, linewidth=1.6, label=_label(label), clip_on=False
        )
    axes.grid(axis="y")
    axes.yaxis.set_major_formatter(_plain)
    low, high = axes.get_ylim()
    axes.set_ylim(min(0.0, low), high if high > 0 else 1.0)
    zone = ZoneInfo(answer.period.zone)
    ends: Any = [at.astimezone(zone).replace(tzinfo=None) for at in (answer.period.since, answer.period.until)]
    axes.set_xlim(min([ends[0], *(at for points in series.values() for at, _ in points)]), ends[1])
    if all(value is None for value in answer.column(column)):
        axes.text(0.5, 0.5, shown(None), ha="center", va="center", color="#555555", transform=axes.transAxes)
    axes.set_ylabel(_unit(answer, [column]))
    if len(series) > 1 or column not in series:
        more = f"; {len(series) - MOST_CURVES} more" if len(series) > MOST_CURVES else ""
        title = _label(" ".join(key for key in answer.by if key != over) + more)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, title=title)
    axes.figure.autofmt_xdate()


def _rows(axes: "Axes", answer: Answer, columns: Sequence[str]) -> None:
    rows = answer.records()[:MOST_ROWS]
    labels = [" · ".join(shown(row[key]) if row[key] != "" else "–" for key in answer.by) for row in rows]
    axes.set_yticks(range(len(rows)), [_label(label) for label in labels])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_title(_label(" · ".join(answer.by)), loc="left", fontsize=8, color="#555555")
    axes.margins(x=0.14)
    axes.xaxis.set_major_formatter(_plain)
    high = axes.get_xlim()[1]
    if axes.dataLim.x0 >= 0:
        axes.set_xlim(0, high if high > 0 else 1.0)
    axes.grid(axis="x")
    axes.set_xlabel(_unit(answer, columns))


def _write(axes: "Axes", x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)


def _legend(axes: "Axes", columns: Sequence[str], marker: str, color: str = "") -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color or _COLORS[n], marker=marker, linestyle="", label=name)
        for n, name in enumerate(columns)
    ]
    where: Any = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
    axes.legend(handles=handles, ncols=len(columns), frameon=False, fontsize=8, **where)


def _plain(value: float, _: float) -> str:
    return f"{value:,.10g}"


def _unit(answer: Answer, columns: Sequence[str]) -> str:
    said = dict.fromkeys(answer.report.units[name] for name in columns)
    return (
        columns[0]
        if list(said) == list(columns)
        else f"{columns[0] if len(columns) == 1 else ''} [{', '.join(said)}]".strip()
    )


def _label(text: str) -> str:

    text = one_line(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _time(value: Any) -> datetime:
    """The beginning of a day, or a moment; as the zone's wall shows it."""
    return datetime.combine(value, time()) if isinstance(value, date) else datetime.fromisoformat(str(value))
