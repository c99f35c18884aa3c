"""A report's answer as text for people, as JSON and as CSV."""

import csv
import io
import json
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from backbeat.money import dollars
from backbeat.reports.ask import Answer
from backbeat.visible import for_sheet

UNKNOWN = "unknown"


def provenance(answer: Answer) -> str:
    """Period, n, source and watermark: the line under every table and chart."""
    most = "up to " if answer.report.n[0] == "most" else ""
    n = f"n = {most}{answer.n:,} {answer.report.units[answer.report.n[-1]]}"
    told = [source for source in answer.report.sources if source not in answer.empty]
    reach = [f"{', '.join(told)}: records up to {_moment(answer, answer.watermark)}"] if answer.watermark else []
    nothing = [f"{', '.join(answer.empty)}: no records"] if answer.empty else []
    return "; ".join([period(answer), n, *reach, *nothing])


def period(answer: Answer) -> str:
    """The period, in its zone."""
    since, until = (_moment(answer, at) for at in (answer.period.since, answer.period.until))
    return f"{since} to {until} {answer.period.zone}"


def units(answer: Answer) -> str:
    """The unit of each column, but of those that are called by it."""
    said = answer.report.units.items()
    return ", ".join(f"{name} in {unit}" for name, unit in said if name in answer.columns and name != unit)


def render_text(answer: Answer) -> str:
    """Title, aligned columns with numbers to the right, then units and provenance."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid

    if not answer.rows:
        return f"{answer.report.title}\nnothing in this period\n{provenance(answer)}\n"
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(answer.columns):
        numeric = any(isinstance(row[index], int | float | Decimal) for row in answer.rows)
        grid.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in answer.rows:
        grid.add_row(*map(shown, row))
    screen = io.StringIO()
    Console(file=screen, width=_width(answer), color_system=None, highlight=False, markup=False).print(grid)
    table = "\n".join(line.rstrip() for line in screen.getvalue().splitlines() if line.strip())
    return f"{answer.report.title}\n{table}\n{units(answer)}\n{provenance(answer)}\n"


def render_json(answer: Answer) -> str:
    """One object: what was asked, and `rows`, a list of objects. Money is exact decimal strings, the unknown null."""
    said = {
        "report": answer.report.name,
        "title": answer.report.title,
        "since": answer.period.since.isoformat(),
        "until": answer.period.until.isoformat(),
        "zone": answer.period.zone,
        "by": answer.by,
        "units": {name: unit for name, unit in answer.report.units.items() if name in answer.columns},
        "n": answer.n,
        "source": answer.report.sources,
        "watermark": answer.watermark and answer.watermark.isoformat(),
        "empty": answer.empty,
        "rows": answer.records(),
    }
    return json.dumps(said, default=_plain, ensure_ascii=False, indent=2)


def render_csv(answer: Answer) -> str:
    """A line of names, then one a row. Money is exact, the unknown an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows([["" if value is None else _field(value) for value in row] for row in answer.rows])
    return out.getvalue()


def shown(value: Any) -> str:
    """A cell, for people."""
    if value is None:
        return UNKNOWN
    if isinstance(value, Decimal):
        return dollars(value) if value >= 0 else f"-{dollars(-value)}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1000 else _grouped(value)


def _grouped(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


def _field(value: Any) -> Any:
    return for_sheet(value) if isinstance(value, str) else _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.isoformat() if isinstance(value, date) else value


def _moment(answer: Answer, at: datetime) -> str:
    return f"{at.astimezone(ZoneInfo(answer.period.zone)):%Y-%m-%d %H:%M}"


def _width(answer: Answer) -> int:
    cells = [answer.columns, *answer.rows]
    return sum(max(len(shown(row[index])) for row in cells) + 3 for index in range(len(answer.columns))) + 10
