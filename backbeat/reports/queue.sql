-- title: Queue and ticks
-- units: runs attempts, lag_p50_s s, lag_p95_s s, lag_p99_s s, ticks ticks, ticks_missed ticks, at_once ticks
-- units: overlap share of the time in which a tick runs, utilisation share of the slots' time
-- by: day, week, month, total
-- chart: ranges lag_p50_s lag_p95_s lag_p99_s
-- n: runs
-- source: tick_runs
-- source: task_runs
--
-- The lag is from enqueue to the first claim, also of a task that was not to run before some time. A beat is missed when none
-- began for more than one and a half while a task waited; the beat is the median between the ticks of the host that ticks
-- most often. Ticks that find nothing to do leave no record. Overlap is two or more at once.
WITH
    ticks AS (
        SELECT *, toUnixTimestamp64Milli(Timestamp) AS at
        FROM tick_runs WHERE Timestamp >= {since} AND Timestamp < {until} LIMIT 1 BY SpanId
    ),
    (
        SELECT min(middle) FROM (
            SELECT quantileExactLow(0.5)(gap) AS middle FROM (
                SELECT Host, at - lagInFrame(toNullable(at)) OVER (
                    PARTITION BY Host ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS gap
                FROM ticks)
            WHERE gap > 0 GROUP BY Host)
    ) AS beat
SELECT
    {keys},
    countIf(kind = 'work') AS runs,
    round(quantileExactOrNullIf(0.50)(wait_s, wait_s IS NOT NULL), 3) AS lag_p50_s,
    round(quantileExactOrNullIf(0.95)(wait_s, wait_s IS NOT NULL), 3) AS lag_p95_s,
    round(quantileExactOrNullIf(0.99)(wait_s, wait_s IS NOT NULL), 3) AS lag_p99_s,
    countIf(kind = 'tick') AS ticks,
    if(ticks = 0, NULL, toUInt64(sum(missed))) AS ticks_missed,
    maxOrNullIf(running, kind = 'time') AS at_once,
    if(sumIf(seconds, kind = 'time' AND running > 0) = 0, NULL,
        round(sumIf(seconds, kind = 'time' AND running > 1) / sumIf(seconds, kind = 'time' AND running > 0), 4)) AS overlap,
    if(sumIf(seconds, kind = 'tick') = 0, NULL, round(sumIf(seconds, kind = 'work') / sumIf(seconds, kind = 'tick'), 4)) AS utilisation
FROM (
    -- A tick, with the slot seconds that it had.
    SELECT {by}, 'tick' AS kind, NULL AS wait_s, DurationNs / 1e9 * Slots AS seconds, 0 AS running,
        if(gap > 1.5 * beat, ifNull(least(round(gap / beat) - 1, floor(OldestWaitMs / beat)), 0), 0) AS missed
    FROM (
        SELECT *, at - lagInFrame(toNullable(at)) OVER (ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS gap
        FROM ticks)
    UNION ALL
    -- From one beginning or end of a tick to the next, how many run.
    SELECT {by}, 'time' AS kind, NULL AS wait_s,
        toFloat64(leadInFrame(moment, 1, moment) OVER (ORDER BY moment, step ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) - moment) / 1e9 AS seconds,
        sum(step) OVER (ORDER BY moment, step ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS running, 0 AS missed
    FROM (
        SELECT Timestamp, toUnixTimestamp64Nano(Timestamp) + edge.1 AS moment, edge.2 AS step
        FROM ticks ARRAY JOIN [(toInt64(0), 1), (toInt64(DurationNs), -1)] AS edge)
    UNION ALL
    -- An attempt and its slot's time; the first of a task has waited. One that was only lost is left out: none is told twice.
    SELECT {by}, 'work' AS kind, if(Attempt = 1, QueueWaitMs / 1e3, NULL) AS wait_s, DurationNs / 1e9 AS seconds, 0 AS running, 0 AS missed
    FROM task_runs
    WHERE Timestamp >= {since} AND Timestamp < {until} AND Runtime = 'cron' AND Outcome != 'lost'
)
GROUP BY {keys}
ORDER BY {keys}
