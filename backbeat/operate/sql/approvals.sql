-- name: handed_to
SELECT h.to_user FROM backbeat.approval_requests r, LATERAL backbeat.handed_on(r.id, backbeat.clock()) AS h
WHERE r.id = %(request)s AND h.user_name = %(user)s AND EXISTS (
    SELECT FROM backbeat.rules_at(r, backbeat.clock()) AS a(rule) WHERE backbeat.fits(a.rule, h.user_name, h.groups))

-- name: reassign
SELECT backbeat.reassign(%(leaver)s, %(heir)s, %(reason)s) AS open

-- name: set_calendar
SELECT backbeat.set_calendar(%(tenant)s, %(name)s, %(zone)s, %(days)s, %(opens)s::time, %(closes)s::time, %(holidays)s::date[])

-- name: audit_head
SELECT id, encode(hash, 'hex') AS hash FROM backbeat.audit_head

-- name: audit_problems
-- The first row of the audit log that is not as it was written, and what is wrong; no row when all is well.
-- Whoever owns the database can rewrite the whole chain: only a head that was kept elsewhere shows that.
SELECT * FROM (SELECT a.id, CASE
        WHEN a.id <> row_number() OVER chain THEN 'a row before it is missing'
        WHEN a.prev_hash <> lag(a.hash, 1, sha256('backbeat audit log')) OVER chain THEN 'it does not follow the row before it'
        WHEN a.hash <> backbeat.audit_hash(a.prev_hash, a.id, a.at, a.actor, a.action, a.subject, a.detail) THEN 'it was changed'
    END AS problem
    FROM backbeat.audit_log a WINDOW chain AS (ORDER BY a.id)
    UNION ALL
    SELECT h.id, 'the newest rows are missing' FROM backbeat.audit_head h
    WHERE h.id > 0 AND NOT EXISTS (SELECT FROM backbeat.audit_log a WHERE (a.id, a.hash) = (h.id, h.hash))
) c WHERE c.problem IS NOT NULL ORDER BY c.id LIMIT 1

-- name: audit_rows
SELECT id, at, actor, action, subject, detail, encode(prev_hash, 'hex') AS prev_hash, encode(hash, 'hex') AS hash
FROM backbeat.audit_log WHERE id > %(after)s ORDER BY id LIMIT %(limit)s

-- name: history
SELECT at, actor, action, detail FROM backbeat.audit_log WHERE subject = %(id)s ORDER BY id
