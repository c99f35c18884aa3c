"""Whether the database is in a state to go on like this: rows that vacuum cannot remove, work that nobody does."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from backbeat.operate import health_approvals
from shared.db.pool import Database
from shared.db.queries import load

_SQL = load("health", "backbeat.operate")
HELD_SECONDS, HELD_TRANSACTIONS = 300, 100_000  # how long, or for how many others, one transaction may keep dead rows
DEAD_ROWS = 20_000  # that a table may have beside as many live ones
BLOAT = 4, 32 << 20  # times what its rows need, and bytes, from which an index is worth rebuilding
WAIT_SECONDS = 3600
OVERRUN = "A hard cap does not hold there: `bounded = false`, or correct its prices; then `backbeat route release`"
ROUTES = "`backbeat route list` shows them; correct the cause, then `backbeat route release`"
DAYS_AHEAD = 3
MOST_STOPS = 5  # that are named
SPOOL_SECONDS = 900.0  # that spans may wait: three rounds of ticks that found ClickHouse away


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `state`: ok, wrong, or unknown where this login may not see; `fix` says what to do."""

    check: str
    state: str
    found: str
    fix: str = ""


async def examine(db: Database) -> list[Check]:
    """Look at everything, as any login that may read the schema."""
    queue = await db.row(_SQL["queue"])
    return [
        *_waiting(queue),
        _stops(await db.rows(_SQL["stops"])),
        _partitions(queue["days_ahead"]),
        _vacuum(await db.rows(_SQL["tables"])),
        _holder(await db.rows(_SQL["holders"])),
        _idle(await db.row(_SQL["idle"])),
        _indexes(await db.rows(_SQL["indexes"])),
        _check("overruns", f"{queue['overrun']} USD above what calls reserved, today", queue["overrun"] > 0, OVERRUN),
        _check("routes", queue["shut"] or "none is shut", queue["shut"] is not None, ROUTES),
        *(_check(*finding) for finding in await health_approvals.findings(db)),
        _notifications(queue),
        _spools(await db.rows(_SQL["spools"])),
        Check("dead letters", "ok", f"{queue['dead']} open", "backbeat dead list" if queue["dead"] else ""),
    ]


def _check(name: str, found: str, wrong: bool, fix: str) -> Check:
    return Check(name, "wrong", found, fix) if wrong else Check(name, "ok", found)


def _waiting(queue: Mapping[str, Any]) -> list[Check]:
    waits, ticks = queue["waits"], queue["ticks"]
    oldest = "nothing waits" if waits is None else f"the oldest task waits for {_span(waits)}"
    slow = waits is not None and waits > WAIT_SECONDS
    absent = waits is not None and waits > 300 and not ticks
    return [
        _check(
            "queue", oldest, slow, "More or wider ticks; `backbeat task list --status pending` shows whose they are"
        ),
        _check("ticks", f"{ticks} in 5 minutes", absent, "Nobody works: look at what starts `cron-worker tick`"),
    ]


def _stops(stops: list[dict[str, Any]]) -> Check:
    """What people let nobody start: all of the switches, and the pauses that stand longest."""
    said = [
        f"{one['what']} since {one['since'].astimezone(UTC):%Y-%m-%d %H:%M} UTC by {one['by']}: "
        + " ".join(one["reason"].split())
        for one in stops[:MOST_STOPS]
    ]
    more = [f"{len(stops) - MOST_STOPS} more"] if len(stops) > MOST_STOPS else []
    thrown = any(one["switch"] for one in stops)
    found = "; ".join([*said, *more]) or "nothing is stopped or paused"
    return Check("stops", "wrong" if thrown else "ok", found, stops[0]["undo"] if stops else "")


def _notifications(queue: Mapping[str, Any]) -> Check:
    found = f"{queue['unsent']} wait, {queue['unsendable']} dead in a day"
    late = queue["unsent_for"] is not None and queue["unsent_for"] > WAIT_SECONDS
    if not queue["unsendable"] and late and not queue["channels"]:
        return Check("notifications", "ok", f"{queue['unsent']} wait; nobody sends any", "docs/how-to/notify.md")
    fix = "`backbeat notify list` says why; `backbeat notify send --watch` must run"
    return _check("notifications", found, bool(queue["unsendable"] or late), fix)


def spool_is_old(oldest: float | None) -> bool:
    """Whether spans wait so long that somebody should look."""
    return oldest is not None and oldest > SPOOL_SECONDS


def _spools(spools: list[dict[str, Any]]) -> Check:
    """Of all hosts that told of theirs, and the outbox."""
    files, shed, aside = (sum(one[name] or 0 for one in spools) for name in ("files", "shed", "quarantined"))
    found = f"{files} batches wait, {shed} spans were shed, {aside} batches set aside"
    if files:
        found += f"; the oldest, on {spools[0]['host']}, for {_span(spools[0]['oldest'] or 0.0)}"
    wrong = bool(aside) or any(spool_is_old(one["oldest"]) for one in spools)
    return _check("telemetry", found, wrong, "`backbeat telemetry ship` on that host says why")


def _partitions(days: int | None) -> Check:
    fix = "As the schema's owner: SELECT backbeat.maintain_partitions(); ticks do it while there is work"
    return _check("partitions", f"{days or 0} days ahead", (days or 0) < DAYS_AHEAD, fix)


def _vacuum(tables: list[dict[str, Any]]) -> Check:
    """The worst table."""
    if off := [table["name"] for table in tables if not table["vacuumed_by_itself"]]:
        return Check("vacuum", "wrong", f"autovacuum is off for {', '.join(off)}", "Switch it on; a queue needs it")
    worst = tables[0]
    ratio = worst["dead"] / max(worst["dead"] + worst["live"], 1)
    when = "never vacuumed" if worst["vacuumed_ago"] is None else f"vacuumed {_span(worst['vacuumed_ago'])} ago"
    found = f"{worst['name']}: {worst['dead']} dead rows ({ratio:.0%}), {when}"
    wrong = worst["dead"] > max(DEAD_ROWS, worst["live"])
    return _check("vacuum", found, wrong, f"VACUUM backbeat.{worst['name']}; if they stay, see the oldest transaction")


def _holder(holders: list[dict[str, Any]]) -> Check:
    name = "oldest transaction"
    if not holders:
        return Check(name, "ok", "none")
    (one,) = holders
    # Of other logins' sessions only the number of transactions since is shown.
    age = f"{one['transactions']} transactions" + (f", {_span(one['seconds'])}" if one["seconds"] is not None else "")
    wrong = one["transactions"] > HELD_TRANSACTIONS or (one["seconds"] or 0) > HELD_SECONDS
    end = f"SELECT pg_terminate_backend({one['pid']})" if one["pid"] else "Drop or finish it"
    return _check(name, f"{one['who']} ({one['application']}): {age}", wrong, f"It keeps dead rows from vacuum. {end}")


def _idle(sessions: Mapping[str, Any]) -> Check:
    name, found = "idle in transaction", f"{sessions['idle']} for over a minute"
    if sessions["idle"]:
        fix = f"SELECT pg_terminate_backend({sessions['pid']}); set idle_in_transaction_session_timeout"
        return Check(name, "wrong", found, fix)
    if sessions["hidden"]:
        found = f"{sessions['hidden']} sessions of other logins do not show"
        return Check(name, "unknown", found, "To see them: GRANT pg_read_all_stats to this login")
    return Check(name, "ok", found)


def _indexes(indexes: list[dict[str, Any]]) -> Check:
    """The one that is largest for what it holds; an estimate, since only the size of the file is known."""
    times, least = BLOAT
    worst = max(indexes, key=lambda one: one["bytes"] / one["expected"])
    ratio = worst["bytes"] / worst["expected"]
    found = f"{worst['name']}: {worst['bytes'] / 2**20:.1f} MB, about {max(ratio, 1):.0f} times what its rows need"
    wrong = ratio > times and worst["bytes"] > least
    return _check("index bloat", found, wrong, f"REINDEX INDEX CONCURRENTLY backbeat.{worst['name']}")


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
