-- title: Calls whose cost nobody knows
-- units: calls calls, lost calls, no_price calls, no_usage calls, input_tokens tokens, output_tokens tokens, first UTC, last UTC
-- by: provider, model, price_version = PriceVersion, workflow, version, tenant, tier, runtime, day, week, month, total
-- default: provider, model, price_version
-- chart: bars calls
-- n: calls
-- source: llm_calls
--
-- Lost: the answer never came. No price: the price data does not know the model; give its route a price. No usage: the
-- vendor did not say what it counted. Tokens are of those whose count is known. Refused calls were not billed.
SELECT
    {by},
    count() AS calls,
    countIf(CallStatus = 'lost') AS lost,
    countIf(CallStatus != 'lost' AND InputTokens IS NOT NULL) AS no_price,
    countIf(CallStatus != 'lost' AND InputTokens IS NULL) AS no_usage,
    sum(InputTokens) AS input_tokens,
    sum(OutputTokens) AS output_tokens,
    formatDateTime(min(Timestamp), '%FT%TZ', 'UTC') AS first,
    formatDateTime(max(Timestamp), '%FT%TZ', 'UTC') AS last
FROM v_llm_calls_in(since = {since}, until = {until})
WHERE CostUsd IS NULL AND CallStatus != 'refused'
GROUP BY {keys}
ORDER BY calls DESC, {keys}
