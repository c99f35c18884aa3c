-- Notifications on their way to people.

-- Who should hear of it: people named, members of groups named who hold a token, and in their place whoever their right is handed to.
-- `earlier`: to whom this request has been on its way; told: whether a message that asks may have left. A decision waits a moment, so
-- that a message that was taken just before it counts.
-- name: unrouted
SELECT n.id, n.event, n.tenant, n.groups,
    (SELECT coalesce(jsonb_object_agg(p.name, ARRAY(SELECT DISTINCT unnest(t.groups) FROM backbeat.api_tokens t WHERE t.user_name = p.name AND t.revoked_at IS NULL)), '{}') FROM (
        SELECT u.name FROM unnest(n.users) AS u(name)
        UNION SELECT coalesce(h.to_user, t.user_name) FROM backbeat.api_tokens t LEFT JOIN backbeat.handed_on(n.request_id, backbeat.now()) AS h ON h.user_name = t.user_name
        WHERE t.groups && n.groups AND t.revoked_at IS NULL AND (t.expires_at > backbeat.now()) IS NOT FALSE AND (n.event <> 'reminded' OR NOT EXISTS (
            SELECT FROM backbeat.approval_decisions d
            WHERE (d.request_id, d.decision, d.for_user) = (n.request_id, 'approve', t.user_name) AND to_jsonb(d.revision) = n.facts -> 'revision'))) AS p) AS people,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(e.channel, e.recipient, e.told)), '[]') FROM (
        SELECT m.channel, m.recipient, bool_or(m.attempts > 0 AND m.shown @> ARRAY[a.id]) AS told FROM backbeat.notifications a
        JOIN backbeat.messages m ON m.notifications @> ARRAY[a.id] WHERE a.request_id = n.request_id AND n.event = 'decided' AND a.id <> n.id GROUP BY 1, 2) AS e) AS earlier
FROM backbeat.notifications n
WHERE n.routed_at IS NULL AND (n.event <> 'decided' OR n.created_at < backbeat.now() - interval '1 second') ORDER BY n.id LIMIT 100

-- name: route
SELECT backbeat.route_notification(%(id)s, %(to)s::jsonb) AS routed

-- name: lease
SELECT m.id, m.channel, m.recipient, m.lease, m.attempts, m.status, (
    SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('traceparent', w.traceparent)) || jsonb_build_object(
        'id', n.id, 'event', n.event, 'request', n.request_id, 'tenant', n.tenant, 'at', n.created_at) || n.facts ORDER BY n.id), '[]')
    FROM backbeat.notifications n LEFT JOIN backbeat.approval_requests r ON r.id = n.request_id
    LEFT JOIN backbeat.orchestrated_workflows w ON w.id = r.workflow_id WHERE n.id = ANY (m.shown)) AS items
FROM backbeat.lease_message(%(channel)s, %(seconds)s) AS m

-- name: settle
SELECT backbeat.settle_message(%(id)s, %(lease)s, %(status)s, %(error)s, %(seconds)s) AS settled

-- name: messages
SELECT m.id, m.channel, m.recipient, m.status, m.attempts, m.due_at, cardinality(m.notifications) AS notifications, m.last_error
FROM backbeat.messages m WHERE %(status)s::text IS NULL OR m.status = %(status)s ORDER BY m.id DESC LIMIT %(limit)s
