"""The frame of the reports: headers, periods, keys, renderings, `--fail-if`, panels."""

import csv
import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from backbeat.cli.report import OUTPUTS, read_period
from backbeat.cli.report import report as command
from backbeat.reports.ask import Answer, Period
from backbeat.reports.catalog import find, names, read
from backbeat.reports.condition import judge, parse
from backbeat.reports.plot import render_svg
from backbeat.reports.render import render_csv, render_json, render_text
from shared.errors import BackbeatError, InputError
from tests.integration import _reports
from tests.integration._reports import NOW, WEEK, Facts
from tests.support.clickhouse import ask
from tests.support.tree import ROOT

reports_database = _reports.reports_database
facts = _reports.facts
HEADER = """-- title: Calls
-- units: calls calls, cost_usd USD
-- by: workflow, approver = lower(By, 'x'), day
-- default: approver
-- chart: bars calls
-- n: calls
-- source: llm_calls
SELECT {by}, count() AS calls, 1 AS cost_usd FROM t WHERE Timestamp >= {since} GROUP BY {keys}
"""


def test_every_report_on_an_empty_database_says_so(facts: Facts) -> None:
    for name in names():
        answer = facts.ask(name)
        assert answer.rows == [], name
        assert (answer.n, answer.watermark) == (0, None)
        units = set(answer.report.units) | set(answer.by)
        assert set(answer.columns) == units, f"{name}: every column has a unit, and every unit a column"
        keys = tuple(answer.report.keys)
        assert facts.ask(name, *keys).columns[: len(keys)] == keys
        assert "nothing in this period" in render_text(answer)
        assert json.loads(render_json(answer))["rows"] == []
        assert render_csv(answer) == ",".join(answer.columns) + "\n"
    assert "nothing in this period" in render_svg(answer)


def test_the_same_answer_four_ways(facts: Facts) -> None:
    facts.add(
        "llm_calls", {"CostUsd": "0.123456789"}, {"Workflow": "=cmd|' /C'!A0", "CostUsd": None, "Tier": "$<&>\x1b"}
    )
    answer = facts.ask("summary")
    assert answer.watermark == NOW - timedelta(days=1)
    text = render_text(answer)
    assert text.splitlines()[0] == "Model calls"
    assert "$0.1235" in text
    assert "unknown" in text
    tail = "2026-11-16 12:00 to 2026-11-23 12:00 UTC; n = 2 calls; llm_calls: records up to 2026-11-22 12:00"
    assert text.splitlines()[-1] == tail
    assert "cost_usd in USD" in text.splitlines()[-2]
    said = json.loads(render_json(answer))
    assert [row["cost_usd"] for row in said["rows"]] == [None, "0.123456789"]
    assert (said["n"], said["units"]["cost_usd"], said["by"]) == (2, "USD", ["workflow", "tier"])
    rows = list(csv.DictReader(io.StringIO(render_csv(answer))))
    assert [row["cost_usd"] for row in rows] == ["", "0.123456789"]
    assert rows[0]["workflow"] == "'=cmd|' /C'!A0"
    drawn = render_svg(answer)
    assert drawn == render_svg(answer)
    words = "".join(ET.fromstring(drawn).itertext())
    for part in ("Model calls", "USD", tail, "$0.1235", "unknown", "$<&>\\x1b"):
        assert part in words
    assert "<script" not in drawn


def test_an_empty_source_is_named_and_hides_no_other(facts: Facts) -> None:
    facts.add("origins", {"OriginId": "a", "Timestamp": NOW - timedelta(hours=2)})
    facts.add("llm_calls", {"OriginId": "a", "Timestamp": NOW - timedelta(hours=3)})
    answer = facts.ask("journey")
    assert (answer.watermark, answer.empty) == (NOW - timedelta(hours=3), ("effects",))
    assert render_text(answer).endswith("; origins, llm_calls: records up to 2026-11-23 09:00; effects: no records\n")
    said = json.loads(render_json(answer))
    assert (said["watermark"], said["empty"]) == ("2026-11-23T09:00:00+00:00", ["effects"])


def test_n_counts_no_record_twice(facts: Facts) -> None:
    """Each check of health, and each threshold, is about the same records again."""
    facts.add("llm_calls", {}, count=3)
    facts.add("task_runs", {}, count=2)
    facts.add("task_runs", {"Runtime": "temporal"})
    assert "; n = up to 3 records a check; " in render_text(facts.ask("health"))
    assert "; n = 2 attempts; " in render_text(facts.ask("graduation"))


def test_a_curve_over_days_of_a_zone(facts: Facts) -> None:
    at = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)
    facts.add("llm_calls", {"Timestamp": at}, {"Timestamp": at - timedelta(hours=1)})
    by_day = [(row[0].isoformat(), row[1]) for row in facts.ask("summary", "day").rows]
    assert by_day == [("2026-11-20", 2)]
    berlin = Period(WEEK.since, WEEK.until, "Europe/Berlin")
    answer = facts.ask("summary", "day", "model", period=berlin)
    assert [(row[0].isoformat(), row[1], row[2]) for row in answer.rows] == [
        ("2026-11-20", "opus", 1),
        ("2026-11-21", "opus", 1),
    ]
    assert "2026-11-16 13:00 to 2026-11-23 13:00 Europe/Berlin" in render_svg(answer)


def test_a_header_says_what_a_file_is() -> None:
    report = read("x", HEADER)
    assert (report.default, report.since, report.keys["approver"]) == (
        ("approver",),
        timedelta(days=7),
        "lower(By, 'x')",
    )
    assert report.choose(["day", "workflow", "day"]) == ("day", "workflow")
    assert "AS day, Workflow AS workflow, count()" in report.query(("day", "workflow"))
    with pytest.raises(InputError, match=r"report x does not go by 'colour'\. It goes by workflow, approver, day"):
        report.choose(["colour"])
    for missing in ("title", "units", "chart", "n", "source"):
        with pytest.raises(ValueError, match=f"does not say its {missing}"):
            read("x", HEADER.replace(f"-- {missing}:", "-- "))
    for old, new in (("bars calls", "bars nothing"), ("default: approver", "default: colour")):
        with pytest.raises(ValueError, match="report x"):
            read("x", HEADER.replace(old, new))


@pytest.mark.parametrize(
    ("expression", "held", "unknown"),
    [
        ("calls > 20", ["b"], 0),
        ("calls>=20 and workflow = 'a'", ["a"], 0),
        ("cost_usd >= 25%", ["a"], 1),
        ("cost_usd < -1", [], 1),
        ("calls > 25 and cost_usd > 0", [], 1),
        ("calls < 25 and cost_usd > 1", [], 0),
        ("workflow != 'a'", ["b"], 0),
    ],
)
def test_conditions(expression: str, held: list[str], unknown: int) -> None:
    rows = [("a", 20, Decimal("0.25")), ("b", 30, None)]
    report = read("x", HEADER)
    answer = Answer(report, WEEK, ("workflow",), ("workflow", "calls", "cost_usd"), rows, None)
    verdict = judge(parse(expression), answer)
    assert ([row["workflow"] for row in verdict.rows], verdict.unknown) == (held, unknown)


@pytest.mark.parametrize(
    "expression",
    ["", "calls", "calls > ", "calls > x", "__import__('os')", "calls > 1 or calls < 2", "calls > 1; x = 2",
     "1 > calls", "colour > 1", "workflow > 1", "calls = 'a'"],
)  # fmt: skip
def test_conditions_that_cannot_be(expression: str) -> None:
    answer = Answer(read("x", HEADER), WEEK, ("workflow",), ("workflow", "calls"), [("a", 1)], None)
    with pytest.raises(InputError) as raised:
        judge(parse(expression), answer)
    assert "\n" not in str(raised.value)


def test_periods() -> None:
    period = read_period("2026-10-25", "2026-10-26", "Europe/Berlin", timedelta(days=7))
    assert period.until - period.since == timedelta(hours=24)  # wall clock
    assert (period.until.timestamp() - period.since.timestamp()) / 3600 == 25
    assert read_period("2026-10-25T00:00:00+02:00", "2026-11-01", "UTC", timedelta(days=7)).since.utcoffset()
    back = read_period(None, None, "UTC", timedelta(days=35))
    assert back.until - back.since == timedelta(days=35)
    for since, until, zone in (
        ("x", None, "UTC"),
        ("1d", "2d", "UTC"),
        (None, None, "Mars/Base"),
        (None, None, "../x"),
    ):
        with pytest.raises(BackbeatError):
            read_period(since, until, zone, timedelta(days=7))


def test_the_command(facts: Facts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKBEAT_CLICKHOUSE_URL", facts.url)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(command, arguments)

    listed = {row["report"]: row["title"] for row in json.loads(run("-o", "json").stdout)}
    assert listed == {name: find(name).title for name in names()}
    facts.add("llm_calls", {})
    asked = ("summary", "--since", "2026-11-16", "--until", "2026-11-24")
    assert run(*asked, "-o", "csv").stdout.splitlines()[1] == "review,large,1,0,1000,10,0.010000000,0,1.0,1.0"
    assert run(*asked, "-o", "svg").stdout.startswith("<?xml")
    assert run(*asked, "--by", "day,model", "-o", "json").exit_code == 0
    assert run(*asked, "--fail-if", "calls > 1").exit_code == 0
    for wrong in (("--by", "colour"), ("--fail-if", "calls"), ("--since", "x"), ("--zone", "x")):
        assert isinstance(run(*asked, *wrong).exception, InputError)


@pytest.mark.parametrize("name", names())
def test_the_command_prints_every_report(
    name: str, facts: Facts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKBEAT_CLICKHOUSE_URL", facts.url)
    facts.add("llm_calls", {})
    facts.add("task_runs", {})
    (tmp_path / "bill.csv").write_text("day,model,cost_usd\n2026-11-22,opus,0.01\n")
    bills = [[], ["--bill", "bill.csv"]] if name == "reconcile" else [[]]
    for output, bill in product(OUTPUTS, bills):
        asked = [name, "--since", "2026-11-16", "--until", "2026-11-24", "-o", output]
        done = CliRunner().invoke(command, [*asked, *bill])
        assert done.exit_code == 0, done.exception
        assert done.stdout


def test_the_panels_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "deploy/grafana/reports.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    panels = json.loads((ROOT / "deploy/grafana/dashboards/reports.json").read_text())["panels"]
    assert [panel["title"] for panel in panels] == [find(name).title for name in names()]


def test_the_panels_can_be_asked(facts: Facts) -> None:
    values = {
        "$__fromTime_ms": "fromUnixTimestamp64Milli(0)",
        "$__toTime_ms": "fromUnixTimestamp64Milli(1795435200000)",
    }
    for panel in json.loads((ROOT / "deploy/grafana/dashboards/reports.json").read_text())["panels"]:
        sql = panel["targets"][0]["rawSql"].replace("${zone}", "Europe/Berlin")
        for macro, value in values.items():
            sql = sql.replace(macro, value)
        assert "$" not in sql
        assert "{" not in sql
        ask(facts.url, sql)
