-- title: What has outgrown cron
-- units: measured as `evidence` says, limit like `measured`, of_limit share of the limit, n attempts or tasks or origins
-- units: crossed 1 or 0, evidence words, advice words
-- by: workflow, threshold = threshold
-- default: workflow, threshold
-- chart: bars of_limit
-- n: n
-- since: 30d
-- source: task_runs
-- source: llm_calls
-- source: effects
--
-- A row for each threshold of each workflow that ticks run. How much there is of it crosses none: each asks what the work is
-- like, and n only has to be enough to say (30 attempts, 5 tasks). What is not measured is not crossed: urgency is told by the
-- class `urgent`, a region by the resource attribute cloud.region.
WITH
    runs AS (
        SELECT * FROM v_task_runs WHERE Timestamp >= {since} AND Timestamp < {until} AND Runtime = 'cron' AND Workflow != ''
    ),
    first_runs AS (SELECT *, toStartOfHour(Timestamp) AS hour FROM runs WHERE Attempt = 1 AND QueueWaitMs IS NOT NULL),
    tasks AS (
        SELECT r.TaskId AS TaskId, any(r.Workflow) AS Workflow, any(c.kinds) AS calls, any(e.kinds) AS writes, any(e.unknown) AS unknown
        FROM runs AS r
        LEFT JOIN (
            -- A call of a loop is the same step again: its key without numbers, up to what names one round.
            SELECT TaskId, arraySort(groupUniqArray(extract(replaceRegexpAll(CallKey, '[0-9]+', ''), '^[^:/#. ]*'))) AS kinds
            FROM v_llm_calls WHERE Timestamp >= {since} AND Timestamp < {until} GROUP BY TaskId
        ) AS c ON c.TaskId = r.TaskId
        LEFT JOIN (
            SELECT OwnerId, arraySort(groupUniqArray(Kind)) AS kinds, countIf(Status != 'done') AS unknown
            FROM v_effects WHERE Timestamp >= {since} AND Timestamp < {until} GROUP BY OwnerId
        ) AS e ON e.OwnerId = r.TaskId
        GROUP BY r.TaskId
    ),
    hours AS (
        SELECT Workflow, hour, argMax(Tenant, runs_of) AS burster, uniqExact(Tenant) > 1 AND max(runs_of) > 0.8 * sum(runs_of) AS burst
        FROM (SELECT Workflow, hour, Tenant, count() AS runs_of FROM first_runs GROUP BY Workflow, hour, Tenant)
        GROUP BY Workflow, hour
    )
SELECT
    {by}, round(measured, 3) AS measured, limit, round(measured / limit, 3) AS of_limit, n, toUInt8(ifNull(measured > limit AND n >= enough, 0)) AS crossed,
    if(n = 0, 'nothing to measure', evidence) AS evidence, if(crossed, advice, 'stay on cron') AS advice
FROM (
    SELECT
        Workflow, 1 AS place, 'sub-second need' AS threshold, quantileExactOrNullIf(0.95)(QueueWaitMs, Class = 'urgent') / 1e3 AS measured,
        1. AS limit, countIf(Class = 'urgent') AS n, 30 AS enough,
        concat('p95 of ', toString(round(ifNull(measured, 0), 3)), ' s from enqueue to claim of ', toString(n), ' urgent tasks') AS evidence,
        'start it by an event: a Temporal workflow, or a request that waits' AS advice
    FROM first_runs GROUP BY Workflow
    UNION ALL
    SELECT
        -- However many steps, a single way through them is no DAG.
        Workflow, 2, 'more than 15 steps', quantileExactOrNullIf(0.95)(steps, steps > 0) AS p95, 15., countIf(steps > 0) AS those, if(any(paths) > 1, 5, 1e9),
        concat('p95 of ', toString(ifNull(p95, 0)), ' distinct steps a task, in ', toString(any(paths)), ' combinations, of ', toString(those), ' tasks'),
        'make its branches visible: an orchestration, a step a call'
    FROM (
        SELECT
            Workflow, length(calls) + length(writes) AS steps,
            uniqExactIf((calls, writes), length(calls) + length(writes) > 0) OVER (PARTITION BY Workflow) AS paths
        FROM tasks)
    GROUP BY Workflow
    UNION ALL
    SELECT
        Workflow, 3, 'cross-region', if(known = 0, NULL, several / known), 0.1, countIf(regions > 0) AS known, 5,
        concat(toString(countIf(regions > 1) AS several), ' of ', toString(known), ' origins run in several regions'),
        'order the regions: an orchestration with in_region'
    FROM (
        SELECT OriginId, argMin(Workflow, (Timestamp, TaskId)) AS Workflow, uniqExactIf(Region, Region != '') AS regions
        FROM runs GROUP BY OriginId)
    GROUP BY Workflow
    UNION ALL
    SELECT
        Workflow, 4, 'waits of hours', quantileExactOrNullIf(0.95)(rest, rested) / 3600 AS hours_p95, 1., countIf(rested) AS those, 5,
        concat('p95 of ', toString(round(ifNull(hours_p95, 0), 2)), ' h at rest between attempts of ', toString(those), ' tasks that put themselves off'),
        'let it wait in Temporal: an approval, or wait_until'
    FROM (
        SELECT TaskId, any(Workflow) AS Workflow, max(if(before = 'snooze', began - ended, 0)) AS rest, countIf(before = 'snooze') > 0 AS rested
        FROM (
            SELECT
                TaskId, Workflow, began, lagInFrame(Outcome, 1, '') OVER same AS before, lagInFrame(began + DurationNs / 1e9) OVER same AS ended
            FROM (SELECT TaskId, Workflow, toString(Outcome) AS Outcome, toUnixTimestamp64Milli(Timestamp) / 1e3 AS began, DurationNs FROM runs)
            WINDOW same AS (PARTITION BY TaskId ORDER BY began ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW))
        GROUP BY TaskId)
    GROUP BY Workflow
    UNION ALL
    SELECT
        Workflow, 5, 'a tenant''s burst', crowded / greatest(calm, 60), 3., countIf(theirs) AS those, 30,
        concat('p95 of ', toString(round(ifNull(quantileExactOrNullIf(0.95)(wait_s, theirs) AS crowded, 0), 1)), ' s for ', toString(those),
            ' tasks of others in hours that one tenant fills, ',
            toString(round(ifNull(quantileExactOrNullIf(0.95)(wait_s, NOT burst) AS calm, 0), 1)), ' s in other hours'),
        'stay on cron; weigh and cap the tenant: backbeat tenant set'
    FROM (
        SELECT f.Workflow AS Workflow, f.QueueWaitMs / 1e3 AS wait_s, h.burst AS burst, h.burst AND f.Tenant != h.burster AS theirs
        FROM first_runs AS f JOIN hours AS h ON h.Workflow = f.Workflow AND h.hour = f.hour)
    GROUP BY Workflow
    UNION ALL
    SELECT
        Workflow, 6, 'irrevocable writes', if(those = 0, NULL, countIf(length(writes) > 1 OR unknown > 0) / those), 0.1, countIf(notEmpty(writes)) AS those, 5,
        concat(toString(countIf(length(writes) > 1)), ' of ', toString(those), ' tasks that write do so in several ways, ',
            toString(countIf(unknown > 0)), ' left a write unknown'),
        'make it a saga with compensations, and let people approve what cannot be undone'
    FROM tasks GROUP BY Workflow
)
ORDER BY Workflow, place
