"""Reports: one SQL file each beside this module, answered by ClickHouse.

catalog    the files, and what their headers say
ask        one report over one period: the answer with its n and how far the data reach
render     the answer as text, JSON or CSV
plot       the answer as SVG
condition  `--fail-if`: a comparison on the answer's columns
reconcile  a provider's bill beside the answer
prices     list prices of the models that were called
trace      one whole trace as a tree

A file begins with its header, a comment line a field; other comment lines after them are notes for its readers:

    -- title: What model calls cost
    -- units: calls calls, cost_usd USD, share 1       every column that is not a key, each with its unit
    -- by: workflow, model, day, approver = Approver    keys to group by: known ones by name, others with their SQL
    -- default: workflow                                the keys without --by; else the first
    -- labels: day, model                               instead of keys: the query's own first columns, always these
    -- chart: bars cost_usd                             KIND COLUMN…; the kinds are in `plot`
    -- n: calls                                         the column whose sum is n
    -- source: llm_calls, task_runs                     tables; the data reach as far as the one that is behind
    -- since: 35d                                       the period without --since; else 7d

and the query may say `{by}` (the keys as columns), `{keys}` (their names, to group and order by), `{since}` and
`{until}` (moments; the end is not in the period) and `{zone}` (a name of the tz database, for days and weeks).
`v_llm_calls_in(since = {since}, until = {until})` has each call once, and reads no more than the period.
"""
