-- title: The provider's bill against what we booked
-- units: calls calls, unpriced calls, booked_usd USD, billed_usd USD, difference_usd USD
-- labels: day, model
-- chart: bars difference_usd
-- n: calls
-- source: llm_calls
-- since: 35d
--
-- --bill FILE is a CSV with the columns day, model and cost_usd; without it billed is unknown. A model that is only on the
-- bill has no calls. The difference is billed less booked: what is unknown on either side leaves it unknown.
SELECT
    toDate(Timestamp, {zone}) AS day,
    Model AS model,
    count() AS calls,
    countIf(CostUsd IS NULL AND CallStatus != 'refused') AS unpriced,
    if(unpriced = 0, ifNull(sum(CostUsd), 0), sum(CostUsd)) AS booked_usd,
    CAST(NULL AS Nullable(Decimal(38, 9))) AS billed_usd,
    billed_usd - booked_usd AS difference_usd
FROM v_llm_calls_in(since = {since}, until = {until})
WHERE NOT ProviderSimulated
GROUP BY day, model
ORDER BY day, model
