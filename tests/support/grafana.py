"""What Grafana makes of a panel's SQL: macros of the ClickHouse plugin and variables, replaced by text."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FIRST, LAST = "toDateTime64(0, 3)", "toDateTime64(4000000000, 3)"
_MACRO = re.compile(r"\$__(\w+)\(")
_VARIABLE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)")


def panels(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The title and each target of all panels, also those inside rows."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel.get("title", ""), target
        yield from panels({"panels": panel.get("panels", [])})


def published(directory: Path) -> Iterator[tuple[str, str]]:
    """Name and SQL of every question that dashboards of a directory ask ClickHouse, variables' too."""
    for file in sorted(directory.glob("*.json")):
        dashboard = json.loads(file.read_text())
        for title, target in panels(dashboard):
            if target.get("rawSql"):
                yield f"{file.stem}: {title}", target["rawSql"]
        for variable in dashboard.get("templating", {}).get("list", []):
            if isinstance(variable.get("query"), dict) and variable["query"].get("rawSql"):
                yield f"{file.stem}: ${variable['name']}", variable["query"]["rawSql"]


def expand(sql: str, variables: Mapping[str, str]) -> str:
    """The SQL as the plugin would send it, for all of time. A variable that is '' stands for All."""
    while found := _MACRO.search(sql):
        end = _closing(sql, found.end())
        given = sql[found.end() : end - 1]
        sql = sql[: found.start()] + _replaced(found[1], given, variables) + sql[end:]
    sql = sql.replace("$__interval_s", "60")
    return _VARIABLE.sub(lambda found: _value(found, sql, variables), sql)


def _replaced(macro: str, given: str, variables: Mapping[str, str]) -> str:
    if macro == "timeFilter":
        return f"{given} >= {FIRST} AND {given} <= {LAST}"
    if macro == "timeInterval":
        return f"toStartOfInterval(toDateTime({given}), INTERVAL 60 second)"
    if macro == "conditionalAll":
        condition, _, variable = given.rpartition(",")
        return condition if variables.get(variable.strip().lstrip("$"), "") else "1=1"
    raise AssertionError(f"no such macro: $__{macro}")


def _value(found: re.Match[str], sql: str, variables: Mapping[str, str]) -> str:
    """A variable inside quotes is bare text, elsewhere a literal (`singlequote`, or a list of one)."""
    value = variables[found[1] or found[2]]
    quoted = sql[found.start() - 1] == "'" or value.isdecimal()
    return value if quoted else f"'{value}'"


def _closing(sql: str, at: int) -> int:
    depth = 1
    while depth:
        depth += {"(": 1, ")": -1}.get(sql[at], 0)
        at += 1
    return at
