"""Reports on ticks, decisions, journeys, feedback and what outgrows cron: answers worked out by hand."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from backbeat.reports.ask import Period
from backbeat.reports.catalog import find
from backbeat.reports.condition import judge, parse
from backbeat.reports.plot import render_svg
from tests.integration import _reports
from tests.integration._reports import NOW, WEEK, Facts

reports_database = _reports.reports_database
facts = _reports.facts
AT = NOW - timedelta(days=1)
SECOND = 1_000_000_000  # ns
# The Sunday on which Berlin has 25 hours, and its week.
AUTUMN = Period(datetime(2026, 10, 18, 22, tzinfo=UTC), datetime(2026, 10, 25, 23, tzinfo=UTC), "Europe/Berlin")
TWICE = [datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)]  # both 02:30 there


def after(seconds: float, start: datetime = AT) -> datetime:
    return start + timedelta(seconds=seconds)


def tick(seconds: float, lasts: float = 10, *, waited: float | None = None, **more: Any) -> dict[str, Any]:
    wait = None if waited is None else int(waited * 1000)
    made = {"Timestamp": after(seconds), "DurationNs": int(lasts * SECOND), "Slots": 2, "OldestWaitMs": wait}
    return {"Host": "a", **made, **more}


def row(facts: Facts, name: str, *by: str, period: Period = WEEK) -> dict[str, Any]:
    """The only row."""
    (found,) = facts.ask(name, *by, period=period).records()
    return found


def test_the_queue(facts: Facts) -> None:
    # Beats of a minute; at 180 s none came though a task waited, at 300 s none came and nothing did. Then two overlap.
    starts = [(0, None), (60, 5), (120, 1), (240, 100), (360, 2)]
    facts.add("tick_runs", *(tick(at, waited=waited) for at, waited in starts), tick(365, 20, Host="b", waited=1))
    runs = [{"QueueWaitMs": wait * 1000.0, "DurationNs": 5 * SECOND} for wait in (1, 2, 3, 4, 90)]
    facts.add("task_runs", *runs, {"Attempt": 2, "DurationNs": 10 * SECOND, "QueueWaitMs": 7e6})
    facts.add("task_runs", {"Outcome": "lost", "QueueWaitMs": None}, {"Runtime": "temporal", "QueueWaitMs": 9e9})
    found = row(facts, "queue", "total")
    assert found == {
        "total": "total", "runs": 6, "lag_p50_s": 3.0, "lag_p95_s": 90.0, "lag_p99_s": 90.0, "ticks": 6,
        "ticks_missed": 1, "at_once": 2, "overlap": round(5 / 65, 4), "utilisation": 0.25,
    }  # fmt: skip
    # One tick alone has no beat to miss; a task without one has no tick to be late for.
    assert row(facts, "queue", "day")["ticks"] == 6
    early = Period(AT - timedelta(days=2), AT - timedelta(days=1, seconds=-1))
    facts.add("tick_runs", tick(-86_400, waited=5000))
    alone = row(facts, "queue", "total", period=early)
    assert (alone["ticks_missed"], alone["lag_p50_s"], alone["overlap"], alone["utilisation"]) == (0, None, 0.0, 0.0)
    facts.add("task_runs", *({"Timestamp": at, "QueueWaitMs": 1.0} for at in TWICE))
    found = row(facts, "queue", "day", period=AUTUMN)
    assert (found["day"].isoformat(), found["runs"], found["ticks"], found["ticks_missed"]) == (
        "2026-10-25",
        2,
        0,
        None,
    )


def test_the_burn_and_what_it_comes_to(facts: Facts) -> None:
    # At noon of the 23rd: $6 today, $3 of it in the last three hours; $14 in seven days, $24 in the month.
    facts.add(
        "llm_calls",
        {"Timestamp": NOW - timedelta(hours=1), "CostUsd": "3.000000001"},
        {"Timestamp": NOW - timedelta(hours=5), "CostUsd": "3"},
        {"Timestamp": NOW - timedelta(days=3), "CostUsd": "8"},
        {"Timestamp": NOW - timedelta(days=20), "CostUsd": "10"},
        {"Timestamp": NOW - timedelta(days=25), "CostUsd": "50"},
        {"Timestamp": NOW - timedelta(hours=2), "CostUsd": None},
        {"Timestamp": NOW + timedelta(seconds=1), "CostUsd": "99"},
    )
    month = Period(NOW - timedelta(days=31), NOW)
    assert row(facts, "budget", period=month) == {
        "workflow": "review", "calls": 6, "today_usd": Decimal("6.000000001"), "hourly_usd": Decimal("1.000000"),
        "forecast_today_usd": Decimal("18.000000"), "month_usd": Decimal("24.000000001"),
        "daily_usd": Decimal("2.000000"), "forecast_month_usd": Decimal("39.000000"), "unpriced": 1,
    }  # fmt: skip
    assert row(facts, "budget", "tier")["calls"] == 4, (
        "the period counts calls; month and rates reach back by themselves"
    )
    # A workflow of an hour ago is not taken for three hours old.
    facts.add("llm_calls", {"Workflow": "new", "Timestamp": NOW - timedelta(hours=1), "CostUsd": "1"})
    new = next(one for one in facts.ask("budget").records() if one["workflow"] == "new")
    assert (new["hourly_usd"], new["forecast_today_usd"], new["daily_usd"]) == (1, 13, 1)
    assert len(judge(parse("forecast_month_usd > 38.99"), facts.ask("budget")).rows) == 1


def approval(number: int, state: str, wait: float, **votes: tuple[str, float]) -> list[dict[str, Any]]:
    def event(kind: str, seconds: float, **more: Any) -> dict[str, Any]:
        about = {
            "ApprovalId": f"a{number}",
            "EffectKind": "pay",
            "Tenant": "acme",
            "OriginId": f"o{number}",
            "State": "pending",
        }
        return {**about, "Event": kind, "Timestamp": after(seconds), "WaitMs": int(seconds * 1000), **more}

    said = [event("voted", at, Person=person, Decision=decision) for person, (decision, at) in votes.items()]
    ended = [] if state == "pending" else [event("decided", wait, State=state)]
    return [event("requested", 0), *said, *ended]


def test_decisions(facts: Facts) -> None:
    said = [
        approval(1, "approved", 20, ann=("approve", 10), bob=("approve", 20)),
        approval(2, "rejected", 40, ann=("reject", 40)),
        approval(3, "expired", 3600),
        approval(4, "pending", 0, bob=("approve", 60)),
        approval(5, "revoked", 90, bob=("approve", 30), ann=("revoke", 90)),
    ]
    facts.add("approvals", *(event for events in said for event in events))
    facts.add("origins", {"OriginId": "o1", "Workflow": "refund", "Timestamp": AT})
    assert row(facts, "approvals") == {
        "kind": "pay", "requests": 5, "pending": 1, "approved": 1, "rejected": 1, "expired": 1, "wait_p50_s": 90.0,
        "wait_p95_s": 3600.0, "votes": 5, "approve_rate": 0.8, "decide_p50_s": 30.0, "decide_p95_s": 60.0,
    }  # fmt: skip
    people = {one["approver"]: one for one in facts.ask("approvals", "approver").records()}
    assert sorted(people) == ["", "ann", "bob"]
    assert (people[""]["votes"], people[""]["expired"], people[""]["decide_p50_s"]) == (0, 1, None)
    assert [people["ann"][name] for name in ("requests", "votes", "approve_rate", "decide_p50_s")] == [2, 2, 0.5, 40.0]
    assert [people["bob"][name] for name in ("votes", "approve_rate", "decide_p50_s", "decide_p95_s")] == [
        3,
        1.0,
        30.0,
        60.0,
    ]
    assert {one["workflow"] for one in facts.ask("approvals", "workflow").records()} == {"", "refund"}


def test_from_source_to_effect(facts: Facts) -> None:
    def origin(name: str, sourced: float | None = None) -> dict[str, Any]:
        source = None if sourced is None else after(-sourced)
        return {"OriginId": name, "Workflow": "refund", "Runtime": "cron", "SourceAt": source, "Timestamp": AT}

    def effect(name: str, ends: float, status: str, identity: str) -> dict[str, Any]:
        return {
            "OriginId": name,
            "Status": status,
            "SpanId": identity,
            "DurationNs": 2 * SECOND,
            "Timestamp": after(ends - 2),
        }

    # a: 90 s, told of twice, two effects. b: 10 s from its enqueue. c is not known to be done, nor is its cost.
    # d: 20 s, its effect heard of after all; no call, no cost.
    facts.add("origins", origin("a", 30), origin("a"), origin("b"), origin("c", 5), origin("d", 5))
    told = [("a", 5, "done", "1"), ("a", 60, "done", "2"), ("b", 10, "done", "3"), ("c", 700, "unknown", "4")]
    facts.add("effects", *(effect(*one) for one in [*told, ("d", 15, "unknown", "5"), ("d", 15, "done", "5")]))
    costs = [("a", "0.10"), ("a", "0.20"), ("b", "0.50"), ("c", "0.01"), ("c", None)]
    facts.add("llm_calls", *({"OriginId": name, "CostUsd": usd, "Timestamp": AT} for name, usd in costs))
    assert row(facts, "journey") == {
        "workflow": "refund", "origins": 4, "sourced": 3, "done": 3, "p50_s": 20.0, "p99_s": 90.0,
        "avg_usd": Decimal("0.266666666"), "p95_usd": Decimal("0.500000000"), "unpriced": 1,
    }  # fmt: skip
    facts.add("origins", {"OriginId": "e", "Workflow": "bulk", "Timestamp": TWICE[0]})
    facts.add("llm_calls", {"OriginId": "e", "CostUsd": None, "Timestamp": TWICE[0]})
    alone = row(facts, "journey", "day", period=AUTUMN)
    assert alone["day"].isoformat() == "2026-10-25"
    assert [alone[name] for name in ("origins", "done", "p50_s", "avg_usd")] == [1, 0, None, None]


def test_what_people_say(facts: Facts) -> None:
    def said(label: str, task: str = "t", finding: str = "", at: float = 0, by: str = "ann") -> dict[str, Any]:
        identity = f"{task}{finding}{at}{by}"
        about = {"TaskId": task, "Finding": finding, "Label": label, "SaidBy": by, "FeedbackId": identity}
        return {"Workflow": "review", "Timestamp": after(at), **about}

    right = [said("correct", finding=f"f{n}") for n in range(8)]
    last = said("false_positive", finding="f0", at=5, by="bob")
    facts.add("feedback", *right, last, said("wrong", "u"), said("missed", "u", "g"), said("style", "v"))
    found = row(facts, "quality")
    assert found == {
        "workflow": "review", "findings": 11, "correct": 7, "false_positive": 1, "wrong": 1, "missed": 1, "other": 1,
        "false_positive_rate": round(1 / 9, 4), "accuracy": 0.7, "results": 3, "people": 2,
    }  # fmt: skip
    facts.add("feedback", {"Workflow": "x", "Label": "style", "TaskId": "x", "Timestamp": TWICE[1]})
    odd = row(facts, "quality", "week", period=AUTUMN)
    assert (odd["week"].isoformat(), odd["accuracy"], odd["false_positive_rate"]) == ("2026-10-19", None, None)


def test_health(facts: Facts) -> None:
    facts.add(
        "tick_runs",
        tick(-60, SpoolFiles=500, SpoolAgeS=1e4, ClockSkewMs=-2500),
        tick(0, SpoolFiles=3, SpoolAgeS=90.0, ClockSkewMs=40, Shed=7),
        tick(86_000, Host="b", SpoolFiles=None, SpoolAgeS=None, ClockSkewMs=None),
    )
    facts.add("llm_calls", {}, {"CostUsd": None}, {"CostUsd": None, "CallStatus": "lost"}, {"CostUsd": "0"})
    told = {"TraceId": "x", "SpanName": "s", "Timestamp": AT}
    facts.add(
        "otel_traces",
        {**told, "SpanId": "1"},
        {**told, "SpanId": "1"},
        {**told, "SpanId": "2"},
        {**told, "SpanId": "3"},
    )
    found = {one["check"]: one for one in facts.ask("health").records()}
    assert {name: (one["measured"], one["bad"], one["where"]) for name, one in found.items()} == {
        "spool depth": (3.0, 0, "a"), "spool age": (90.0, 0, "a"), "silence": (86_400.0, 1, "a"), "shed": (7.0, 1, "a"),
        "clock skew": (2.5, 1, "a"), "duplicates": (0.25, 1, ""), "unpriced": (0.3333, 1, "opus"),
        "lost": (0.25, 1, "opus"),
    }  # fmt: skip
    assert [row["check"] for row in judge(parse("bad = 1 and check = 'shed'"), facts.ask("health")).rows] == ["shed"]


@pytest.fixture
def outgrown(facts: Facts) -> Facts:
    """A workflow `all` that crosses every threshold, and `busy`, which is only large."""

    def run(task: str, at: float = 0.0, wait: float = 1000.0, **more: Any) -> dict[str, Any]:
        about = {"Workflow": "all", "TaskId": task, "OriginId": task, "Timestamp": after(at), "QueueWaitMs": wait}
        return {**about, **more}

    urgent = [run(f"u{n}", wait=1500.0, Class="urgent") for n in range(30)]
    regions = [run(f"r{n % 10}", at=n, Region="eu" if n < 10 else "us") for n in range(20)]
    rests = [run(f"s{n % 5}", at=0 if n < 5 else 7201, Outcome="snooze", Attempt=1 + n // 5) for n in range(10)]
    hour = 3600 * 10
    burst = [run(f"b{n}", at=hour, Tenant="big") for n in range(300)]
    others = [run(f"o{n}", at=hour, wait=600_000.0, Tenant="small") for n in range(30)]
    facts.add("task_runs", *urgent, *regions, *rests, *burst, *others)
    keys = [(n, k) for n in range(6) for k in range(17) if (n, k) != (0, 0)]
    facts.add(
        "llm_calls",
        *(
            {"TaskId": f"u{n}", "CallKey": f"{chr(97 + k)} {k}:x/{n}", "Timestamp": AT, "Workflow": "all"}
            for n, k in keys
        ),
    )
    kinds = [(n, kind) for n in range(6) for kind in ("pay", "mail")]
    facts.add(
        "effects",
        *(
            {"OwnerId": f"b{n}", "Kind": k, "Runtime": "cron", "Status": "done", "Timestamp": AT, "SpanId": f"{n}{k}"}
            for n, k in kinds
        ),
    )
    facts.add("task_runs", *(run(f"v{n}", at=n % 3600, Workflow="busy") for n in range(5000)))
    loop = [
        {"TaskId": f"v{n}", "CallKey": f"comment {k}", "Timestamp": AT, "Workflow": "busy"}
        for n in range(30)
        for k in range(40)
    ]
    facts.add("llm_calls", *loop)
    facts.add(
        "effects",
        *(
            {"OwnerId": f"v{n}", "Kind": "mail", "Runtime": "cron", "Status": "done", "Timestamp": AT}
            for n in range(30)
        ),
    )
    return facts


def test_what_has_outgrown_cron(outgrown: Facts) -> None:
    answer = outgrown.ask("graduation")
    rows = {(one["workflow"], one["threshold"]): one for one in answer.records()}
    names = [
        "sub-second need",
        "more than 15 steps",
        "cross-region",
        "waits of hours",
        "a tenant's burst",
        "irrevocable writes",
    ]
    assert [key[1] for key in rows] == names * 2
    found = {name: (rows["all", name]["measured"], rows["all", name]["n"]) for name in names}
    assert found == {
        names[0]: (1.5, 30), names[1]: (17.0, 6), names[2]: (1.0, 10), names[3]: (2.0, 5), names[4]: (10.0, 30),
        names[5]: (1.0, 6),
    }  # fmt: skip
    assert {one["crossed"] for key, one in rows.items() if key[0] == "all"} == {1}
    assert rows["all", names[1]]["evidence"] == "p95 of 17 distinct steps a task, in 2 combinations, of 6 tasks"
    assert "weigh and cap the tenant" in rows["all", names[4]]["advice"]
    # Five thousand tasks, forty calls each: volume and loops cross nothing.
    busy = {name: rows["busy", name] for name in names}
    assert {(one["crossed"], one["advice"]) for one in busy.values()} == {(0, "stay on cron")}
    assert (busy[names[1]]["measured"], busy[names[5]]["measured"]) == (2.0, 0.0)
    assert busy[names[2]]["evidence"] == "nothing to measure"
    drawn = render_svg(answer)
    assert "irrevocable writes" in drawn


def test_one_row_of_nothing_known(facts: Facts) -> None:
    facts.add("tick_runs", {})
    facts.add("task_runs", {"Workflow": "w", "QueueWaitMs": None})
    facts.add("approvals", {"ApprovalId": "a", "Event": "requested"})
    facts.add("origins", {"OriginId": "o"})
    facts.add("feedback", {"FeedbackId": "f"})
    facts.add("llm_calls", {"CostUsd": None, "OriginId": "o"})
    for name in ("queue", "budget", "approvals", "journey", "quality", "health", "graduation"):
        answer = facts.ask(name)
        assert answer.rows, name
        assert find(name).title in render_svg(answer)
    assert row(facts, "journey")["avg_usd"] is None
    assert row(facts, "queue", "total")["lag_p50_s"] is None
    assert row(facts, "approvals")["approve_rate"] is None
