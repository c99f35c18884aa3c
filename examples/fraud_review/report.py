"""What the demo says at its end: for people, and as one object."""

import os
from typing import Any

from examples.fraud_review.run import Measured, Options
from examples.fraud_review.tally import Evidence, by_pattern, figures

DAY = 86_400  # seconds
ARTICLE = 2_300_000  # transactions a day, of the case this example is made after


def report(options: Options, measured: Measured, seen: Evidence, provider: str) -> tuple[str, dict[str, Any]]:
    """The text, and the figures of its last line. What was known before this run has cost, but no speed."""
    counted = figures(seen)
    counted |= _speed(measured) if measured.new else {}
    counted |= {
        "ticks": measured.ticks,
        "processes": options.processes,
        "beat_seconds": options.beat,
        "arrive_seconds": options.arrive,
        "latency": options.latency,
        "provider": provider,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    lines = [*_work(counted, measured), "", *_frauds(counted, seen), "", _money(counted), *_pace(counted), ""]
    return "\n".join(lines) + "\n", counted


def _speed(measured: Measured) -> dict[str, Any]:
    a_second = measured.new / measured.seconds
    return {
        "seconds": round(measured.seconds, 1),
        "transactions_per_second": round(a_second, 1),
        "transactions_per_day": int(a_second * DAY),
        "cpu_ms_per_transaction": round(1000 * (measured.cpu_ticks + measured.cpu_postgres) / measured.new, 3),
        "cpu_ms_ticks": round(1000 * measured.cpu_ticks / measured.new, 3),
        "cpu_ms_postgres": round(1000 * measured.cpu_postgres / measured.new, 3),
    }


def _work(counted: dict[str, Any], measured: Measured) -> list[str]:
    known = counted["transactions"] - measured.new
    waiting = counted["escalated"] - counted["approved"] - counted["rejected"]
    decided = f"{counted['approved']} blocked, {counted['rejected']} released, {waiting} waiting"
    return [
        f"{counted['transactions']:,} payments" + (f", {known:,} of them known from earlier runs" if known else ""),
        f"  {counted['screened']:,} screened by written rules, in bulk",
        f"  {counted['judged']:,} doubtful, judged by a small model ({counted['provider']}), a call each",
        f"  {counted['escalated']:,} risky, escalated to people: {decided}",
    ]


def _frauds(counted: dict[str, Any], seen: Evidence) -> list[str]:
    table = [f"  {'':12}{'payments':>9}{'doubtful':>9}{'escalated':>10}"]
    table += [f"  {name:12}{made:9,}{doubtful:9,}{up:10,}" for name, made, doubtful, up in by_pattern(seen)]
    found = f"{counted['found']} found, {counted['missed']} missed, {counted['false_alarms']} false alarms"
    return [f"Planted frauds, {counted['planted']} payments: {found}", *table]


def _money(counted: dict[str, Any]) -> str:
    of_one, of_judged = counted["cost_usd_per_transaction"], counted["cost_usd_per_judged"]
    calls = f"${counted['cost_usd']} for {counted['llm_calls']:,} calls at real prices"
    return f"{calls}: ${of_one} a payment, ${of_judged} a judged one"


def _pace(counted: dict[str, Any]) -> list[str]:
    if "seconds" not in counted:
        return ["Nothing was new, so there is no speed to tell"]
    of_one, cores = counted["cpu_ms_per_transaction"], counted["cores"] or 1
    share = of_one / 1000 * ARTICLE / DAY / cores
    pace = f"{counted['transactions_per_second']:,} a second, {counted['transactions_per_day']:,} a day"
    shape = f"{counted['processes']} processes on a beat of {counted['beat_seconds']:g} s"
    how = f"{shape}, {counted['ticks']} ticks; {cores} cores, load {counted['load']}"
    parts = f"ticks {counted['cpu_ms_ticks']}, Postgres {counted['cpu_ms_postgres']}"
    return [
        f"{counted['seconds']} s from the first arrival to the last verdict: {pace}",
        f"  ({how})",
        f"{of_one} ms of CPU a payment ({parts}); {ARTICLE:,} a day would take {share:.0%} of these cores",
    ]
