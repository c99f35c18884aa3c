"""The data dictionary of ClickHouse, from the comments of the columns in migrations/clickhouse."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from backbeat.migration_files import load

_STATEMENT = re.compile(r"CREATE (TABLE|VIEW) IF NOT EXISTS (\w+)(.*?);\n", re.DOTALL)
_COLUMN = re.compile(r"^    (?:\) |(\w+) )[^\n]*?(?:\n {8}[^\n]*?)*?COMMENT '([^':]+): ([^']+)'", re.MULTILINE)
_NESTED = re.compile(r"^    (\w+) Nested \(", re.MULTILINE)
_COMPUTED = re.compile(r"\bAS (\w+),? *-- ([^:\n]+): ([^\n]+)")
_FROM = re.compile(r"\bFROM (\w+)")


class Column(NamedTuple):
    """What a column holds, and in which unit."""

    name: str
    unit: str
    meaning: str


def tables() -> Mapping[str, list[Column]]:
    """The columns of each table, by its name; those that a comment describes."""
    return {name: _columns(body) for name, body in _statements("TABLE").items()}


def views() -> Mapping[str, tuple[str, list[Column]]]:
    """The table that each view shows, and what columns it adds: `expression AS Name, -- unit: meaning`."""
    found = {}
    for name, body in _statements("VIEW").items():
        behind = next(table for table in _FROM.findall(body) if table in tables())
        found[name] = behind, [Column(*parts) for parts in _COMPUTED.findall(body)]
    return found


def page() -> str:
    """The views that people ask, with the columns of the tables behind them."""
    parts = []
    for table, columns in tables().items():
        shown = {name: added for name, (behind, added) in sorted(views().items()) if behind == table}
        more = [column for added in shown.values() for column in added]
        rows = [f"| {column.name} | {column.unit} | {column.meaning} |" for column in [*columns, *more]]
        heading = ", ".join(f"`{name}`" for name in shown or [table])
        parts.append("\n".join([f"## {heading}\n", "| column | unit | what it is |", "|---|---|---|", *rows, ""]))
    return f"""# The tables of ClickHouse

Ask the views: each call, attempt and span counts once there, however often it was told. A view that ends in `_in` wants
a period, as `v_llm_calls_in(since = '2026-11-01 00:00:00', until = '2026-12-01 00:00:00')`, and reads no more than it:
take that one where there are years. Moments are UTC. What a span does not say is NULL, never 0.

{chr(10).join(parts)}"""


def _statements(kind: str) -> Mapping[str, str]:
    text = "".join(migration.sql for migration in load("clickhouse"))
    return {name: body for found, name, body in _STATEMENT.findall(text) if found == kind}


def _columns(body: str) -> list[Column]:
    nested = iter(_NESTED.findall(body))
    return [Column(name or next(nested), unit, meaning) for name, unit, meaning in _COLUMN.findall(body)]
