"""The reports about model calls, with answers computed by hand."""

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from backbeat.clickhouse import session
from backbeat.reports import prices
from backbeat.reports.ask import Period
from backbeat.reports.catalog import find, names
from backbeat.reports.condition import Verdict, judge, parse
from backbeat.reports.plot import render_svg
from backbeat.reports.reconcile import beside, read_bill
from backbeat.reports.render import UNKNOWN as UNKNOWN_WORD
from backbeat.reports.render import render_csv, render_json, render_text
from shared.errors import InputError
from tests.integration import _reports
from tests.integration._reports import NOW, Facts
from tests.support.clickhouse import ask

reports_database = _reports.reports_database
facts = _reports.facts
UNKNOWN = dict.fromkeys(("CostUsd", "InputTokens", "OutputTokens", "CacheReadTokens", "CacheWriteTokens"))
LOST = UNKNOWN | {"CallStatus": "lost", "Validation": "none", "StatusCode": "Error", "DurationNs": 900_000_000_000}


def one_row(facts: Facts) -> None:
    facts.add("llm_calls", {})
    facts.add("task_runs", {})


def nothing_known(facts: Facts) -> None:
    """A call that was lost, of a task that did not succeed."""
    facts.add("llm_calls", LOST)
    facts.add("task_runs", {"Outcome": "lost"})


def no_price(facts: Facts) -> None:
    """One that is priced, one that is not, both with their tokens; and one that was refused, which cost nothing."""
    facts.add(
        "llm_calls", {"CostUsd": "0.000000001", "DurationNs": 2_000_000_000}, {"CostUsd": None, "TaskId": "task-2"}
    )
    refused = UNKNOWN | {"CallStatus": "refused", "StatusCode": "Error", "Validation": "none", "Model": "busy"}
    facts.add("llm_calls", refused | {"TaskId": "task-3", "DurationNs": 100_000_000})


def retries(facts: Facts) -> None:
    """Thirty tasks, and next week forty with 2 x the calls, 1.25 x retries, 1.5 x the tokens, 2 x a token's price."""
    before, last = NOW - timedelta(days=14), NOW - timedelta(days=7)
    usual = {"InputTokens": 990, "OutputTokens": 10, "CostUsd": "0.01"}
    facts.add("llm_calls", *({**usual, "Timestamp": before, "TaskId": f"a{n}"} for n in range(30)))
    dearer = {"InputTokens": 1490, "OutputTokens": 10, "CostUsd": "0.03", "Timestamp": last}
    facts.add("llm_calls", *({**dearer, "TaskId": f"b{n % 40}", "Attempt": 1 + n // 80} for n in range(100)))
    unheard = LOST | {"Timestamp": last, "TaskId": "b1"}
    facts.add("llm_calls", unheard, {**dearer, "Timestamp": NOW - timedelta(hours=1), "CostUsd": "9"})
    few = (
        {**dearer, "TaskId": f"c{n}", "Workflow": "few", "Timestamp": before + (last - before) * (n > 28)}
        for n in range(59)
    )
    facts.add("llm_calls", *few)


Rows = list[tuple[Any, ...]]
NANO, CENT, CENTS, ZERO = Decimal("1E-9"), Decimal("0.01"), Decimal("0.010"), Decimal(0)
SUNDAY, AT, LAST = date(2026, 11, 22), "2026-11-22T12:00:00Z", date(2026, 11, 16)
NOT_COMPARED = (None, None, None, None, None)
SCENARIOS: Mapping[str, tuple[Callable[[Facts], None], Mapping[str, Rows]]] = {
    "one row": (
        one_row,
        {
            "cache": [("opus", 1, 1000, 0, 0, 0.0, ZERO, 0)],
            "cost": [("review", 1, 1, 1000, 10, CENT, CENT, 0)],
            "cost-per-success": [("review", 1, 1, 1.0, CENT, CENT, 0)],
            "latency": [("opus", "0", "0", 1, 0, 0, 1.0, 1.0, 1.0, 1.0)],
            "mix": [
                ("tier", "large", 1, 1, CENT, 0, 1.0, 0.05, 0.95, 1),
                ("runtime", "cron", 1, 1, CENT, 0, 1.0, 0.9, 0.1, 1),
            ],
            "prompts": [("review", "1", 1, 1, 1.0, 1000.0, 10.0, CENT, 1.0, 0, 0, None, None)],
            "reconcile": [(SUNDAY, "opus", 1, 0, CENT, None, None)],
            "regression": [("review", LAST, 1, 0, CENT, None, *NOT_COMPARED, 0)],
            "slowest": [("review", "opus", "", AT, 1.0, 1000, 10, 10.0, 0, CENT, 1)],
            "summary": [("review", "large", 1, 0, 1000, 10, CENT, 0, 1.0, 1.0)],
            "unpriced": [],
            "waste": [("review", 1, 0, 0, 0, 0, ZERO, CENT, 0.0, 0)],
        },
    ),
    "nothing known": (
        nothing_known,
        {
            "cache": [("opus", 1, 0, 0, 0, None, ZERO, 0)],
            "cost": [("review", 1, 1, None, None, None, None, 1)],
            "cost-per-success": [("review", 1, 0, 0.0, None, None, 1)],
            "latency": [("opus", "0", "0", 0, 0, 1, None, None, None, None)],
            "mix": [
                ("tier", "large", 1, 1, None, 1, 1.0, 0.05, 0.95, 1),
                ("runtime", "cron", 1, 1, None, 1, 1.0, 0.9, 0.1, 1),
            ],
            "prompts": [("review", "1", 1, 1, 1.0, None, None, None, None, 1, 0, None, None)],
            "reconcile": [(SUNDAY, "opus", 1, 1, None, None, None)],
            "regression": [("review", LAST, 0, 0, None, None, *NOT_COMPARED, 1)],
            "slowest": [],
            "summary": [("review", "large", 1, 1, None, None, None, 1, None, None)],
            "unpriced": [("anthropic", "opus", "", 1, 1, 0, 0, None, None, AT, AT)],
            "waste": [("review", 1, 0, 0, 0, 1, None, None, None, 1)],
        },
    ),
    "no price": (
        no_price,
        {
            "cache": [("busy", 1, 0, 0, 0, None, ZERO, 0), ("opus", 2, 2000, 0, 0, 0.0, ZERO, 0)],
            "cost": [("review", 3, 3, 2000, 20, NANO, NANO, 1)],
            "cost-per-success": [("review", 3, 0, 0.0, NANO, None, 1)],
            "latency": [
                ("opus", "0", "0", 2, 0, 0, 2.0, 2.0, 2.0, 2.0),
                ("busy", "0", "0", 0, 1, 0, None, None, None, None),
            ],
            "mix": [
                ("tier", "large", 3, 3, NANO, 1, 1.0, 0.05, 0.95, 3),
                ("runtime", "cron", 3, 3, NANO, 1, 1.0, 0.9, 0.1, 3),
            ],
            "prompts": [("review", "1", 3, 3, 1.0, 1000.0, 10.0, NANO, 1.0, 1, 0, None, None)],
            "reconcile": [(SUNDAY, "busy", 1, 0, ZERO, None, None), (SUNDAY, "opus", 2, 1, NANO, None, None)],
            "regression": [("review", LAST, 1, 0, NANO, None, *NOT_COMPARED, 1)],
            "slowest": [
                ("review", "opus", "", AT, 2.0, 1000, 10, 5.0, 0, NANO, 1),
                ("review", "opus", "", AT, 1.0, 1000, 10, 10.0, 0, None, 1),
                ("review", "busy", "", AT, 0.1, None, None, None, 0, ZERO, 1),
            ],
            "summary": [("review", "large", 3, 0, 2000, 20, NANO, 1, 2.0, 2.0)],
            "unpriced": [("anthropic", "opus", "", 1, 0, 1, 0, 1000, 10, AT, AT)],
            "waste": [("review", 3, 1, 0, 0, 0, ZERO, NANO, 0.0, 0)],
        },
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_report_on(scenario: str, facts: Facts) -> None:
    fill, expected = SCENARIOS[scenario]
    fill(facts)
    for name, rows in expected.items():
        answer = facts.ask(name)
        assert [_rounded(row) for row in answer.rows] == rows, name
        text = render_text(answer)
        assert (UNKNOWN_WORD in text) == any(None in row for row in rows), name
        assert json.loads(render_json(answer))["n"] == answer.n
        assert render_csv(answer).count("\n") == 1 + len(rows)
        if scenario == "no price" and name in {"reconcile", "latency", "regression", "mix"}:  # of each kind
            assert (UNKNOWN_WORD in render_svg(answer)) == (None in answer.column(answer.report.chart[-1]))


def test_in_a_week_whose_clocks_change_each_hour_is_in_one_day(facts: Facts) -> None:
    """The last Sunday of October has 25 hours in Berlin, and the week before Monday the 26th has 169."""
    first = datetime(2026, 10, 24, 22, tzinfo=UTC)
    hours = [(first + timedelta(hours=n), f"t{n}") for n in range(26)]
    for table in ("llm_calls", "task_runs"):
        facts.add(table, *({"Timestamp": at, "TaskId": task} for at, task in hours))
    facts.add("tick_runs", *({"Timestamp": at, "TickId": task, "Slots": 1} for at, task in hours))
    facts.add("origins", *({"Timestamp": at, "OriginId": task} for at, task in hours))
    facts.add("effects", *({"Timestamp": at, "OriginId": task, "Status": "done"} for at, task in hours))
    facts.add("approvals", *({"Timestamp": at, "ApprovalId": task, "Event": "decided"} for at, task in hours))
    facts.add(
        "feedback", *({"Timestamp": at, "FeedbackId": task, "TaskId": task, "Label": "wrong"} for at, task in hours)
    )
    period = Period(datetime(2026, 10, 12, tzinfo=UTC), datetime(2026, 11, 2, 12, tzinfo=UTC), "Europe/Berlin")
    both = {date(2026, 10, 25): 25, date(2026, 10, 26): 1}
    for name in names():
        answer = facts.ask(name, *(["day"] if "day" in find(name).keys else []), period=period)
        assert answer.rows or name == "unpriced", name
        if "day" in answer.columns and answer.rows:
            assert dict(zip(answer.column("day"), answer.column(answer.report.n[-1]), strict=True)) == both, name
    weeks = facts.ask("regression", period=period)
    assert weeks.rows[0][1:4] == (date(2026, 10, 26), 1, 25)
    utc = facts.ask("regression", period=Period(period.since, period.until, "UTC"))
    assert utc.rows[0][1:4] == (date(2026, 10, 26), 0, 26)
    facts.add("llm_calls", *({"Timestamp": at, "CostUsd": None} for at, _ in hours))
    unpriced = facts.ask("unpriced", "day", period=period)
    assert dict(zip(unpriced.column("day"), unpriced.column("calls"), strict=True)) == both


def test_a_regression_is_taken_apart(facts: Facts) -> None:
    retries(facts)
    answer = facts.ask("regression")
    review, few = answer.records()
    assert (review["tasks"], review["tasks_before"], review["unpriced"]) == (40, 30, 1)
    assert (review["cost_per_task_usd"], review["before_usd"]) == (Decimal("0.075"), Decimal("0.01"))
    assert review["change"] == pytest.approx(6.5)
    parts = [review[name] for name in ("calls_per_task", "retries", "tokens_per_call", "price_per_token")]
    assert parts == pytest.approx([math.log(2), math.log(1.25), math.log(1.5), math.log(2)])
    assert math.exp(sum(parts)) == pytest.approx(1 + review["change"], rel=1e-12)
    assert (few["workflow"], few["tasks"], few["tasks_before"], few["change"]) == ("few", 30, 29, None)
    assert judge(parse("change > 20%"), answer) == Verdict([review], 1)
    assert facts.ask("regression", period=Period(NOW - timedelta(days=13), NOW)).rows == []


def test_more_than_ten_tools_and_quantiles(facts: Facts) -> None:
    facts.add("llm_calls", *({"DurationNs": n * 10**9, "ToolsOffered": 11, "ToolsCalled": 1} for n in range(1, 101)))
    facts.add("llm_calls", {"ToolsOffered": 10, "ToolsCalled": 11}, {"ToolsOffered": 6}, {"ToolsOffered": 5}, LOST)
    rows = {row[1:3]: row[3:] for row in facts.ask("latency").rows}
    assert rows[("11+", "1-5")] == (100, 0, 0, 51.0, 96.0, 100.0, 100.0)
    assert {key: row[0] for key, row in rows.items()} == {
        ("11+", "1-5"): 100, ("6-10", "11+"): 1, ("6-10", "0"): 1, ("1-5", "0"): 1, ("0", "0"): 0,
    }  # fmt: skip


def test_costs_add_up_to_the_last_digit_by_any_key(facts: Facts) -> None:
    costs = [Decimal(7**n % 10**9).scaleb(-9) for n in range(40)]
    months = [datetime(2026, 10, 31, 23, 59, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)]
    rows = ({"CostUsd": cost, "Tenant": f"t{n % 3}", "Timestamp": months[n % 2]} for n, cost in enumerate(costs))
    facts.add("llm_calls", *rows)
    period = Period(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
    for by in (("total",), ("tenant",), ("month", "tenant"), ("day",)):
        answer = facts.ask("cost", *by, period=period)
        assert sum(answer.column("cost_usd")) == sum(costs)
    bill = {
        (row["month"], row["tenant"]): row["cost_usd"]
        for row in facts.ask("cost", "month", "tenant", period=period).records()
    }
    assert bill[date(2026, 10, 1), "t0"] == sum(costs[0::6])
    assert bill[date(2026, 11, 1), "t0"] == sum(costs[3::6])


def test_what_is_told_twice_counts_once_at_the_edge_of_a_period_too(facts: Facts) -> None:
    same = {"SpanId": "00000000000000ab"}
    facts.add("llm_calls", {**same, "Timestamp": NOW - timedelta(days=7, milliseconds=1)})
    facts.add("llm_calls", LOST | same | {"Timestamp": NOW - timedelta(days=7)})
    assert facts.ask("cost", "total").rows == []
    earlier = facts.ask("cost", "total", period=Period(NOW - timedelta(days=14), NOW - timedelta(days=7)))
    assert [row[1:] for row in earlier.rows] == [(1, 1, 1000, 10, CENT, CENT, 0)]


def test_what_a_cache_saves(facts: Facts) -> None:
    """Read 1,000,003 tokens at 0.30 instead of 3, wrote 7 at 3.75: 2.7 x 1.000003 - 0.75 x 0.000007 dollars."""
    row = ["anthropic", "opus", date(2026, 1, 1), Decimal(3), Decimal(15), Decimal("0.3"), Decimal("3.75"), "list"]
    old = ["anthropic", "opus", date(2025, 1, 1), Decimal(300), Decimal(1), Decimal(1), Decimal(1), "old"]
    with session(facts.url) as client:
        client.insert("model_prices", [old, row, row])
    used = {"InputTokens": 2_000_000, "CacheReadTokens": 1_000_003, "CacheWriteTokens": 7}
    facts.add("llm_calls", used, {**used, "Model": "new"}, {**used, "PriceVersion": "route/3/15"}, LOST)
    dear, unlisted = sorted(facts.ask("cache").rows, reverse=True)
    ratio = 2_000_006 / 4_000_000
    assert dear == ("opus", 3, 4_000_000, 2_000_006, 14, ratio, Decimal("2.70000285"), 1)
    assert unlisted == ("new", 1, 2_000_000, 1_000_003, 7, 1_000_003 / 2_000_000, None, 1)


def test_in_vain(facts: Facts) -> None:
    facts.add(
        "llm_calls",
        {"CostUsd": "0.5"},
        {"StatusCode": "Error", "CostUsd": "0.2"},
        {"Validation": "failed", "CostUsd": "0.3"},
    )
    facts.add("llm_calls", LOST, {"StatusCode": "Error", "CallStatus": "refused", "CostUsd": None})
    assert facts.ask("waste").rows == [("review", 5, 1, 1, 1, 1, Decimal("0.5"), Decimal(1), 0.5, 1)]


def test_success_costs_what_failures_cost_too(facts: Facts) -> None:
    facts.add(
        "llm_calls", {}, {"TaskId": "task-2", "CostUsd": "0.02"}, {"TaskId": "task-2", "Attempt": 2, "CostUsd": "0.03"}
    )
    facts.add("task_runs", {}, {"TaskId": "task-2", "Outcome": "retry"}, {"TaskId": "task-2", "Outcome": "dead"})
    facts.add("task_runs", {"TaskId": "task-3"})
    assert facts.ask("cost-per-success").rows == [("review", 3, 2, 2 / 3, Decimal("0.06"), Decimal("0.03"), 0)]


def test_shares_beside_the_usual_ones(facts: Facts) -> None:
    tiers = ["small"] * 13 + ["medium"] * 6 + ["large"]
    facts.add(
        "llm_calls",
        *(
            {"Tier": tier, "TaskId": f"t{n}", "Runtime": "temporal" if n < 3 else "cron"}
            for n, tier in enumerate(tiers)
        ),
    )
    assert facts.ask("mix").n == 20
    rows = [(row[1], row[2], round(row[6], 9), row[7], round(row[8], 9)) for row in facts.ask("mix").rows]
    assert rows == [
        ("small", 13, 0.65, 0.7, -0.05), ("medium", 6, 0.3, 0.25, 0.05), ("large", 1, 0.05, 0.05, 0.0),
        ("cron", 17, 0.85, 0.9, -0.05), ("temporal", 3, 0.15, 0.1, 0.05),
    ]  # fmt: skip


def test_a_prompt_creeps_and_its_versions_stand_side_by_side(facts: Facts) -> None:
    weeks = [NOW - timedelta(days=21), NOW - timedelta(days=14), NOW - timedelta(days=7)]
    for n, at in enumerate(weeks):
        facts.add(
            "llm_calls", *({"Timestamp": at, "TaskId": f"{n}-{i}", "InputTokens": 1000 + 500 * n} for i in (1, 1, 2))
        )
    facts.add("llm_calls", {"Version": "2", "InputTokens": 700, "Validation": "failed", "CostUsd": "0.004"})
    creep = facts.ask("prompts", "week", "version")
    assert [(row["week"], row["version"], row["input_tokens_per_task"]) for row in creep.records()] == [
        (date(2026, 11, 2), "1", 1500.0), (date(2026, 11, 9), "1", 2250.0), (date(2026, 11, 16), "1", 3000.0),
        (date(2026, 11, 16), "2", 700.0),
    ]  # fmt: skip
    a, b = facts.ask("prompts").records()
    assert (a["pass_rate"], b["pass_rate"]) == (1.0, 0.0)
    assert (a["cost_per_task_usd"], b["cost_per_task_usd"]) == (Decimal("0.015"), Decimal("0.004"))


def test_a_bill_beside_what_was_booked(facts: Facts, tmp_path: Path) -> None:
    facts.add("llm_calls", {}, {"Model": "haiku", "CostUsd": None}, {"Model": "made up", "ProviderSimulated": True})
    bill = tmp_path / "bill.csv"
    bill.write_text("\ufeffModel,Day,requests,Cost_USD\nopus,2026-11-22,1,0.008\nopus,2026-11-22,1,$0.005\n"
                    "haiku,2026-11-22,1,1\nother,2026-11-21,2,3.5\n")  # fmt: skip
    answer = beside(facts.ask("reconcile"), read_bill(bill))
    assert answer.rows == [
        (date(2026, 11, 21), "other", 0, 0, None, Decimal("3.5"), None),
        (SUNDAY, "haiku", 1, 1, None, Decimal(1), None),
        (SUNDAY, "opus", 1, 0, CENT, Decimal("0.013"), Decimal("0.003")),
    ]
    assert "-$" not in render_text(answer)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1 of the bill BILL: there is no column day"),
        ("day,model\n", "line 1 of the bill BILL: there is no column cost_usd"),
        ("day,model,cost_usd\n", "the bill BILL has no lines"),
        (
            "day,model,cost_usd\n2026-11-01,opus,1\n2026-13-01,opus,1\n",
            "line 3 of the bill BILL: '2026-13-01' is no day",
        ),
        ("day,model,cost_usd\n2026-11-01,opus,1e\n", "line 2 of the bill BILL: '1e' is no amount"),
        ("day,model,cost_usd\n2026-11-01,opus,NaN\n", "line 2 of the bill BILL: 'NaN' is no amount"),
        ("day,model,cost_usd\n2026-11-01,,1\n", "line 2 of the bill BILL: it names no model"),
        ("day,model,cost_usd\n2026-11-01,opus\n", "line 2 of the bill BILL: it has more or fewer fields"),
        ("day,model,cost_usd\n2026-11-01,opus,1,234\n", "line 2 of the bill BILL: it has more or fewer fields"),
        ('day,model,cost_usd\n2026-11-01,"opus,1\n', "line 2 of the bill BILL: this is no CSV"),
        ("day,model,cost_usd\n2026-11-01,\udcff,1\n", "the bill BILL is not UTF-8"),
    ],
)
def test_a_broken_bill_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    bill = tmp_path / "bill.csv"
    bill.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as raised:
        read_bill(bill)
    assert str(raised.value).startswith(said.replace("BILL", str(bill)))
    assert "\n" not in str(raised.value)


def test_list_prices_of_what_was_called(facts: Facts) -> None:
    facts.add("llm_calls", {"Model": "claude-opus-4-7"}, {"Model": "nobody knows"})
    with session(facts.url) as client:
        rows = {row.model: row for row in prices.refresh(client)}
        prices.refresh(client)
    opus = rows["claude-opus-4-7"]
    assert (opus.input, opus.output, opus.cache_read) == (Decimal(5), Decimal(25), Decimal("0.5"))
    assert rows["nobody knows"][3:7] == (None, None, None, None)
    assert ask(facts.url, "SELECT count() FROM v_model_prices") == [(2,)]


def _rounded(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(round(value, 9) if isinstance(value, float) else value for value in row)


def test_prompts_stand_beside_what_people_say_of_their_results(facts: Facts) -> None:
    """Of version 1 two findings are right and one is none; of version 2 the last word on its only one is wrong."""
    for version, tasks in (("1", ("a", "b")), ("2", ("c", "d"))):
        facts.add("llm_calls", *({"Version": version, "TaskId": task} for task in tasks), count=2)
    words = [
        ("a", "x", "correct"),
        ("a", "y", "false_positive"),
        ("b", "", "correct"),
        ("c", "", "correct"),
        ("c", "", "wrong"),
    ]
    about = {"Timestamp": NOW - timedelta(hours=2), "Workflow": "review"}
    for number, (task, finding, label) in enumerate(words):
        facts.add("feedback", {**about, "FeedbackId": str(number), "TaskId": task, "Finding": finding, "Label": label})
    facts.add("feedback", {**about, "FeedbackId": "9", "TaskId": "elsewhere", "Label": "wrong"})
    names = ("version", "tasks", "calls", "findings", "false_positive_rate", "accuracy")
    found = [tuple(row[name] for name in names) for row in facts.ask("prompts").records()]
    assert found == [("1", 2, 4, 3, 0.3333, 0.6667), ("2", 2, 4, 1, 0.0, 0.0)]
