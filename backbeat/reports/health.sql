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
        toString(Host) AS host, max(t.Timestamp) AS seen, count() AS ticks, argMax(ifNull(SpoolFiles, 0), t.Timestamp) AS files,
        argMax(ifNull(SpoolAgeS, 0), t.Timestamp) AS age, sum(Shed) AS shed, max(abs(ClockSkewMs)) AS skew
    FROM (SELECT * FROM tick_runs WHERE Timestamp >= {since} AND Timestamp < {until} LIMIT 1 BY SpanId) AS t GROUP BY host
)
SELECT
    one.2 AS check, round(one.3, 4) AS measured, one.4 AS bad_from, round(one.3 / bad_from, 4) AS of_limit, one.5 AS n,
    if(one.3 IS NULL, NULL, toUInt8(one.3 >= bad_from)) AS bad, one.6 AS where, one.7 AS what
FROM (
    SELECT [
        (1, 'spool depth', maxOrNull(toFloat64(files)), 100., sum(ticks), argMax(host, files), 'files waiting on a host'),
        (2, 'spool age', maxOrNull(toFloat64(age)), 900., sum(ticks), argMax(host, age), 's that the oldest file on a host has waited'),
        (3, 'silence', maxOrNull(toFloat64(dateDiff('second', seen, {until}))), 3600., sum(ticks), argMin(host, seen),
            's since a host''s last tick that found work'),
        (4, 'shed', maxOrNull(toFloat64(shed)), 1., sum(ticks), argMax(host, shed), 'spans given up on a host'),
        (5, 'clock skew', maxOrNull(toFloat64(skew)) / 1e3, 1., sum(ticks), argMax(host, ifNull(skew, 0)),
            's between a host''s clock and Postgres''')] AS checks
    FROM hosts
    UNION ALL
    SELECT [(6, 'duplicates', if(count() = 0, NULL, 1 - uniqExact(reinterpretAsUInt64(unhex(SpanId))) / count()), 0.05, count(), '',
        'share of the spans that were told twice; views count them once')]
    FROM otel_traces WHERE Timestamp >= {since} AND Timestamp < {until}
    UNION ALL
    SELECT [
        (7, 'unpriced', if(ended = 0, NULL, unpriced / ended), 0.01, ended, unpriced_model,
            'share of the calls whose cost nobody knows; lost ones are not among them'),
        (8, 'lost', if(calls = 0, NULL, (calls - ended) / calls), 0.01, calls, lost_model, 'share of the calls whose end nobody saw')]
    FROM (
        SELECT
            count() AS calls, countIf(CallStatus != 'lost') AS ended, countIf(CostUsd IS NULL AND CallStatus NOT IN ('lost', 'refused')) AS unpriced,
            toString(anyIf(Model, CostUsd IS NULL AND CallStatus NOT IN ('lost', 'refused'))) AS unpriced_model,
            toString(anyIf(Model, CallStatus = 'lost')) AS lost_model
        FROM v_llm_calls_in(since = {since}, until = {until})
    )
)
ARRAY JOIN checks AS one
WHERE n > 0
ORDER BY one.1
