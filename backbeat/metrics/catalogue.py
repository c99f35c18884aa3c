"""Every metric there is: name, unit, what it says, and the labels it has. All are gauges: what is so now."""

from typing import NamedTuple


class Metric(NamedTuple):
    """One family. The unit is the end of the name, as Prometheus wants it; `count` is a number of things."""

    name: str
    unit: str
    help: str
    labels: tuple[str, ...] = ()


CATALOGUE: tuple[Metric, ...] = (
    Metric("backbeat_up", "count", "1 when Postgres answered this collection."),
    Metric("backbeat_collection_seconds", "seconds", "How long this collection took."),
    Metric(
        "backbeat_queue_tasks",
        "count",
        "Live tasks by tenant and status; _other is all further tenants.",
        ("tenant", "status"),
    ),
    Metric(
        "backbeat_queue_oldest_seconds",
        "seconds",
        "Age of the oldest live task by tenant and status.",
        ("tenant", "status"),
    ),
    Metric("backbeat_held_tasks", "count", "Tasks that are held, by reason.", ("reason",)),
    Metric(
        "backbeat_claim_walk_seconds",
        "seconds",
        "How long it takes now to read the first hundred ready tasks in claim order, without a claim's locks.",
    ),
    Metric("backbeat_ticks", "count", "Ticks that began in the last five minutes."),
    Metric("backbeat_unended_ticks", "count", "Of these, the ones that have not said that they ended."),
    Metric("backbeat_last_tick_seconds", "seconds", "How long ago the newest tick began."),
    Metric("backbeat_claimed_tasks", "count", "Tasks that ticks of the last five minutes claimed."),
    Metric("backbeat_settled_tasks", "count", "Tasks that ticks of the last five minutes settled."),
    Metric(
        "backbeat_route_calls_per_minute", "count", "Model calls that ended in the last minute, by route.", ("route",)
    ),
    Metric("backbeat_route_open_calls", "count", "Model calls under way, by route.", ("route",)),
    Metric(
        "backbeat_route_rate_ratio", "ratio", "What of a route's rate is used after 429s; 1 is all of it.", ("route",)
    ),
    Metric(
        "backbeat_route_shut", "count", "1 while no call takes the route: blocked, or held by a person.", ("route",)
    ),
    Metric(
        "backbeat_budget_remaining_usd",
        "usd",
        "Dollars that today's cap leaves; the budgets nearest to their end.",
        ("scope", "key"),
    ),
    Metric("backbeat_budget_remaining_tokens", "tokens", "Tokens that today's cap leaves, likewise.", ("scope", "key")),
    Metric("backbeat_budget_remaining_ratio", "ratio", "The smaller share of both that is left.", ("scope", "key")),
    Metric(
        "backbeat_spent_usd",
        "usd",
        "Dollars spent today (UTC), of all tenants; a rounded copy, the exact sum is `backbeat budget show`.",
    ),
    Metric("backbeat_presumed_usd", "usd", "Dollars presumed spent today, by calls whose end nobody knows."),
    Metric("backbeat_overrun_usd", "usd", "Dollars that calls of today cost above what was reserved for them."),
    Metric("backbeat_unpriced_calls", "count", "Calls of today whose price is unknown."),
    Metric("backbeat_outbox_messages", "count", "Messages to Temporal that are not delivered."),
    Metric("backbeat_outbox_oldest_seconds", "seconds", "Age of the oldest of them."),
    Metric("backbeat_outbox_dead", "count", "Messages to Temporal that were given up."),
    Metric("backbeat_approvals", "count", "Approval requests that wait for a person."),
    Metric("backbeat_approvals_oldest_seconds", "seconds", "Age of the oldest of them."),
    Metric("backbeat_approvals_due", "count", "Of these, the ones whose deadline is less than an hour away, or past."),
    Metric("backbeat_dead_letters", "count", "Dead letters that nobody resolved."),
    Metric("backbeat_unknown_effects", "count", "Writes to the outside of which nobody knows whether they happened."),
    Metric("backbeat_stops", "count", "Kill switches that are thrown."),
    Metric("backbeat_telemetry_outbox_batches", "count", "Batches of spans in Postgres that are not shipped."),
    Metric(
        "backbeat_telemetry_outbox_refused", "count", "Batches of spans in Postgres that ClickHouse could not read."
    ),
    Metric("backbeat_shed_spans", "count", "Spans that were given up, as hosts of the last 30 days told Postgres."),
    Metric("backbeat_spool_shed_spans", "count", "Spans that this host gave up and has not told Postgres of."),
    Metric("backbeat_spool_files", "count", "Telemetry files of this host that are not shipped."),
    Metric("backbeat_spool_oldest_seconds", "seconds", "Age of the oldest of them."),
    Metric("backbeat_spool_quarantined", "count", "Telemetry files of this host that ClickHouse could not read."),
)
