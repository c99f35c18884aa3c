-- title: Decisions of people
-- units: requests requests, pending requests, approved requests, rejected requests, expired requests, wait_p50_s s
-- units: wait_p95_s s, votes votes, approve_rate share of the votes, decide_p50_s s, decide_p95_s s
-- by: kind = EffectKind, approver = Person, workflow, tenant, day, week, month, total
-- chart: ranges decide_p50_s decide_p95_s
-- n: requests
-- since: 30d
-- source: approvals
--
-- Of what was asked in the period. The wait is from the question to the decision; the seconds to decide are from the question
-- to a vote to approve or reject. Where the approver is empty nobody voted: time decided, or nobody has yet. By approver a
-- request counts for each who voted on it.
WITH groupUniqArrayIf((ApprovalId, assumeNotNull(WaitMs)), WaitMs IS NOT NULL) AS waits
SELECT
    {by},
    uniqExact(ApprovalId) AS requests,
    uniqExactIf(ApprovalId, State = 'pending') AS pending,
    uniqExactIf(ApprovalId, State = 'approved') AS approved,
    uniqExactIf(ApprovalId, State = 'rejected') AS rejected,
    uniqExactIf(ApprovalId, State = 'expired') AS expired,
    if(empty(waits), NULL, round(arrayReduce('quantileExact(0.50)', waits.2) / 1e3, 3)) AS wait_p50_s,
    if(empty(waits), NULL, round(arrayReduce('quantileExact(0.95)', waits.2) / 1e3, 3)) AS wait_p95_s,
    countIf(Person != '') AS votes,
    if(votes = 0, NULL, round(countIf(Decision = 'approve') / votes, 4)) AS approve_rate,
    if(votes = 0, NULL, round(quantileExactIf(0.50)(VoteMs, Person != '') / 1e3, 3)) AS decide_p50_s,
    if(votes = 0, NULL, round(quantileExactIf(0.95)(VoteMs, Person != '') / 1e3, 3)) AS decide_p95_s
FROM (
    SELECT
        a.RequestedAt AS Timestamp, a.ApprovalId AS ApprovalId, a.EffectKind AS EffectKind, a.Tenant AS Tenant, a.State AS State,
        a.WaitMs AS WaitMs, o.Workflow AS Workflow, v.Person AS Person, v.Decision AS Decision, v.WaitMs AS VoteMs
    FROM v_approvals AS a
    LEFT JOIN (
        SELECT * FROM v_approval_events WHERE Event = 'voted' AND Decision IN ('approve', 'reject')
    ) AS v ON v.ApprovalId = a.ApprovalId
    LEFT JOIN v_origins AS o ON o.OriginId = a.OriginId
    WHERE a.RequestedAt >= {since} AND a.RequestedAt < {until}
)
GROUP BY {keys}
ORDER BY {keys}
