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
        o.*, o.StartedAt AS Timestamp, e.ended AS ended, c.unknown AS unknown, toDecimal64(c.cost, 9) AS cost,
        (e.ended - toUnixTimestamp64Micro(toDateTime64(ifNull(o.SourceAt, o.StartedAt), 6))) / 1e6 AS seconds
    FROM (SELECT * FROM v_origins WHERE StartedAt >= {since} AND StartedAt < {until}) AS o
    LEFT JOIN (
        SELECT OriginId, max(toUnixTimestamp64Micro(Timestamp) + intDiv(DurationNs, 1000)) AS ended
        FROM v_effects WHERE Timestamp >= {since} AND Status = 'done' GROUP BY OriginId
    ) AS e ON e.OriginId = o.OriginId
    LEFT JOIN (
        SELECT OriginId, sum(ifNull(CostUsd, 0)) AS cost, countIf(CostUsd IS NULL) AS unknown
        FROM v_llm_calls WHERE Timestamp >= {since} GROUP BY OriginId
    ) AS c ON c.OriginId = o.OriginId
)
GROUP BY {keys}
ORDER BY {keys}
