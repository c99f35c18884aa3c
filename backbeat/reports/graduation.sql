-- title: What has outgrown cron
-- units: measured as `evidence` says, limit like `measured`, of_limit share of the limit, n attempts or tasks or origins
-- units: of_attempts attempts, crossed 1 or 0, evidence words, advice words
-- labels: workflow, threshold
-- chart: bars of_limit
-- n: max of_attempts
-- since: 30d
-- source: task_runs
-- source: llm_calls
-- source: effects
--
-- A row for each threshold of each workflow that ticks run. How much there is of it crosses none: each asks what the work is
-- like, and n only has to be enough to say (30 attempts, 5 tasks). What is not measured is not crossed: urgency is told by the
-- class `urgent`, a region by the resource attribute cloud.region. Attempts that were only lost are left out, so none is told
-- twice.
WITH
    runs AS (
        SELECT * FROM task_runs
        WHERE Timestamp >= {since} AND Timestamp < {until} AND Runtime = 'cron' AND Workflow != '' AND Outcome != 'lost'
    ),
    -- A scalar, which ClickHouse computes once however often it is named.
    names AS (SELECT arrayJoin((SELECT groupUniqArray(Workflow) FROM runs)) AS Workflow),
    waits AS (
        SELECT Workflow, Tenant, Class, QueueWaitMs / 1e3 AS wait_s, toStartOfHour(Timestamp) AS hour
        FROM task_runs
        WHERE Timestamp >= {since} AND Timestamp < {until} AND Runtime = 'cron' AND Workflow != '' AND Attempt = 1 AND QueueWaitMs IS NOT NULL
    ),
    writes AS (
        SELECT cityHash64(OwnerId) AS TaskKey, Kind, SpanId, Status FROM effects
        WHERE Timestamp >= {since} AND Timestamp < {until} AND Runtime = 'cron'
    ),
    hours AS (
        SELECT Workflow, hour, argMax(Tenant, runs_of) AS burster, count() > 1 AND max(runs_of) > 0.8 * sum(runs_of) AS burst
        FROM (SELECT Workflow, hour, Tenant, count() AS runs_of FROM waits GROUP BY Workflow, hour, Tenant)
        GROUP BY Workflow, hour
    )
SELECT
    Workflow AS workflow, threshold, round(measured, 3) AS measured, limit, round(measured / limit, 3) AS of_limit, n,
    toUInt8(ifNull(measured > limit AND n >= enough, 0)) AS crossed,
    if(n = 0, 'nothing to measure', evidence) AS evidence, if(crossed, advice, 'stay on cron') AS advice,
    (SELECT count() FROM runs) AS of_attempts
FROM (
    SELECT
        Workflow, 1 AS place, 'sub-second need' AS threshold, quantileExactOrNullIf(0.95)(wait_s, Class = 'urgent') AS measured,
        1. AS limit, countIf(Class = 'urgent') AS n, 30 AS enough,
        concat('p95 of ', toString(round(ifNull(measured, 0), 3)), ' s from enqueue to claim of ', toString(n), ' urgent tasks') AS evidence,
        'start it by an event: a Temporal workflow, or a request that waits' AS advice
    FROM (SELECT Workflow, Class, wait_s FROM waits UNION ALL SELECT Workflow, '', NULL FROM names)
    GROUP BY Workflow
    UNION ALL
    SELECT
        -- However many steps, a single way through them is no DAG.
        Workflow, 2, 'more than 15 steps', quantileExactOrNullIf(0.95)(steps, steps > 0) AS p95, 15., countIf(steps > 0) AS those,
        if(uniqExactIf(path, steps > 0) AS paths > 1, 5, 1e9),
        concat('p95 of ', toString(ifNull(p95, 0)), ' distinct steps a task, in ', toString(paths), ' combinations, of ', toString(those), ' tasks'),
        'make its branches visible: an orchestration, a step a call'
    FROM (
        SELECT
            anyIf(Workflow, Workflow != '') AS Workflow, length(groupUniqArray(cityHash64(kind)) AS kinds) AS steps,
            cityHash64(arraySort(kinds)) AS path
        FROM (
            -- A call of a loop is the same step again: its key up to what names the round.
            SELECT TaskKey, Workflow, extract(toLowCardinality(CallKey), '^[^0-9:/#. ]*') AS kind FROM llm_calls
            WHERE Timestamp >= {since} AND Timestamp < {until} AND Runtime = 'cron' AND Workflow != ''
            UNION ALL SELECT TaskKey, '', concat('effect ', Kind) FROM writes)
        GROUP BY TaskKey HAVING Workflow != ''
        UNION ALL SELECT Workflow, 0, 0 FROM names)
    GROUP BY Workflow
    UNION ALL
    SELECT
        Workflow, 3, 'cross-region', if(known = 0, NULL, several / known), 0.1, countIf(regions > 0) AS known, 5,
        concat(toString(countIf(regions > 1) AS several), ' of ', toString(known), ' origins run in several regions'),
        'order the regions: an orchestration with in_region'
    FROM (
        SELECT argMin(Workflow, Timestamp) AS Workflow, if(min(Region) = max(Region), 1, 2) AS regions FROM runs WHERE Region != '' GROUP BY cityHash64(OriginId)
        UNION ALL SELECT Workflow, 0 FROM names)
    GROUP BY Workflow
    UNION ALL
    SELECT
        Workflow, 4, 'waits of hours', quantileExactOrNullIf(0.95)(rest, rested) / 3600 AS hours_p95, 1., countIf(rested) AS those, 5,
        concat('p95 of ', toString(round(ifNull(hours_p95, 0), 2)), ' h at rest between attempts of ', toString(those), ' tasks that put themselves off'),
        'let it wait in Temporal: an approval, or wait_until'
    FROM (
        SELECT any(Workflow) AS Workflow, max(if(before = 'snooze', began - ended, 0)) AS rest, countIf(before = 'snooze') > 0 AS rested
        FROM (
            SELECT
                TaskKey, Workflow, began, lagInFrame(Outcome, 1, '') OVER same AS before, lagInFrame(began + DurationNs / 1e9) OVER same AS ended
            FROM (
                SELECT TaskKey, Workflow, toString(Outcome) AS Outcome, toUnixTimestamp64Milli(Timestamp) / 1e3 AS began, DurationNs FROM task_runs
                WHERE Timestamp >= {since} AND Timestamp < {until} AND Runtime = 'cron' AND Workflow != '' AND Outcome != 'lost'
                    AND TaskKey IN (SELECT TaskKey FROM task_runs WHERE Timestamp >= {since} AND Timestamp < {until} AND Outcome = 'snooze'))
            WINDOW same AS (PARTITION BY TaskKey ORDER BY began ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW))
        GROUP BY TaskKey
        UNION ALL SELECT Workflow, 0, 0 FROM names)
    GROUP BY Workflow
    UNION ALL
    SELECT
        Workflow, 5, 'a tenant''s burst', crowded / greatest(calm, 60), 3., countIf(theirs) AS those, 30,
        concat('p95 of ', toString(round(ifNull(quantileExactOrNullIf(0.95)(wait_s, theirs) AS crowded, 0), 1)), ' s for ', toString(those),
            ' tasks of others in hours that one tenant fills, ',
            toString(round(ifNull(quantileExactOrNullIf(0.95)(wait_s, NOT burst) AS calm, 0), 1)), ' s in other hours'),
        'stay on cron; weigh and cap the tenant: backbeat tenant set'
    FROM (
        SELECT w.Workflow AS Workflow, w.wait_s AS wait_s, h.burst AS burst, h.burst AND w.Tenant != h.burster AS theirs
        FROM waits AS w JOIN hours AS h ON h.Workflow = w.Workflow AND h.hour = w.hour
        UNION ALL SELECT Workflow, NULL, 0, 0 FROM names)
    GROUP BY Workflow
    UNION ALL
    SELECT
        Workflow, 6, 'irrevocable writes', if(those = 0, NULL, countIf(kinds > 1 OR unknown > 0) / those), 0.1, countIf(kinds > 0) AS those, 5,
        concat(toString(countIf(kinds > 1)), ' of ', toString(those), ' tasks that write do so in several ways, ',
            toString(countIf(unknown > 0)), ' left a write unknown'),
        'make it a saga with compensations, and let people approve what cannot be undone'
    FROM (
        SELECT
            anyIf(Workflow, Workflow != '') AS Workflow, if(minIf(Kind, Kind != '') = max(Kind), 1, 2) AS kinds,
            uniqExactIf(span, Kind != '') - uniqExactIf(span, Status = 'done') AS unknown
        FROM (
            SELECT TaskKey, '' AS Workflow, Kind, cityHash64(SpanId) AS span, Status FROM writes
            UNION ALL SELECT TaskKey, Workflow, '', 0, '' FROM task_runs
            WHERE Timestamp >= {since} AND Timestamp < {until} AND Workflow != '')
        GROUP BY TaskKey HAVING Workflow != '' AND max(Kind) != ''
        UNION ALL SELECT Workflow, 0, 0 FROM names)
    GROUP BY Workflow
)
ORDER BY Workflow, place
