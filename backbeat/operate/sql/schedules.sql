-- Schedules as people see and change them.

-- name: list
SELECT s.*, backbeat.now() AS now FROM backbeat.schedules s WHERE coalesce(s.name = %(name)s, true) ORDER BY s.name

-- name: now
SELECT backbeat.now() AS now

-- name: draft
INSERT INTO backbeat.schedules SELECT (jsonb_populate_record(NULL::backbeat.schedules, %(schedule)s::jsonb)).*

-- name: add
SELECT backbeat.add_schedule(%(schedule)s::jsonb) AS done

-- name: remove
SELECT backbeat.remove_schedule(%(name)s) AS done

-- name: turn
SELECT backbeat.turn_schedule(%(name)s, %(from)s, %(next_at)s) AS done
