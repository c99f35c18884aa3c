-- name: begin_effect
SELECT verdict, token, outcome, wait_seconds, detail FROM backbeat.begin_effect(
    %(key)s, %(owner_kind)s, %(owner)s, %(lease)s, %(kind)s, %(request)s::jsonb, %(request_hash)s,
    %(origin)s, %(traceparent)s, %(approval)s, %(fire_seconds)s)

-- name: finish_effect
SELECT backbeat.finish_effect(%(key)s, %(outcome)s::jsonb, %(read_back)s) AS written

-- name: refire_effect
SELECT backbeat.refire_effect(%(key)s, %(token)s, %(fire_seconds)s, %(error)s) AS granted

-- name: note_effect
SELECT backbeat.note_effect(%(key)s, %(error)s)

-- name: note_restore
SELECT backbeat.note_restore(%(proof)s, %(by)s, %(reason)s)
