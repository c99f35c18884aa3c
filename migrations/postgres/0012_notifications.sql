-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- What is told to people leaves in messages.
--
-- A message is for one recipient of one channel and gathers what she should hear until its time has come. From its first lease on it
-- takes nothing more: its id and content stay the same however often it is sent. What people are asked is looked at again when a
-- message is leased: what was decided or revised meanwhile is left out, and a message in which nothing holds any more is withdrawn.
-- Lock order: messages (by channel and recipient, or one with SKIP LOCKED) -> audit head.

ALTER TABLE backbeat.notifications ADD routed_at timestamptz;
CREATE INDEX notifications_new ON backbeat.notifications (id) WHERE routed_at IS NULL;
CREATE INDEX notifications_of ON backbeat.notifications (request_id);

-- due_at: nobody takes it before then, because it still gathers, somebody has it, or its last attempt failed; of one that ended, when.
-- attempts counts those begun.
CREATE TABLE backbeat.messages (id uuid PRIMARY KEY, channel text NOT NULL, recipient text NOT NULL, notifications uuid[] NOT NULL, due_at timestamptz NOT NULL,
    lease bigint, attempts integer NOT NULL DEFAULT 0, shown uuid[] NOT NULL DEFAULT '{}', last_error text,
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'sent', 'dead', 'withdrawn')));
CREATE UNIQUE INDEX messages_gathering ON backbeat.messages (channel, recipient) WHERE status = 'open' AND attempts = 0;
CREATE INDEX messages_due ON backbeat.messages (channel, due_at) WHERE status = 'open';
CREATE INDEX messages_about ON backbeat.messages USING gin (notifications);

-- Once a notification: adds it to the messages of these [{channel, recipient, seconds}], or to none. 0 when somebody was faster.
CREATE FUNCTION backbeat.route_notification(p_id uuid, p_to jsonb) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$
    WITH said AS (UPDATE notifications n SET routed_at = clock() WHERE n.id = p_id AND n.routed_at IS NULL RETURNING n.id), made AS (INSERT INTO messages AS m
    SELECT uuid7(), t.channel, t.recipient, ARRAY[p_id], clock() + make_interval(secs => t.seconds) FROM said, jsonb_to_recordset(p_to) AS t(channel text, recipient text,
    seconds float) ON CONFLICT (channel, recipient) WHERE status = 'open' AND attempts = 0 DO UPDATE SET notifications = m.notifications || excluded.notifications)
    SELECT count(*) FROM said $$;

-- Takes the message of a channel that is due for longest, for some seconds. What it shows is fixed then; one in which nothing holds comes back withdrawn.
CREATE FUNCTION backbeat.lease_message(p_channel text, p_for float) RETURNS SETOF backbeat.messages LANGUAGE sql SECURITY DEFINER AS $$
    WITH due AS MATERIALIZED (SELECT d.id, ARRAY(
            SELECT n.id FROM notifications n LEFT JOIN approval_requests r ON r.id = n.request_id WHERE n.id = ANY (d.notifications)
            AND (r.id IS NULL OR n.event = 'decided' OR r.closed_at IS NULL AND n.facts -> 'revision' = to_jsonb(r.revision)) ORDER BY n.id) AS holds
        FROM messages d WHERE d.channel = p_channel AND d.status = 'open' AND d.due_at <= clock() ORDER BY d.due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    UPDATE messages m SET lease = nextval('leases'), due_at = clock() + make_interval(secs => p_for), shown = CASE m.attempts WHEN 0 THEN d.holds ELSE m.shown END,
    attempts = m.attempts + (d.holds <> '{}')::int, status = CASE d.holds WHEN '{}' THEN 'withdrawn' ELSE 'open' END FROM due d WHERE m.id = d.id RETURNING m.* $$;

-- Records how it went: sent, dead, or open and due again after p_seconds. 0 when the lease is no longer the caller's.
CREATE FUNCTION backbeat.settle_message(p_id uuid, p_lease bigint, p_status text, p_error text, p_seconds float) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$
    WITH done AS (UPDATE messages m SET status = p_status, last_error = p_error, due_at = clock() + make_interval(secs => p_seconds)
        WHERE (m.id, m.lease, m.status) = (p_id, p_lease, 'open') RETURNING m.*)
    SELECT count(CASE d.status WHEN 'dead' THEN audit('(notify)', 'notification.dead', d.id::text, to_jsonb(d) - '{id,lease,due_at}'::text[]) ELSE 0 END) FROM done d $$;

GRANT EXECUTE ON FUNCTION backbeat.route_notification, backbeat.lease_message, backbeat.settle_message TO backbeat_worker;

CALL backbeat.pin_functions();
