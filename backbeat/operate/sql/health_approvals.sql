-- What should have happened by now between Postgres, Temporal and people. A message counts from when it was made, or opened again.

-- name: late
SELECT m.unheard, m.unheard_for, e.unbegun, e.unbegun_for, e.oldest,
       (SELECT count(*) FROM backbeat.orchestrated_workflows w WHERE w.finished_at IS NULL) AS open,
       (SELECT count(*) FROM backbeat.workers k WHERE k.kind = 'temporal' AND k.seen_at > backbeat.now() - interval '1 minute') AS workers
FROM (SELECT count(*) AS unbegun, extract(epoch FROM backbeat.now() - min(r.effect_after))::double precision AS unbegun_for,
             (array_agg(w.id ORDER BY r.effect_after))[1] AS oldest
      FROM backbeat.orchestrated_workflows w JOIN backbeat.approval_requests r ON r.workflow_id = w.id
      WHERE w.finished_at IS NULL AND r.state = 'approved' AND r.effect_after < backbeat.now() - make_interval(secs => %(seconds)s)
        AND NOT EXISTS (SELECT FROM backbeat.side_effects s WHERE s.approval_id = r.id AND s.fires > 0)) AS e
LEFT JOIN (SELECT concat_ws(' ', o.kind, 'of', w.workflow, w.id) || coalesce(': ' || o.last_error, '') AS unheard,
                  extract(epoch FROM backbeat.now() - o.created_at)::double precision AS unheard_for
           FROM backbeat.temporal_outbox o JOIN backbeat.orchestrated_workflows w ON w.id = o.stream
           WHERE o.delivered_at IS NULL AND o.dead_at IS NULL AND o.created_at < backbeat.now() - make_interval(secs => %(seconds)s)
           ORDER BY o.created_at LIMIT 1) AS m ON true
