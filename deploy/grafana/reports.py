"""Writes deploy/grafana/dashboards/reports.json, a panel a report, from the reports' SQL: `--check` compares only.

A panel shows the report's own keys, over the dashboard's period and time zone.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from backbeat.reports.catalog import TIMES, Report, find, names  # noqa: E402

TARGET = Path(__file__).with_name("dashboards") / "reports.json"
# Milliseconds: compared with a DateTime of whole seconds, ClickHouse 26.9 prunes parts that it must not.
MACROS = {"since": "$__fromTime_ms", "until": "$__toTime_ms", "zone": "'${zone}'"}
SOURCE = {"type": "grafana-clickhouse-datasource", "uid": "${datasource}"}
_WIDE, _HIGH = 12, 9  # of 24 columns; rows
_UNITS = {"USD": "currencyUSD", "s": "s", "ms": "ms", "1": "percentunit"}


def panel(number: int, report: Report) -> dict[str, Any]:
    """One report: a curve where its keys have a time, else bars or a table of its columns."""
    over = bool({*TIMES, "hour"} & set(report.default))
    kind = "timeseries" if over else "barchart" if report.chart[0] == "bars" else "table"
    units = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": _UNITS[unit]}]}
        for name, unit in report.units.items()
        if unit in _UNITS
    ]
    shown = ", ".join(f"{name} in {unit}" for name, unit in report.units.items())
    return {
        "id": number + 1,
        "title": report.title,
        "description": f"`backbeat report {report.name}`: {shown}. Source: {', '.join(report.sources)}.",
        "type": kind,
        "datasource": SOURCE,
        "gridPos": {"x": number % 2 * _WIDE, "y": number // 2 * _HIGH, "w": _WIDE, "h": _HIGH},
        "fieldConfig": {"defaults": {"noValue": "unknown"}, "overrides": units},
        "options": {},
        "targets": [
            {
                "refId": "A",
                "datasource": SOURCE,
                "editorType": "sql",
                "queryType": "timeseries" if over else "table",
                "format": 0 if over else 1,
                "rawSql": report.query(report.default, MACROS).strip(),
            }
        ],
    }


def dashboard() -> str:
    """All of them."""
    zone = {"name": "zone", "label": "Time zone", "type": "textbox", "query": "UTC", "current": {"value": "UTC"}}
    source = {"name": "datasource", "label": "ClickHouse", "type": "datasource", "query": SOURCE["type"]}
    said = {
        "uid": "backbeat-reports",
        "title": "Backbeat: reports",
        "tags": ["backbeat"],
        "schemaVersion": 39,
        "timezone": "utc",
        "time": {"from": "now-7d", "to": "now"},
        "templating": {"list": [source, zone]},
        "panels": [panel(number, find(name)) for number, name in enumerate(names())],
    }
    return json.dumps(said, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file; with --check, only say whether it is current."""
    text = dashboard()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        sys.stderr.write(
            "deploy/grafana/dashboards/reports.json is not current. Run: python deploy/grafana/reports.py\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
