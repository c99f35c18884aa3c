-- Spans on their way to ClickHouse: what hosts tell of their spools, and the outbox of those whose disk does not last.

-- name: tell
SELECT backbeat.tell_spool(%(host)s, %(files)s, %(oldest)s, %(quarantined)s, %(shed)s)

-- name: put
SELECT backbeat.put_spans(%(id)s, %(spans)s, %(body)s), (SELECT coalesce(sum(octet_length(o.body)), 0) FROM backbeat.telemetry_outbox o) AS size

-- name: lease
SELECT id, body FROM backbeat.lease_spans(%(seconds)s)

-- name: settle
SELECT backbeat.settle_spans(%(id)s, %(refused)s)
