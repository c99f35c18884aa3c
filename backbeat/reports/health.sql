-- title: Is telemetry to be believed
-- units: measured as `what` says, bad_from like `measured`, of_limit share of what is bad, n records a check, bad 1 or 0
-- units: where host or model, what words
-- labels: check
-- chart: bars of_limit
-- n: most n
-- source: tick_runs
-- source: otel_traces
-- source: llm_calls
--
-- A row a check, of what there are records of. What a host's ticks tell of its spool is as of their last one in the period; a host whose spool is stuck
-- cannot say so here, but falls silent: ask `backbeat telemetry status` there.
WITH hosts AS (
    SELECT
        Host, max(t.Timestamp) AS seen, count() AS ticks, argMax(ifNull(SpoolFiles, 0), t.Timestamp) AS files,
        argMax(ifNull(SpoolAgeS, 0), t.Timestamp) AS age, sum(Shed) AS shed, max(abs(ClockSkewMs)) AS skew
    FROM v_tick_runs AS t WHERE t.Timestamp >= {since} AND t.Timestamp < {until} GROUP BY Host
)
SELECT
    check, round(measured, 4) AS measured, bad_from, round(measured / bad_from, 4) AS of_limit, n,
    if(measured IS NULL, NULL, toUInt8(measured >= bad_from)) AS bad, where, what
FROM (
    SELECT 1 AS place, 'spool depth' AS check, maxOrNull(toFloat64(files)) AS measured, 100. AS bad_from, sum(ticks) AS n,
        argMax(Host, files) AS where, 'files waiting on a host' AS what FROM hosts
    UNION ALL SELECT 2, 'spool age', maxOrNull(age), 900., sum(ticks), argMax(Host, age), 's that the oldest file on a host has waited' FROM hosts
    UNION ALL SELECT 3, 'silence', maxOrNull(toFloat64(dateDiff('second', seen, {until}))), 3600., sum(ticks), argMin(Host, seen),
        's since a host''s last tick that found work' FROM hosts
    UNION ALL SELECT 4, 'shed', maxOrNull(toFloat64(shed)), 1., sum(ticks), argMax(Host, shed), 'spans given up on a host' FROM hosts
    UNION ALL SELECT 5, 'clock skew', maxOrNull(skew) / 1e3, 1., sum(ticks), argMax(Host, ifNull(skew, 0)),
        's between a host''s clock and Postgres''' FROM hosts
    UNION ALL SELECT 6, 'duplicates', if(count() = 0, NULL, 1 - uniqExact(SpanId) / count()), 0.05, count(), '',
        'share of the spans that were told twice; views count them once' FROM otel_traces WHERE Timestamp >= {since} AND Timestamp < {until}
    UNION ALL SELECT 7, 'unpriced', if(count() = 0, NULL, countIf(CostUsd IS NULL AND CallStatus != 'refused') / count()), 0.01, count(),
        anyIf(Model, CostUsd IS NULL AND CallStatus != 'refused'), 'share of the calls whose cost nobody knows; lost ones are not among them'
        FROM v_llm_calls_in(since = {since}, until = {until}) WHERE CallStatus != 'lost'
    UNION ALL SELECT 8, 'lost', if(count() = 0, NULL, countIf(CallStatus = 'lost') / count()), 0.01, count(),
        anyIf(Model, CallStatus = 'lost'), 'share of the calls whose end nobody saw'
        FROM v_llm_calls_in(since = {since}, until = {until})
)
WHERE n > 0
ORDER BY place
