-- Dead letters. `matching` follows one of the heads: it is the filter they share. `at` is the moment of the first look.

-- name: matching
FROM backbeat.dead_letters d
WHERE (%(ids)s::uuid[] IS NULL OR d.id = ANY (%(ids)s)) AND (%(workflow)s::text IS NULL OR d.workflow = %(workflow)s)
  AND (%(version)s::integer IS NULL OR d.version = %(version)s) AND (%(tenant)s::text IS NULL OR d.tenant = %(tenant)s)
  AND (%(error_class)s::text IS NULL OR d.error_class = %(error_class)s) AND (%(text)s::text IS NULL OR strpos(lower(d.error), lower(%(text)s)) > 0)
  AND d.died_at <= coalesce(%(at)s, backbeat.now()) - coalesce(%(older)s::interval, '0')
  AND (%(newer)s::interval IS NULL OR d.died_at >= coalesce(%(at)s, backbeat.now()) - %(newer)s::interval)
  AND (%(state)s::text IS NULL OR %(state)s = CASE
      WHEN d.resolved_at IS NULL THEN 'open' WHEN d.requeued_as IS NULL THEN 'discarded' ELSE 'requeued' END)

-- name: letters
SELECT d.id, d.workflow || '@' || d.version AS workflow, d.tenant, d.error_class, d.error, d.attempts, d.died_at,
       d.requeued_as, d.resolved_at, d.resolved_by, d.reason

-- name: newest
ORDER BY d.id DESC LIMIT %(limit)s

-- name: counts
SELECT d.workflow || '@' || d.version AS workflow, d.error_class, count(*) AS letters, coalesce(%(at)s, backbeat.clock()) AS at

-- name: largest
GROUP BY d.workflow, d.version, d.error_class ORDER BY 3 DESC, 1, 2

-- name: ids
SELECT d.id

-- name: next
AND d.id > %(after)s ORDER BY d.id LIMIT %(limit)s

-- name: letter
SELECT d.id, d.workflow, d.version, d.tenant, d.class, d.error_class, d.error, d.attempts, d.payload, d.origin_id, d.source_at, d.died_at,
       CASE WHEN d.resolved_at IS NULL THEN 'open' WHEN d.requeued_as IS NULL THEN 'discarded' ELSE 'requeued' END AS state,
       d.requeued_as, d.resolved_at, d.resolved_by, d.reason
FROM backbeat.dead_letters d WHERE d.id = %(id)s

-- name: named
SELECT i.id, d.id IS NOT NULL AND d.resolved_at IS NULL AS open, d.requeued_as, d.resolved_by, t.status
FROM unnest(%(ids)s::uuid[]) AS i(id) LEFT JOIN backbeat.dead_letters d ON d.id = i.id LEFT JOIN backbeat.tasks t ON t.id = i.id ORDER BY i.id

-- name: requeue
SELECT letter AS id, task_id FROM backbeat.requeue_dead(%(ids)s::uuid[], %(newest)s, %(start)s, %(seconds)s, %(by)s, %(reason)s)

-- name: discard
SELECT id FROM backbeat.discard_dead(%(ids)s::uuid[], %(by)s, %(reason)s) AS gone(id)
