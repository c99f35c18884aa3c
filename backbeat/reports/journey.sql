-- title: From source to effect
-- units: origins origins, sourced origins, done origins, p50_s s, p99_s s, avg_usd USD an origin, p95_usd USD an origin
-- units: unpriced origins
-- by: workflow, version, tenant, runtime, day, week, month, total
-- chart: ranges p50_s p99_s
-- n: origins
-- source: origins
-- source: effects
-- source: llm_calls
--
-- Of what was enqueued or started in the period, with all that came of it in both runtimes. The seconds are those of `done`
-- origins, from where they arose to the end of their last effect that is known to be done; from their enqueue where the
-- producer did not say when (all but `sourced`). A cost is of every call; an origin with a call whose cost nobody knows is
-- `unpriced`, and in neither figure.
SELECT
    {by},
    count() AS origins,
    countIf(SourceAt IS NOT NULL) AS sourced,
    countIf(ended > 0) AS done,
    if(done = 0, NULL, round(quantileExactIf(0.50)(seconds, ended > 0), 3)) AS p50_s,
    if(done = 0, NULL, round(quantileExactIf(0.99)(seconds, ended > 0), 3)) AS p99_s,
    if(unpriced = origins, NULL, toDecimal64(sumIf(cost, unknown = 0) / (origins - unpriced), 9)) AS avg_usd,
    if(unpriced = origins, NULL, quantileExactIf(0.95)(cost, unknown = 0)) AS p95_usd,
    countIf(unknown > 0) AS unpriced
FROM (
    SELECT
        o.*, e.ended AS ended, c.unknown AS unknown, toDecimal64(c.cost, 9) AS cost,
        (e.ended - toUnixTimestamp64Micro(toDateTime64(ifNull(o.SourceAt, o.Timestamp), 6))) / 1e6 AS seconds
    FROM (
        SELECT
            cityHash64(OriginId) AS origin, any(g.Runtime) AS Runtime, any(g.Workflow) AS Workflow, any(g.Version) AS Version, any(g.Tenant) AS Tenant,
            max(g.SourceAt) AS SourceAt, min(g.Timestamp) AS Timestamp
        FROM origins AS g WHERE g.Timestamp >= {since} AND g.Timestamp < {until} GROUP BY origin
    ) AS o
    LEFT JOIN (
        SELECT cityHash64(OriginId) AS origin, max(toUnixTimestamp64Micro(Timestamp) + intDiv(DurationNs, 1000)) AS ended
        FROM effects WHERE Timestamp >= {since} AND Status = 'done' GROUP BY origin
    ) AS e ON e.origin = o.origin
    LEFT JOIN (
        SELECT cityHash64(OriginId) AS origin, sum(ifNull(CostUsd, 0)) AS cost, countIf(CostUsd IS NULL AND CallStatus != 'refused') AS unknown
        FROM v_llm_calls_in(since = {since}, until = {until} + INTERVAL 30 DAY) GROUP BY origin
    ) AS c ON c.origin = o.origin
)
GROUP BY {keys}
ORDER BY {keys}
