-- title: What the prompt cache saves
-- units: calls calls, input_tokens tokens, cache_read_tokens tokens, cache_write_tokens tokens, hit_ratio ratio
-- units: saved_usd USD, unpriced calls
-- by: model, workflow, version, tenant, tier, runtime, provider, day, week, month, total
-- chart: bars saved_usd
-- n: calls
-- source: llm_calls
--
-- Saved: what the tokens read from the cache would have cost as plain input, less what writing them cost more. By list
-- prices, which `backbeat telemetry prices` brings up to date. `unpriced` calls used the cache at a price that is not on
-- the list (or is their route's own), and are not in it. Ratio and tokens are of the calls whose counts are known.
SELECT
    {keys},
    sum(Calls) AS calls,
    sum(Read + Fresh) AS input_tokens,
    sum(Read) AS cache_read_tokens,
    sum(Written) AS cache_write_tokens,
    if(input_tokens = 0, NULL, cache_read_tokens / input_tokens) AS hit_ratio,
    sum(Saved) AS saved_usd,
    sumIf(Cached, Saved IS NULL) AS unpriced
FROM (
    SELECT
        {keys}, Calls, Read, Written, Fresh, Cached,
        if(Read = 0, 0, toDecimal128(p.Input - p.CacheRead, 15) * Read)
            - if(Written = 0, 0, toDecimal128(p.CacheWrite - p.Input, 15) * Written) AS Micros,
        if(Own AND Cached > 0, NULL, Micros / 1000000) AS Saved
    FROM (
        WITH InputTokens IS NOT NULL AND CacheReadTokens IS NOT NULL AS Known
        SELECT
            {by},
            Provider AS P,
            Model AS M,
            toDate(Timestamp, 'UTC') AS Day,
            PriceVersion LIKE 'route/%' AS Own,
            count() AS Calls,
            toInt64(ifNull(sumIf(CacheReadTokens, Known), 0)) AS Read,
            toInt64(ifNull(sumIf(CacheWriteTokens, Known), 0)) AS Written,
            toInt64(ifNull(sumIf(InputTokens, Known), 0)) - Read AS Fresh,
            countIf(CacheReadTokens > 0 OR CacheWriteTokens > 0) AS Cached
        FROM v_llm_calls_in(since = {since}, until = {until})
        GROUP BY {keys}, P, M, Day, Own
    ) AS c
    ASOF LEFT JOIN (SELECT * FROM v_model_prices) AS p
        ON c.P = p.Provider AND c.M = p.Model AND c.Day >= p.EffectiveFrom
)
GROUP BY {keys}
ORDER BY {keys}
