-- title: What is spent, and what it comes to
-- units: calls calls, today_usd USD, hourly_usd USD an hour, forecast_today_usd USD, month_usd USD, daily_usd USD a day
-- units: forecast_month_usd USD, unpriced calls
-- by: workflow, tenant, tier, provider, model, runtime, total
-- chart: ranges month_usd forecast_month_usd
-- n: calls
-- since: 31d
-- source: llm_calls
--
-- As of the period's end, in days and months of UTC like the budgets. The hour is the mean of the last three, the day that of
-- the last seven, or since the first call. A cost is what is known: `unpriced` calls of the month are not in it. Caps are in
-- Postgres: `backbeat budget show`.
WITH
    {until} AS now,
    toDateTime64(toDateTime(toDate(now, 'UTC'), 'UTC'), 9, 'UTC') AS midnight,
    toDateTime64(toDateTime(toStartOfMonth(toDate(now, 'UTC')), 'UTC'), 9, 'UTC') AS first,
    toDateTime64(toDateTime(addMonths(toStartOfMonth(toDate(now, 'UTC')), 1), 'UTC'), 9, 'UTC') AS next
SELECT
    {keys}, calls, today_usd,
    toDecimal64(hourly, 6) AS hourly_usd,
    toDecimal64(toFloat64(today_usd) + hourly * dateDiff('second', now, midnight + INTERVAL 1 DAY) / 3600, 6) AS forecast_today_usd,
    month_usd,
    toDecimal64(daily, 6) AS daily_usd,
    toDecimal64(toFloat64(month_usd) + daily * dateDiff('second', now, next) / 86400, 6) AS forecast_month_usd,
    unpriced
FROM (
    SELECT
        {by},
        countIf(Timestamp >= {since}) AS calls,
        greatest(dateDiff('second', min(Timestamp), now) / 3600, 1) AS hours,
        sumIf(ifNull(CostUsd, 0), Timestamp >= midnight) AS today_usd,
        sumIf(ifNull(CostUsd, 0), Timestamp >= first) AS month_usd,
        sumIf(toFloat64(ifNull(CostUsd, 0)), Timestamp >= now - INTERVAL 3 HOUR) / least(3, hours) AS hourly,
        sumIf(toFloat64(ifNull(CostUsd, 0)), Timestamp >= now - INTERVAL 7 DAY) / least(7, greatest(hours / 24, 1)) AS daily,
        countIf(CostUsd IS NULL AND Timestamp >= first) AS unpriced
    FROM v_llm_calls
    WHERE Timestamp >= least({since}, first, now - INTERVAL 7 DAY) AND Timestamp < now
    GROUP BY {keys}
)
ORDER BY forecast_month_usd DESC, {keys}
