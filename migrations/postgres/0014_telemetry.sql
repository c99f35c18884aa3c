-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- What waits for ClickHouse, and what was given up on the way. Neither table is in anybody's lock order: each statement touches one row.

-- A host's spool as it told last; shed counts spans and only rises. Told twice after a lost answer, it counts too many, never too few.
CREATE TABLE backbeat.telemetry_hosts (host text PRIMARY KEY, files int NOT NULL, oldest_at timestamptz, quarantined int, shed bigint NOT NULL, seen_at timestamptz);

-- Batches of hosts whose disk does not last, zlib over a spool file; the id is the token of their insert. What ClickHouse cannot read says why and stays.
CREATE TABLE backbeat.telemetry_outbox (id uuid PRIMARY KEY, spans integer NOT NULL, body bytea NOT NULL, leased_until timestamptz, refused text);

CREATE FUNCTION backbeat.tell_spool(p_host text, p_files int, p_oldest float, p_quarantined int, p_shed bigint) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
    DELETE FROM telemetry_hosts h WHERE h.seen_at < clock() - interval '30 days';
    INSERT INTO telemetry_hosts AS h VALUES (p_host, p_files, clock() - make_interval(secs => p_oldest), p_quarantined, p_shed, clock()) ON CONFLICT (host) DO UPDATE
    SET files = excluded.files, oldest_at = excluded.oldest_at, quarantined = excluded.quarantined, shed = h.shed + excluded.shed, seen_at = excluded.seen_at $$;

CREATE FUNCTION backbeat.put_spans(p_id uuid, p_spans integer, p_body bytea) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
    INSERT INTO telemetry_outbox (id, spans, body) VALUES (p_id, p_spans, p_body) ON CONFLICT DO NOTHING $$;

-- Takes the oldest batches that nobody has, for some seconds.
CREATE FUNCTION backbeat.lease_spans(p_for float) RETURNS SETOF backbeat.telemetry_outbox LANGUAGE sql SECURITY DEFINER AS $$
    UPDATE telemetry_outbox o SET leased_until = clock() + make_interval(secs => p_for) WHERE o.id IN (SELECT i.id FROM telemetry_outbox i
    WHERE i.refused IS NULL AND coalesce(i.leased_until < clock(), true) ORDER BY i.id LIMIT 20 FOR UPDATE SKIP LOCKED) RETURNING o.* $$;

-- Removes what is acknowledged; what is refused stays.
CREATE FUNCTION backbeat.settle_spans(p_id uuid, p_refused text) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
    DELETE FROM telemetry_outbox o WHERE o.id = p_id AND p_refused IS NULL; UPDATE telemetry_outbox o SET refused = p_refused WHERE o.id = p_id $$;

GRANT EXECUTE ON FUNCTION backbeat.tell_spool, backbeat.put_spans, backbeat.lease_spans, backbeat.settle_spans TO backbeat_worker;
CALL backbeat.pin_functions();
