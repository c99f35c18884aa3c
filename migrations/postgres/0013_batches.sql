-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- Batches: calls that wait up to a day for their answers, at half the price.
--
-- Such a call is an open row of model_calls that keeps its request: its reservation lives as long as its batch, no worker has it in
-- hand, and none is presumed lost with one. First it waits (batch is ''), then its batch names it. Its task is held(batch) under its
-- own id meanwhile, and goes on when no call of it is open any more.
--
--   intended   the tag is committed, and may be at the vendor's: from the second look on, nobody submits before asking there
--   submitted  the vendor's id is known
--   unsure     only a person can say whether there is such a batch, or what became of it
--   ended      each of its calls is closed
--   lost       nobody will ever know: what was open is presumed spent
CREATE TABLE backbeat.llm_batches (
    tag text PRIMARY KEY, route text NOT NULL, provider text NOT NULL, calls integer NOT NULL, status text NOT NULL DEFAULT 'intended',
    vendor_id text, looks integer NOT NULL DEFAULT 0, lease bigint NOT NULL DEFAULT 0, cancel boolean NOT NULL DEFAULT false, note text,
    intended_at timestamptz NOT NULL DEFAULT backbeat.clock(), next_at timestamptz NOT NULL DEFAULT backbeat.clock(),
    CHECK (status IN ('intended', 'submitted', 'unsure', 'ended', 'lost') AND (status <> 'submitted' OR vendor_id IS NOT NULL)));
CREATE INDEX llm_batches_due ON backbeat.llm_batches (next_at) WHERE status NOT IN ('ended', 'lost');
CREATE INDEX model_calls_batch ON backbeat.model_calls (batch) WHERE batch IS NOT NULL;

-- Makes batches of what has waited for a minute, or is a thousand calls, and leases every batch that is due to the caller for five
-- minutes. What waits and is nobody's any more is closed unspent.
CREATE FUNCTION backbeat.due_batches(p_providers text[]) RETURNS SETOF backbeat.llm_batches LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE v_new record; v_stopped boolean := EXISTS (SELECT FROM switches s WHERE s.name = 'all');
BEGIN
    PERFORM close_calls(coalesce(jsonb_agg(to_jsonb(c) - 'request' || '{"status": "refused", "error_class": "not_wanted"}'), '[]')) FROM model_calls c
    WHERE c.batch = '' AND c.status = 'open' AND NOT EXISTS (SELECT FROM simple_tasks t WHERE t.id = c.owner)
        AND NOT EXISTS (SELECT FROM orchestrated_workflows w WHERE w.id = c.owner AND w.finished_at IS NULL);
    FOR v_new IN SELECT 'bb' || left(replace(gen_random_uuid()::text, '-', ''), 20) AS tag, c.route, c.provider FROM model_calls c WHERE c.batch = '' AND c.status = 'open'
            AND c.provider = ANY (p_providers) AND NOT v_stopped AND NOT EXISTS (SELECT FROM pauses p WHERE (p.scope, p.key) = ('route', c.route))
        GROUP BY c.route, c.provider HAVING min(c.opened_at) <= clock() - interval '1 minute' OR count(*) >= 1000 LOOP
        WITH taken AS (SELECT c.owner, c.call_key, c.seq, length(c.request::text) AS size FROM model_calls c WHERE c.batch = '' AND c.status = 'open'
            AND (c.route, c.provider) = (v_new.route, v_new.provider) ORDER BY c.opened_at, c.owner, c.call_key LIMIT 10000 FOR UPDATE SKIP LOCKED
        ), put AS (UPDATE model_calls c SET batch = v_new.tag FROM (SELECT t.*, sum(t.size) OVER (ORDER BY t.owner, t.call_key) - t.size AS before FROM taken t) f
            WHERE (c.owner, c.call_key, c.seq) = (f.owner, f.call_key, f.seq) AND f.before < 32000000 RETURNING c.owner)
        INSERT INTO llm_batches (tag, route, provider, calls) SELECT v_new.tag, v_new.route, v_new.provider, count(*) FROM put HAVING count(*) > 0;
    END LOOP;
    RETURN QUERY UPDATE llm_batches b SET next_at = clock() + interval '5 minutes', lease = nextval('leases'), looks = b.looks + 1 WHERE b.tag IN (
        SELECT d.tag FROM llm_batches d WHERE d.status NOT IN ('ended', 'lost') AND (d.vendor_id IS NOT NULL OR NOT v_stopped)
            AND d.next_at <= clock() AND d.provider = ANY (p_providers) ORDER BY d.next_at LIMIT 10 FOR UPDATE SKIP LOCKED) RETURNING b.*;
END $$;

-- How a batch stands, after a look; false when it is over, or the lease is somebody else's by now. The vendor's id is a fact whoever
-- learned it. What is open when it ended was not done, and costs nothing; when it is lost, that is presumed spent. Then tasks without
-- another open call go on.
CREATE FUNCTION backbeat.mark_batch(p_tag text, p_lease bigint, p_status text, p_vendor_id text, p_note text, p_seconds double precision, p_cancel boolean DEFAULT false)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE llm_batches b SET status = coalesce(p_status, b.status), vendor_id = coalesce(p_vendor_id, b.vendor_id), note = left(p_note, 2000),
        cancel = b.cancel OR p_cancel, next_at = coalesce(clock() + make_interval(secs => p_seconds), b.next_at)
    WHERE b.tag = p_tag AND b.status NOT IN ('ended', 'lost') AND (b.lease = p_lease OR p_status = 'submitted' AND b.vendor_id IS NULL);
    IF NOT FOUND OR coalesce(p_status, '') NOT IN ('ended', 'lost') THEN RETURN FOUND; END IF;
    PERFORM FROM simple_tasks t WHERE t.id IN (SELECT c.owner FROM model_calls c WHERE c.batch = p_tag) ORDER BY t.id FOR UPDATE;
    PERFORM close_calls(coalesce(jsonb_agg(to_jsonb(c) - 'request' || jsonb_build_object('status', CASE p_status WHEN 'lost' THEN 'lost' ELSE 'refused' END,
        'error_class', CASE WHEN b.cancel THEN 'batch_cancelled' ELSE 'batch_' || p_status END)), '[]'))
    FROM model_calls c JOIN llm_batches b ON b.tag = c.batch WHERE c.batch = p_tag AND c.status = 'open';
    UPDATE simple_tasks t SET status = 'pending', rank = 0, hold_reason = NULL, hold_key = NULL WHERE t.hold_reason = 'batch' AND t.id IN (
        SELECT c.owner FROM model_calls c WHERE c.batch = p_tag) AND NOT EXISTS (SELECT FROM model_calls c WHERE c.owner = t.id AND c.status = 'open');
    RETURN true;
END $$;

-- What a person says: of an unsure batch that it is the vendor's p_vendor_id (submitted), was never sent (ended), or is lost; of any
-- other that it is to be cancelled (p_status is NULL), which the next look asks of the vendor. False when it does not stand like that.
CREATE FUNCTION backbeat.resolve_batch(p_tag text, p_status text, p_vendor_id text, p_by text) RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$
    SELECT coalesce(bool_and(CASE WHEN mark_batch(b.tag, b.lease, p_status, p_vendor_id, b.note, CASE WHEN p_status IS NOT NULL THEN 0 END, p_status IS NULL) THEN
        audit(session_user, 'batch.' || coalesce(p_status, 'cancel'), b.tag, jsonb_build_object('by', p_by, 'vendor_id', p_vendor_id)) > 0 END), false)
    FROM (SELECT * FROM llm_batches l WHERE l.tag = p_tag AND (l.status = 'unsure') = (p_status IS NOT NULL) FOR UPDATE) b $$;

GRANT EXECUTE ON FUNCTION backbeat.due_batches, backbeat.mark_batch TO backbeat_worker;
GRANT EXECUTE ON FUNCTION backbeat.resolve_batch TO backbeat_operator;
CALL backbeat.pin_functions();
