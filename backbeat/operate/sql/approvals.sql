-- name: reassign
SELECT backbeat.reassign(%(leaver)s, %(heir)s, %(reason)s) AS open

-- name: set_calendar
SELECT backbeat.set_calendar(%(tenant)s, %(name)s, %(zone)s, %(days)s, %(opens)s::time, %(closes)s::time, %(holidays)s::date[])

-- name: audit_head
SELECT id, encode(hash, 'hex') AS hash FROM backbeat.audit_head

-- name: audit_problems
SELECT id, problem FROM backbeat.verify_audit()

-- name: audit_rows
SELECT id, at, actor, action, subject, detail, encode(prev_hash, 'hex') AS prev_hash, encode(hash, 'hex') AS hash
FROM backbeat.audit_log WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
