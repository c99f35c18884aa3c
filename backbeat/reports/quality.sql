-- title: What people say of results
-- units: findings findings, correct findings, false_positive findings, wrong findings, missed findings, other findings
-- units: false_positive_rate share of what was found, accuracy share of what was judged, results tasks, people people
-- by: workflow, version, tenant, day, week, month, total
-- chart: bars false_positive_rate
-- n: findings
-- since: 30d
-- source: feedback
--
-- Of what was said in the period, the last word on each finding. What was found is correct, a false positive or wrong; what
-- was missed was not. Other labels are counted and judge nothing.
SELECT
    {by},
    count() AS findings,
    countIf(label = 'correct') AS correct,
    countIf(label = 'false_positive') AS false_positive,
    countIf(label = 'wrong') AS wrong,
    countIf(label = 'missed') AS missed,
    findings - correct - false_positive - wrong - missed AS other,
    if(correct + false_positive + wrong = 0, NULL, round(false_positive / (correct + false_positive + wrong), 4)) AS false_positive_rate,
    if(findings = other, NULL, round(correct / (findings - other), 4)) AS accuracy,
    uniqExact(TaskId) AS results,
    uniqExact(person) AS people
FROM (
    SELECT
        TaskId, argMax(Label, (f.Timestamp, FeedbackId)) AS label, argMax(SaidBy, (f.Timestamp, FeedbackId)) AS person,
        max(f.Workflow) AS Workflow, max(f.Version) AS Version, max(f.Tenant) AS Tenant, max(f.Timestamp) AS Timestamp
    FROM feedback AS f -- told twice, a word is still the last one
    WHERE f.Timestamp >= {since} AND f.Timestamp < {until}
    GROUP BY TaskId, Finding
)
GROUP BY {keys}
ORDER BY {keys}
