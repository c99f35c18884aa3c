"""Reports: one SQL file each beside this module, answered by ClickHouse, shown as text or JSON."""

import io
import json
import re
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from backbeat.clickhouse import session
from backbeat.money import dollars
from shared import clock
from shared.errors import NotFoundError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_FILES = Path(__file__).parent
_DECIMAL = re.compile(r"Decimal\(\d+, (\d+)\)")
_EXACT = {"output_format_json_quote_decimals": 1, "output_format_json_quote_64bit_integers": 0}


class Table(NamedTuple):
    """A report's answer. Money is Decimal; what is unknown is None."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def report_names() -> list[str]:
    """The reports there are."""
    return sorted(path.stem for path in _FILES.glob("*.sql"))


def run_report(client_or_url: "Client | str", name: str, since: timedelta | datetime) -> Table:
    """Ask one report about what began after `since`. Raises NotFoundError, and what `session` raises."""
    if name not in report_names():
        raise NotFoundError(f"there is no report {name!r}", fix=f"Reports: {', '.join(report_names())}")
    sql = (_FILES / f"{name}.sql").read_text(encoding="utf-8")
    start = since if isinstance(since, datetime) else clock.wall() - since
    opened = session(client_or_url) if isinstance(client_or_url, str) else nullcontext(client_or_url)
    with opened as client:
        # JSON names the columns even when there are no rows, and keeps decimals exact.
        answer = json.loads(client.raw_query(sql, {"since": start}, settings=_EXACT, fmt="JSONCompact"))
    types = [column["type"] for column in answer["meta"]]
    rows = [tuple(map(_typed, types, row)) for row in answer["data"]]
    return Table(tuple(column["name"] for column in answer["meta"]), rows)


def _typed(type_name: str, value: Any) -> Any:
    if value is None:
        return None
    decimal = _DECIMAL.search(type_name)
    if decimal:
        return Decimal(value).quantize(Decimal(1).scaleb(-int(decimal[1])))
    return float(value) if "Float" in type_name else value


def render_text(table: Table) -> str:
    """Aligned columns, numbers to the right, `–` for the unknown."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid

    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(table.columns):
        numeric = any(isinstance(row[index], int | float | Decimal) for row in table.rows)
        grid.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in table.rows:
        grid.add_row(*map(_shown, row))
    screen = io.StringIO()
    Console(file=screen, width=_width(table), color_system=None, highlight=False, markup=False).print(grid)
    return "\n".join(line.rstrip() for line in screen.getvalue().splitlines() if line.strip()) + "\n"


def _width(table: Table) -> int:
    cells: Sequence[tuple[Any, ...]] = [table.columns, *table.rows]
    return sum(max(len(_shown(row[index])) for row in cells) + 3 for index in range(len(table.columns))) + 10


def _shown(value: Any) -> str:
    return dollars(value) if isinstance(value, Decimal) else _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def render_json(table: Table) -> str:
    """A list of objects; money as exact decimal strings."""
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return json.dumps(rows, default=_cell, ensure_ascii=False)
