-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- Operators: dead letters go back or are given up, work is paused and stopped, and what is old is removed.
--
-- A task ends once, so a requeued one is a new task: it takes over the key, the origin and the recorded answers, and its
-- effects are those of the task it was at first. The letter says which task it became, who did it and why.
-- Lock order: dead_letters (by id) -> idempotency (by key) -> tasks -> flows -> model_calls -> audit_head.

-- Nobody needs the answers of these any more; where the history is gone, nor the calls.
CREATE FUNCTION backbeat.drop_answers(p_owners uuid[]) RETURNS void LANGUAGE sql AS $$
    DELETE FROM model_calls c WHERE c.owner = ANY (p_owners) AND NOT EXISTS (SELECT FROM finished_tasks f WHERE f.id = c.owner);
    UPDATE model_calls c SET response = NULL WHERE c.owner = ANY (p_owners) AND c.response IS NOT NULL; $$;

-- Makes tasks of open letters, of the newest version if p_newest; the n-th is due p_seconds after the one before it.
-- Answers those it made. A letter whose key another task took over meanwhile is left as it is.
CREATE FUNCTION backbeat.requeue_dead(p_ids uuid[], p_newest boolean, p_start timestamptz, p_seconds double precision, p_by text, p_reason text) RETURNS TABLE
    (letter uuid, task_id uuid) LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE c_free CONSTANT jsonb := '{"status": "memo", "lease": null, "reserved_usd": 0, "reserved_tokens": 0, "cost_usd": null, "charged": [],
                               "uncached": null, "cache_read": null, "cache_write": null, "output": null, "reasoning": null}';
    v_now timestamptz := clock(); v_ids uuid[]; v_new uuid[];
BEGIN
    PERFORM FROM dead_letters d WHERE d.id = ANY (p_ids) AND d.resolved_at IS NULL ORDER BY d.id FOR UPDATE;
    -- Of several with one key, the last to die.
    SELECT array_agg(l.id ORDER BY l.id) INTO v_ids FROM (
        SELECT DISTINCT ON (d.tenant, coalesce(d.idempotency_key, uuid_send(d.id))) d.id FROM dead_letters d
        WHERE d.id = ANY (p_ids) AND d.resolved_at IS NULL ORDER BY d.tenant, coalesce(d.idempotency_key, uuid_send(d.id)), d.id DESC) l;
    SELECT array_agg(u.id ORDER BY u.id) INTO v_new FROM (SELECT uuid7(v_now) AS id FROM generate_series(1, cardinality(v_ids))) u;
    WITH pairs AS MATERIALIZED (
        SELECT d.id, d.tenant, d.idempotency_key, m.new FROM unnest(v_ids, v_new) AS m(id, new) JOIN dead_letters d ON d.id = m.id
    ), taken AS (
        INSERT INTO idempotency AS i (tenant, key, task_id)
        SELECT p.tenant, p.idempotency_key, p.new FROM pairs p WHERE p.idempotency_key IS NOT NULL ORDER BY 1, 2
        ON CONFLICT (tenant, key) DO UPDATE SET task_id = excluded.task_id WHERE i.task_id = ANY (v_ids)
        RETURNING i.task_id
    )
    SELECT array_agg(p.id ORDER BY p.id), array_agg(p.new ORDER BY p.id) INTO v_ids, v_new FROM pairs p
    WHERE p.idempotency_key IS NULL OR p.new IN (SELECT k.task_id FROM taken k);
    IF v_ids IS NULL THEN RETURN; END IF;

    -- Without its parent: that has been told already that this one died.
    INSERT INTO simple_tasks (id, tenant, workflow, version, tier, class, payload, status, run_after, source_at, max_attempts, origin_id,
                              first_id, idempotency_key, traceparent, created_at, agent_id)
    SELECT m.new, d.tenant, d.workflow, w.version, w.lane, d.class, d.payload, CASE WHEN r.due IS NULL THEN 'pending' ELSE 'delayed' END, r.due,
           d.source_at, w.max_attempts, d.origin_id, coalesce((SELECT o.first_id FROM dead_letters o WHERE o.requeued_as = d.id), d.id),
           d.idempotency_key, d.traceparent, v_now, (SELECT f.agent_id FROM finished_tasks f WHERE f.id = d.id)
    FROM unnest(v_ids, v_new) WITH ORDINALITY AS m(id, new, n) JOIN dead_letters d ON d.id = m.id
    CROSS JOIN LATERAL (SELECT nullif(greatest(p_start + make_interval(secs => (m.n - 1) * p_seconds), backbeat.now()), backbeat.now()) AS due) r
    CROSS JOIN LATERAL (
        SELECT * FROM workflows k WHERE k.name = d.workflow AND k.runtime = 'cron' AND (p_newest OR k.version = d.version)
        ORDER BY k.version DESC LIMIT 1) w;
    INSERT INTO flows (tenant, tier, class) SELECT DISTINCT t.tenant, t.tier, t.class FROM simple_tasks t WHERE t.id = ANY (v_new) ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING;
    INSERT INTO virtual_time (tier) SELECT DISTINCT t.tier FROM simple_tasks t WHERE t.id = ANY (v_new) ORDER BY 1 ON CONFLICT DO NOTHING;
    PERFORM promote(ARRAY(SELECT f FROM flows f WHERE (f.tenant, f.tier, f.class) IN (
        SELECT t.tenant, t.tier, t.class FROM simple_tasks t WHERE t.id = ANY (v_new) AND t.status = 'pending')));

    INSERT INTO model_calls
    SELECT r.* FROM unnest(v_ids, v_new) AS m(id, new) JOIN model_calls c ON c.owner = m.id CROSS JOIN LATERAL jsonb_populate_record(c, c_free || jsonb_build_object('owner', m.new)) r
    WHERE c.status IN ('done', 'memo') AND c.response IS NOT NULL;
    PERFORM drop_answers(v_ids);
    UPDATE dead_letters d SET payload = NULL, requeued_as = t.id, first_id = t.first_id, resolved_at = v_now, resolved_by = p_by, reason = p_reason
    FROM unnest(v_ids, v_new) AS m(id, new) JOIN simple_tasks t ON t.id = m.new WHERE d.id = m.id;
    PERFORM audit(session_user, 'dead.requeued', v_ids[1]::text, jsonb_build_object('by', p_by,
        'letters', cardinality(v_ids), 'last', v_ids[cardinality(v_ids)], 'newest', p_newest, 'reason', p_reason));
    RETURN QUERY SELECT * FROM unnest(v_ids, v_new);
END $$;

-- Gives up open letters: their payload and recorded answers go, the fact stays. Answers which.
CREATE FUNCTION backbeat.discard_dead(p_ids uuid[], p_by text, p_reason text) RETURNS SETOF uuid LANGUAGE sql SECURITY DEFINER AS $$
    WITH mine AS (
        SELECT d.id FROM dead_letters d WHERE d.id = ANY (p_ids) AND d.resolved_at IS NULL ORDER BY d.id FOR UPDATE
    ), gone AS (
        UPDATE dead_letters d SET payload = NULL, resolved_at = clock(), resolved_by = p_by, reason = p_reason FROM mine m WHERE d.id = m.id RETURNING d.id
    ), told AS (
        SELECT g.ids, drop_answers(g.ids), audit(session_user, 'dead.discarded', g.ids[1]::text, jsonb_build_object('by', p_by,
            'letters', cardinality(g.ids), 'last', g.ids[cardinality(g.ids)], 'reason', p_reason))
        FROM (SELECT array_agg(id ORDER BY id) AS ids FROM gone HAVING count(*) > 0) g
    )
    SELECT unnest(t.ids) FROM told t $$;

-- Lets nothing of a tenant or a workflow start any more, or no call take a route; what runs goes on. Rows in the windows make
-- room for others.
CREATE FUNCTION backbeat.pause(p_scope text, p_key text, p_reason text, p_by text) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE v_ids uuid[];
BEGIN
    IF p_scope = 'tenant' AND NOT EXISTS (SELECT FROM tenants n WHERE n.id = p_key) OR p_scope = 'workflow' AND NOT EXISTS (SELECT FROM workflows w WHERE w.name = p_key) THEN
        RAISE EXCEPTION '% % does not exist', p_scope, p_key USING ERRCODE = 'BB001';
    END IF;
    INSERT INTO pauses (scope, key, reason, paused_by, paused_at) VALUES (p_scope, p_key, p_reason, p_by, clock())
    ON CONFLICT (scope, key) DO UPDATE SET reason = excluded.reason, paused_by = excluded.paused_by, paused_at = excluded.paused_at;
    v_ids := ARRAY(
        SELECT t.id FROM simple_tasks t WHERE t.status = 'ready' AND CASE p_scope WHEN 'tenant' THEN t.tenant WHEN 'workflow' THEN t.workflow END = p_key
        ORDER BY t.id FOR UPDATE SKIP LOCKED);
    PERFORM lock_flows(v_ids);
    PERFORM leave_flows(v_ids);
    UPDATE simple_tasks t
    SET status = CASE p_scope WHEN 'tenant' THEN 'pending' ELSE 'held' END, rank = 0, run_after = NULL, vstart = NULL, estimate = NULL,
        hold_reason = CASE p_scope WHEN 'workflow' THEN 'paused' END, hold_key = CASE p_scope WHEN 'workflow' THEN p_key END
    WHERE t.id = ANY (v_ids);
    PERFORM audit(session_user, 'queue.paused', p_scope || '/' || p_key, jsonb_build_object('reason', p_reason, 'by', p_by));
    RETURN cardinality(v_ids);
END $$;

-- Lets them start again; a workflow's rows come back in bounded chunks, a tenant's with the next sweep. False when it was not paused.
CREATE FUNCTION backbeat.unpause(p_scope text, p_key text, p_by text) RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$
    WITH gone AS (DELETE FROM pauses p WHERE (p.scope, p.key) = (p_scope, p_key) RETURNING CASE p_scope WHEN 'route' THEN 'route' ELSE 'paused' END AS reason)
    SELECT count(release_held(g.reason, p_key) + audit(session_user, 'queue.resumed', p_scope || '/' || p_key, jsonb_build_object('by', p_by))) > 0 FROM gone g $$;

-- The kill switch: 'all' lets no model call start, 'effects' no effect, anywhere.
CREATE FUNCTION backbeat.throw_switch(p_name text, p_reason text, p_by text) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
    INSERT INTO switches (name, reason, thrown_by) VALUES (p_name, p_reason, p_by)
    ON CONFLICT (name) DO UPDATE SET reason = excluded.reason, thrown_by = excluded.thrown_by, thrown_at = backbeat.now();
    SELECT FROM audit(session_user, 'switch.thrown', p_name, jsonb_build_object('reason', p_reason, 'by', p_by)) $$;

CREATE FUNCTION backbeat.release_switch(p_name text, p_by text DEFAULT NULL) RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$
    WITH gone AS (DELETE FROM switches WHERE name = p_name RETURNING name)
    SELECT count(audit(session_user, 'switch.released', g.name, jsonb_build_object('by', p_by))) > 0 FROM gone g $$;

-- This database came back as it was some time ago: what is open is unknown, and what the ledger lost is looked for. p_proof is a
-- workflow that Temporal has seen end and the database has not; one older than the restore we know of tells nothing new.
CREATE FUNCTION backbeat.note_restore(p_proof uuid, p_by text, p_reason text) RETURNS SETOF bigint LANGUAGE sql SECURITY DEFINER AS $$
    WITH news AS (UPDATE ledger SET restored_at = clock() WHERE p_proof IS NULL OR p_proof > uuid7_floor(restored_at) RETURNING one), doubted AS (
        UPDATE side_effects SET status = 'unknown', fire_until = greatest(fire_until, clock()) WHERE status = 'intended' AND EXISTS (SELECT FROM news) RETURNING 1)
    SELECT audit(session_user, 'postgres.restored', 'ledger', jsonb_build_object('by', p_by, 'reason', p_reason, 'open', (SELECT count(*) FROM doubted))) FROM news $$;

CREATE TABLE backbeat.retention (
    policy text PRIMARY KEY CHECK (policy IN ('finished', 'outbox', 'ticks', 'workflows')),
    days integer NOT NULL CHECK (days BETWEEN 1 AND 36500),
    set_by text NOT NULL DEFAULT '(default)',
    -- How far the day that goes next is cleared.
    cleared_to uuid
);
INSERT INTO backbeat.retention (policy, days) VALUES ('finished', 90), ('outbox', 30), ('ticks', 14), ('workflows', 365);

CREATE FUNCTION backbeat.set_retention(p_policy text, p_days integer, p_by text) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
    UPDATE retention SET days = p_days, set_by = p_by WHERE policy = p_policy;
    SELECT FROM audit(session_user, 'retention.set', p_policy, jsonb_build_object('by', p_by, 'days', p_days)); $$;

-- Removes what is older than its policy says, at most p_limit rows of a kind; a day of the history is dropped when its keys and
-- calls are gone, and when no task of that day lives. Open letters keep their calls. One session at a time; nobody waits for it
-- longer than it may wait for a lock itself, and what it does not get it leaves for the next tick. Answers the day it dropped.
CREATE FUNCTION backbeat.retain(p_limit integer DEFAULT 5000) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan SET lock_timeout = '100ms' AS $$
DECLARE v_before record; v_name text; v_from uuid; v_to uuid; v_ids uuid[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('backbeat.retain', 0)) THEN RETURN NULL; END IF;
    SELECT max(b.at) FILTER (WHERE b.policy = 'ticks') AS ticks, max(b.at) FILTER (WHERE b.policy = 'outbox') AS outbox,
           max(b.at) FILTER (WHERE b.policy = 'finished') AS finished, max(b.at) FILTER (WHERE b.policy = 'workflows') AS workflows INTO v_before
    FROM (SELECT r.policy, backbeat.now() - make_interval(days => r.days) AS at FROM retention r) b;
    DELETE FROM ticks k WHERE k.id IN (SELECT t.id FROM ticks t WHERE t.id < uuid7_floor(v_before.ticks) ORDER BY t.id LIMIT p_limit);
    -- Streams that are over: in one that goes on, the next number follows from the last.
    DELETE FROM temporal_outbox o WHERE (o.stream, o.seq) IN (
        SELECT b.stream, b.seq FROM temporal_outbox b JOIN orchestrated_workflows w ON w.id = b.stream
        WHERE b.stream < uuid7_floor(v_before.outbox) AND b.delivered_at < v_before.outbox AND w.finished_at < v_before.outbox LIMIT p_limit);
    -- What was asked of people and what they decided stays, as the audit log does: of that only what was told goes.
    DELETE FROM messages m WHERE m.id IN (SELECT o.id FROM messages o WHERE o.id < uuid7_floor(v_before.workflows) AND o.status <> 'open' ORDER BY o.id LIMIT p_limit);
    DELETE FROM notifications n WHERE n.id IN (SELECT o.id FROM notifications o WHERE o.id < uuid7_floor(v_before.workflows) ORDER BY o.id LIMIT p_limit);
    v_ids := ARRAY(SELECT w.id FROM orchestrated_workflows w WHERE w.workflow <> 'approve_effect' AND w.finished_at < v_before.workflows
        AND NOT EXISTS (SELECT FROM approval_requests r WHERE r.workflow_id = w.id) ORDER BY w.finished_at LIMIT p_limit);
    DELETE FROM model_calls c WHERE c.owner = ANY (v_ids);
    DELETE FROM budgets b WHERE b.scope = 'task' AND b.day = '-infinity' AND b.key = ANY (v_ids::text[]);
    DELETE FROM orchestrated_workflows w WHERE w.id = ANY (v_ids) AND w.finished_at IS NOT NULL;

    SELECT d.name, d.floor, d.ceiling INTO v_name, v_from, v_to FROM (
        SELECT c.relname AS name, uuid7_floor(right(c.relname, 8)::timestamp AT TIME ZONE 'UTC') AS floor,
               uuid7_floor((right(c.relname, 8)::date + 1)::timestamp AT TIME ZONE 'UTC') AS ceiling
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'finished_tasks'::regclass AND c.relname ~ '^finished_tasks_\d{8}$'
            AND c.relname < 'finished_tasks_' || to_char(utc_day(v_before.finished), 'YYYYMMDD')) d
    WHERE NOT EXISTS (SELECT FROM simple_tasks t WHERE t.id >= d.floor AND t.id < d.ceiling) ORDER BY d.name LIMIT 1;
    v_from := greatest(v_from, (SELECT r.cleared_to FROM retention r WHERE r.cleared_to BETWEEN v_from AND v_to));
    SELECT array_agg(f.id) INTO v_ids FROM (SELECT id FROM finished_tasks WHERE id > v_from AND id < v_to ORDER BY id LIMIT p_limit) f;
    IF v_name IS NULL THEN
        RETURN NULL;
    ELSIF v_ids IS NULL THEN
        BEGIN
            EXECUTE format('DROP TABLE backbeat.%I', v_name);
        EXCEPTION
            WHEN lock_not_available THEN RETURN NULL;
        END;
        RETURN v_name;
    END IF;
    DELETE FROM idempotency i USING finished_tasks f
    WHERE f.id > v_from AND f.id <= v_ids[cardinality(v_ids)] AND (i.tenant, i.key) = (f.tenant, f.idempotency_key) AND i.task_id = f.id;
    DELETE FROM model_calls c WHERE c.owner = ANY (v_ids) AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.id = c.owner AND d.resolved_at IS NULL);
    -- An agent's goes with the last of its steps that are gone, unless it was used since.
    DELETE FROM budgets b USING finished_tasks f
    WHERE f.id > v_from AND f.id <= v_ids[cardinality(v_ids)] AND b.day = '-infinity' AND b.key = coalesce(f.agent_id, f.id)::text
        AND b.scope = CASE WHEN f.agent_id IS NULL THEN 'task' ELSE 'agent' END AND (f.agent_id IS NULL OR b.touched_at < v_before.finished);
    UPDATE retention SET cleared_to = v_ids[cardinality(v_ids)] WHERE policy = 'finished';
    RETURN NULL;
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN RETURN NULL;
END $$;

-- Rewritten all day long: vacuum them by the count of their changes, at full speed.
ALTER TABLE backbeat.budgets SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE backbeat.model_calls SET (autovacuum_vacuum_scale_factor = 0.02);

GRANT EXECUTE ON FUNCTION backbeat.retain, backbeat.note_restore TO backbeat_worker;
GRANT EXECUTE ON FUNCTION backbeat.note_restore, backbeat.requeue_dead, backbeat.discard_dead, backbeat.set_retention,
    backbeat.throw_switch, backbeat.release_switch, backbeat.pause, backbeat.unpause TO backbeat_operator;

CALL backbeat.pin_functions();
