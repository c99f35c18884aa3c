-- Made by `make schema` from migrations/postgres; compared in tests/integration/test_schema_dump.py.

CREATE SCHEMA backbeat;

CREATE TYPE backbeat.departure AS (
	id uuid,
	status text,
	result jsonb,
	error_class text,
	error text,
	workflow_id uuid,
	entry jsonb
);

CREATE TYPE backbeat.ending AS (
	id uuid,
	lease bigint,
	outcome text,
	result jsonb,
	error_class text,
	error text,
	after double precision,
	until timestamp with time zone,
	reason text,
	key text,
	workflow text,
	input jsonb,
	children jsonb
);

CREATE FUNCTION backbeat.now() RETURNS timestamp with time zone
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN now();

CREATE FUNCTION backbeat.clock() RETURNS timestamp with time zone
    LANGUAGE sql PARALLEL SAFE
    RETURN (backbeat.now() + (clock_timestamp() - now()));

CREATE FUNCTION backbeat.uuid7(p_at timestamp with time zone DEFAULT backbeat.clock()) RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    RETURN (encode(OVERLAY(OVERLAY(uuid_send(gen_random_uuid()) PLACING SUBSTRING(int8send((floor((EXTRACT(epoch FROM p_at) * (1000)::numeric)))::bigint) FROM 3) FROM 1 FOR 6) PLACING set_byte('\x00'::bytea, 0, ((get_byte(uuid_send(gen_random_uuid()), 0) & 15) | 112)) FROM 7 FOR 1), 'hex'::text))::uuid;

CREATE TABLE backbeat.joins (
    id uuid DEFAULT backbeat.uuid7() NOT NULL,
    workflow_id uuid,
    step text NOT NULL,
    children uuid[] DEFAULT '{}'::uuid[] NOT NULL,
    children_left integer DEFAULT 0 NOT NULL,
    failed integer DEFAULT 0 NOT NULL,
    tolerated integer,
    sealed boolean DEFAULT false NOT NULL,
    agent_id uuid,
    CONSTRAINT joins_children_left_check CHECK ((children_left >= 0)),
    CONSTRAINT somebody_waits CHECK ((num_nonnulls(workflow_id, agent_id) = 1))
)
WITH (fillfactor='50');

CREATE FUNCTION backbeat.add_children(p_workflow uuid, p_step text, p_from integer, p_name text, p_version integer, p_payloads jsonb[], p_tolerated integer, p_seal boolean) RETURNS SETOF backbeat.joins
    LANGUAGE plpgsql SECURITY DEFINER
    SET plan_cache_mode TO 'force_custom_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_workflow orchestrated_workflows; v_join joins;
    v_keys bytea[] := ARRAY(SELECT sha256(convert_to(concat_ws(':', 'child', p_workflow, n, p_step), 'UTF8')) FROM generate_series(p_from, p_from + cardinality(p_payloads) - 1) n);
    v_ids uuid[];
BEGIN
    SELECT * INTO v_workflow FROM orchestrated_workflows w WHERE w.id = p_workflow AND w.finished_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN RAISE EXCEPTION 'no workflow % is running', p_workflow USING ERRCODE = 'BB001'; END IF;
    PERFORM expect_wake(p_workflow);
    INSERT INTO joins (workflow_id, step, tolerated) VALUES (p_workflow, p_step, p_tolerated) ON CONFLICT DO NOTHING;
    SELECT * INTO v_join FROM joins j WHERE (j.workflow_id, j.step) = (p_workflow, p_step);
    IF cardinality(v_join.children) = p_from AND NOT v_join.sealed THEN
        UPDATE simple_tasks t SET parent_id = v_join.id FROM idempotency i WHERE i.tenant = v_workflow.tenant AND i.key = ANY (v_keys) AND t.id = i.task_id;
        SELECT array_agg(e.task_id ORDER BY e.ord) INTO v_ids
        FROM enqueue(p_name, p_version, p_payloads, v_keys, v_workflow.tenant, p_origin => v_workflow.origin_id, p_traceparent => v_workflow.traceparent, p_parent => v_join.id) e;
        UPDATE joins j SET sealed = p_seal, children = j.children || v_ids, children_left = j.children_left + (SELECT count(*) FROM simple_tasks t WHERE t.id = ANY (v_ids))
        WHERE j.id = v_join.id;
    END IF;
    RETURN QUERY SELECT * FROM joins j WHERE j.id = v_join.id;
END $$;

CREATE FUNCTION backbeat.add_feedback(p_rows jsonb) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    INSERT INTO feedback SELECT (jsonb_populate_recordset(NULL::feedback, p_rows)).* ON CONFLICT DO NOTHING RETURNING id $$;

CREATE FUNCTION backbeat.add_schedule(p_schedule jsonb) RETURNS bigint
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT need_tenant(p_schedule ->> 'tenant');
    WITH added AS (INSERT INTO schedules SELECT (jsonb_populate_record(NULL::schedules, p_schedule)).* RETURNING *)
    SELECT audit(session_user, 'schedule.added', a.name, to_jsonb(a)) FROM added a $$;

CREATE FUNCTION backbeat.admit(p_worker text, p_route text, p_limits double precision[], p_most integer, p_news jsonb, p_asks jsonb) RETURNS TABLE(n bigint, verdict text, wait double precision, charged double precision[])
    LANGUAGE plpgsql SECURITY DEFINER
    SET plan_cache_mode TO 'force_generic_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE v_rate llm_rate; v_now double precision; v_unit double precision[]; v_ask jsonb; v_known boolean; v_start double precision; v_block double precision;
    v_mine integer := p_news -> 'running'; v_others integer;
BEGIN
    INSERT INTO llm_rate (route) VALUES (p_route) ON CONFLICT DO NOTHING;
    SELECT * INTO v_rate FROM llm_rate r WHERE r.route = p_route FOR UPDATE;
    v_now := extract(epoch FROM clock());
    v_block := greatest(extract(epoch FROM v_rate.blocked_until) - v_now, 0);
    SELECT array_agg(coalesce(t.told, u.told) ORDER BY u.k), array_agg(v_rate.period * 1.07
        / coalesce(least(p_limits[u.k], coalesce(t.told, u.told)) * shrunk(v_rate), CASE u.k WHEN 1 THEN v_rate.pace * power(2, least((v_now - extract(epoch FROM v_rate.shrunk_at)) / v_rate.period, 50)) END) ORDER BY u.k)
    INTO v_rate.told, v_unit FROM unnest(v_rate.told) WITH ORDINALITY AS u(told, k)
    LEFT JOIN LATERAL (SELECT nullif((p_news -> 'told' ->> (u.k - 1)::integer)::double precision, 0) AS told) t ON true;
    v_rate.given := ARRAY(SELECT g - coalesce((p_news -> 'back' ->> (k - 1)::integer)::double precision * v_unit[k], 0) FROM unnest(v_rate.given) WITH ORDINALITY AS u(g, k) ORDER BY k);
    v_rate.share := 1::double precision || ARRAY(
        SELECT s + coalesce((1 - power(0.9, (p_news -> 'seen' ->> 0)::integer)) * ((p_news -> 'seen' ->> (k - 1)::integer)::double precision - s), 0)
        FROM unnest(v_rate.share[2:]) WITH ORDINALITY AS u(s, j) CROSS JOIN LATERAL (SELECT j + 1) AS p(k) ORDER BY k);
    SELECT coalesce(jsonb_object_agg(key, value), '{}'), coalesce(sum((value ->> 0)::integer), 0) INTO v_rate.running, v_others FROM jsonb_each(v_rate.running) WHERE key <> p_worker AND (value ->> 1)::double precision > v_now;

    FOR n, v_ask, v_known IN
        SELECT e.n, e.body, EXISTS (SELECT FROM model_calls c WHERE (c.owner, c.call_key, c.request_hash) = ((e.body ->> 'owner')::uuid, e.body ->> 'call_key', e.body ->> 'request_hash')
                AND c.status IN ('done', 'memo') AND c.response IS NOT NULL)
        FROM jsonb_array_elements(p_asks) WITH ORDINALITY AS e(body, n)
    LOOP
        charged := ARRAY[1, (v_ask -> 'input')::double precision * v_rate.share[2], (v_ask -> 'output')::double precision * v_rate.share[3]];
        -- A clock may run ahead by a sixtieth of the period, for a burst; a call that is larger than that waits until it does not.
        SELECT greatest(v_now + v_block, max(x.given - greatest(v_rate.period / 60 - x.unit * x.amount, 0))) INTO v_start
        FROM unnest(v_rate.given, v_unit, charged) AS x(given, unit, amount) WHERE x.unit IS NOT NULL;
        wait := v_start - v_now;
        verdict := CASE WHEN v_known THEN 'memo' WHEN v_block > (v_ask -> 'patience')::double precision THEN 'blocked'
            WHEN wait > (v_ask -> 'patience')::double precision THEN 'late' WHEN v_mine + v_others >= p_most THEN 'full' ELSE 'go' END;
        IF verdict = 'go' THEN
            v_mine := v_mine + 1;
            v_rate.given := ARRAY(SELECT CASE WHEN x.unit IS NULL THEN x.given ELSE greatest(x.given, v_start) + x.unit * x.amount END
                FROM unnest(v_rate.given, v_unit, charged) WITH ORDINALITY AS x(given, unit, amount, k) ORDER BY x.k);
        END IF;
        RETURN NEXT;
    END LOOP;
    UPDATE llm_rate r SET given = v_rate.given, told = v_rate.told, share = v_rate.share, running = v_rate.running
        || CASE WHEN v_mine > 0 THEN jsonb_build_object(p_worker, jsonb_build_array(v_mine, v_now + 15)) ELSE '{}' END
    WHERE r.route = p_route;
END $$;

CREATE FUNCTION backbeat.after_time(p_tenant text, p_policy jsonb, p_from timestamp with time zone, p_seconds double precision) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT p_from + make_interval(secs => p_seconds) WHERE NOT p_policy ? 'calendar'
    UNION ALL (
    SELECT s.closes - make_interval(secs => s.worked - p_seconds) FROM (
        SELECT h.closes, sum(extract(epoch FROM h.closes - greatest(h.opens, p_from))) OVER (ORDER BY h.closes)::double precision AS worked
        FROM calendars c, LATERAL generate_series(-1, 2000) AS n, LATERAL (SELECT (p_from AT TIME ZONE c.time_zone)::date + n) AS d(day),
            LATERAL (SELECT (d.day + c.opens) AT TIME ZONE c.time_zone, (d.day + c.closes) AT TIME ZONE c.time_zone) AS h(opens, closes)
        WHERE (c.tenant, c.name) = (p_tenant, p_policy ->> 'calendar')
          AND extract(isodow FROM d.day)::integer = ANY (c.days) AND d.day <> ALL (c.holidays) AND h.closes > p_from) AS s
    WHERE s.worked >= p_seconds ORDER BY s.closes LIMIT 1) $$;

CREATE FUNCTION backbeat.append_only() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TABLE backbeat.model_calls (
    owner uuid NOT NULL,
    call_key text NOT NULL,
    seq smallint NOT NULL,
    owner_kind text NOT NULL,
    status text NOT NULL,
    request_hash text NOT NULL,
    lease bigint,
    tenant text NOT NULL,
    workflow text NOT NULL,
    version integer NOT NULL,
    day date NOT NULL,
    route text NOT NULL,
    tier text NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    reserved_usd numeric,
    reserved_tokens bigint NOT NULL,
    likely_usd numeric,
    likely_tokens bigint NOT NULL,
    charged bigint[] NOT NULL,
    block bigint,
    price_version text NOT NULL,
    cost_usd numeric,
    uncached integer,
    cache_read integer,
    cache_write integer,
    output integer,
    reasoning integer,
    request jsonb,
    batch text,
    response jsonb,
    valid boolean,
    stop text,
    model_answered text,
    response_id text,
    error_class text,
    error text,
    opened_at timestamp with time zone NOT NULL,
    closed_at timestamp with time zone,
    prefix text,
    cache text,
    CONSTRAINT closed_says_when CHECK (((status = 'open'::text) = (closed_at IS NULL))),
    CONSTRAINT done_says_usage CHECK (((status <> 'done'::text) OR ((uncached IS NOT NULL) AND (output IS NOT NULL)))),
    CONSTRAINT model_calls_call_key_check CHECK ((call_key <> ''::text)),
    CONSTRAINT model_calls_cost_usd_check CHECK ((cost_usd >= (0)::numeric)),
    CONSTRAINT model_calls_likely_tokens_check CHECK ((likely_tokens >= 0)),
    CONSTRAINT model_calls_likely_usd_check CHECK ((likely_usd >= (0)::numeric)),
    CONSTRAINT model_calls_owner_kind_check CHECK ((owner_kind = ANY (ARRAY['task'::text, 'workflow'::text]))),
    CONSTRAINT model_calls_reserved_tokens_check CHECK ((reserved_tokens >= 0)),
    CONSTRAINT model_calls_reserved_usd_check CHECK ((reserved_usd >= (0)::numeric)),
    CONSTRAINT model_calls_seq_check CHECK ((seq > 0)),
    CONSTRAINT model_calls_status_check CHECK ((status = ANY (ARRAY['open'::text, 'done'::text, 'lost'::text, 'refused'::text, 'memo'::text])))
)
WITH (autovacuum_vacuum_scale_factor='0.02');

CREATE FUNCTION backbeat.asked(p_calls jsonb) RETURNS TABLE(n bigint, call backbeat.model_calls, payable boolean, seq smallint, response jsonb)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT e.n, jsonb_populate_record(NULL::model_calls, e.body || jsonb_build_object('owner_kind', coalesce(t.kind, 'task'), 'tenant', t.tenant, 'workflow', t.workflow,
               'version', t.version, 'day', utc_day(backbeat.now()), 'opened_at', clock())), t.id IS NOT NULL AND m.seq IS NULL, m.seq, m.response
    FROM jsonb_array_elements(p_calls) WITH ORDINALITY AS e(body, n)
    LEFT JOIN LATERAL (
        SELECT 'task' AS kind, s.id, s.tenant, s.workflow, s.version FROM simple_tasks s
        WHERE s.id = (e.body ->> 'owner')::uuid AND s.lease = (e.body ->> 'lease')::bigint AND s.status = 'running'
        UNION ALL SELECT 'workflow', w.id, w.tenant, w.workflow, w.version FROM orchestrated_workflows w
        WHERE w.id = (e.body ->> 'owner')::uuid AND e.body ->> 'lease' IS NULL AND w.finished_at IS NULL) t ON true
    LEFT JOIN LATERAL (
        SELECT c.seq, c.response FROM model_calls c
        WHERE c.owner = t.id AND c.call_key = e.body ->> 'call_key' AND c.status IN ('done', 'memo') AND c.request_hash = e.body ->> 'request_hash' AND c.response IS NOT NULL
        ORDER BY c.seq DESC LIMIT 1) m ON true;
END $$;

CREATE FUNCTION backbeat.audit(p_actor text, p_action text, p_subject text, p_detail jsonb) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_prev audit_head; v_at timestamptz; v_hash bytea;
BEGIN
    SELECT * INTO v_prev FROM audit_head FOR UPDATE;
    v_at := clock();
    v_hash := audit_hash(v_prev.hash, v_prev.id + 1, v_at, p_actor, p_action, p_subject, p_detail);
    INSERT INTO audit_log VALUES (v_prev.id + 1, v_at, p_actor, p_action, p_subject, p_detail, v_prev.hash, v_hash);
    UPDATE audit_head SET id = v_prev.id + 1, hash = v_hash;
    RETURN v_prev.id + 1;
END $$;

CREATE FUNCTION backbeat.audit_hash(p_prev bytea, p_id bigint, p_at timestamp with time zone, p_actor text, p_action text, p_subject text, p_detail jsonb) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN sha256((p_prev || convert_to((jsonb_build_array(p_id, (floor((EXTRACT(epoch FROM p_at) * (1000000)::numeric)))::bigint, p_actor, p_action, p_subject, p_detail))::text, 'UTF8'::name)));

CREATE FUNCTION backbeat.begin_effect(p_key text, p_owner_kind text, p_owner uuid, p_lease bigint, p_kind text, p_request jsonb, p_request_hash text, p_origin uuid, p_traceparent text, p_approval uuid, p_fire_seconds double precision) RETURNS TABLE(verdict text, token bigint, outcome jsonb, wait_seconds double precision, detail text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE v_token bigint := nextval('leases'); v_effect side_effects; v_mark text; v_lost boolean := may_be_lost(p_key, p_owner);
BEGIN
    IF p_owner_kind = 'task' THEN
        PERFORM FROM simple_tasks t WHERE t.id = p_owner AND t.lease = p_lease AND t.status = 'running' FOR KEY SHARE;
        IF NOT FOUND THEN verdict := 'fenced'; RETURN NEXT; RETURN; END IF;
    END IF;
    SELECT * INTO v_effect FROM side_effects e WHERE e.key = p_key FOR UPDATE;
    IF NOT FOUND OR v_effect.status = 'intended' AND v_effect.fire_until IS NULL AND v_effect.request_hash = p_request_hash THEN
        RETURN QUERY SELECT 'stopped', NULL::bigint, NULL::jsonb, NULL::double precision, s.reason FROM switches s ORDER BY s.name LIMIT 1;
        IF FOUND THEN RETURN; END IF;
        IF p_approval IS NOT NULL AND NOT require_approved(p_approval, p_request_hash, p_owner) OR p_approval IS NULL AND p_owner_kind = 'workflow' AND NOT EXISTS (
            SELECT FROM orchestrated_workflows w WHERE w.id = p_owner AND w.workflow <> 'approve_effect' AND w.finished_at IS NULL) THEN
            verdict := 'refused'; RETURN NEXT; RETURN;
        END IF;
        INSERT INTO side_effects AS e (
            key, mark, kind, status, owner_kind, owner, origin_id, approval_id, request, request_hash, token, fires, fire_until, traceparent, intended_at)
        SELECT p_key, left(encode(sha256(uuid_send(l.secret) || convert_to(p_key, 'UTF8')), 'hex'), 32), p_kind, CASE WHEN v_lost THEN 'unknown' ELSE 'intended' END,
               p_owner_kind, p_owner, p_origin, p_approval, p_request, p_request_hash, v_token, (p_fire_seconds IS NOT NULL AND NOT v_lost)::integer,
               clock() + make_interval(secs => coalesce(p_fire_seconds, CASE WHEN v_lost THEN 0 END)), p_traceparent, clock() FROM ledger l
        ON CONFLICT (key) DO UPDATE SET token = v_token, fire_until = excluded.fire_until, fires = e.fires + excluded.fires, error = NULL
        WHERE e.status = 'intended' AND e.fire_until IS NULL AND e.request_hash = excluded.request_hash
        RETURNING e.mark INTO v_mark;
        IF FOUND THEN
            verdict := CASE WHEN p_fire_seconds IS NULL THEN 'noted' WHEN v_lost THEN 'look' ELSE 'fire' END;
            RETURN QUERY SELECT verdict, v_token, NULL::jsonb, NULL::double precision, v_mark; RETURN;
        END IF;
        SELECT * INTO v_effect FROM side_effects e WHERE e.key = p_key FOR UPDATE;
    END IF;

    verdict := CASE WHEN v_effect.request_hash <> p_request_hash THEN 'conflict' WHEN v_effect.status = 'done' THEN 'done' WHEN v_effect.fire_until > clock() THEN 'wait'
        WHEN p_fire_seconds IS NULL THEN 'noted' ELSE 'look' END;
    IF verdict = 'look' THEN
        -- A short window for the look itself, so that two who look do not both fire.
        UPDATE side_effects e SET status = 'unknown', token = v_token, fire_until = clock() + make_interval(secs => p_fire_seconds) WHERE e.key = p_key;
    END IF;
    RETURN QUERY SELECT verdict, CASE verdict WHEN 'look' THEN v_token END, CASE verdict WHEN 'done' THEN v_effect.outcome END,
        CASE verdict WHEN 'wait' THEN extract(epoch FROM v_effect.fire_until - clock())::double precision END,
        CASE verdict WHEN 'conflict' THEN v_effect.request_hash WHEN 'noted' THEN v_effect.mark WHEN 'look' THEN v_effect.mark END;
END $$;

CREATE TABLE backbeat.agents (
    id uuid NOT NULL,
    tenant text NOT NULL,
    workflow text NOT NULL,
    version integer NOT NULL,
    input jsonb NOT NULL,
    steps integer DEFAULT 0 NOT NULL,
    result jsonb,
    status text NOT NULL,
    max_steps integer,
    task_id uuid NOT NULL,
    parent_id uuid,
    forked_from uuid,
    error text,
    created_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT agents_max_steps_check CHECK ((max_steps > 0)),
    CONSTRAINT agents_status_check CHECK ((status = ANY (ARRAY['thinking'::text, 'waiting'::text, 'done'::text, 'escalated'::text, 'dead'::text, 'cancelled'::text, 'expired'::text]))),
    CONSTRAINT ended_says_when CHECK (((status = ANY (ARRAY['thinking'::text, 'waiting'::text])) = (finished_at IS NULL)))
);

CREATE FUNCTION backbeat.begin_step(p_task uuid, p_lease bigint) RETURNS SETOF backbeat.agents
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT FROM simple_tasks t JOIN agents a ON a.id = t.agent_id JOIN joins j ON j.id = a.task_id CROSS JOIN cancel_below(j.children, 'too many of its siblings failed')
    WHERE (t.id, t.lease, t.status) = (p_task, p_lease, 'running') AND j.children_left > 0;
    UPDATE simple_tasks t SET agent_id = t.id WHERE (t.id, t.lease, t.status) = (p_task, p_lease, 'running') AND t.agent_id IS NULL;
    INSERT INTO agents (id, tenant, workflow, version, status, input, task_id, parent_id, created_at)
    SELECT t.agent_id, t.tenant, t.workflow, t.version, 'thinking', t.payload, t.id, t.parent_id, clock() FROM simple_tasks t
    WHERE (t.id, t.lease, t.status) = (p_task, p_lease, 'running')
    ON CONFLICT (id) DO UPDATE SET status = 'thinking', parent_id = excluded.parent_id, error = NULL, finished_at = NULL RETURNING agents.*; $$;

CREATE FUNCTION backbeat.block_route(p_route text, p_seconds double precision, p_why text, p_shrink boolean, OUT first boolean) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO llm_rate AS r (route) VALUES (p_route) ON CONFLICT (route) DO UPDATE SET route = p_route RETURNING (r.blocked_until > clock() AND r.blocked_by = p_why) IS NOT TRUE INTO first;
    UPDATE llm_rate r SET blocked_by = p_why, blocked_until = CASE WHEN p_seconds >= 0 THEN greatest(r.blocked_until, clock() + make_interval(secs => p_seconds)) END WHERE r.route = p_route;
    UPDATE llm_rate r SET shrink = greatest(0.05, shrunk(r) * 0.7), shrunk_at = clock(), pace = (
        SELECT coalesce(greatest(6, 0.7 * count(*) * r.period / extract(epoch FROM clock() - min(w.since))), 6)
        FROM (SELECT greatest(r.shrunk_at, clock() - make_interval(secs => r.period)) AS since) w JOIN model_calls c
            ON c.route = p_route AND c.opened_at > w.since AND (c.status = 'open' OR c.status = 'done' AND c.closed_at > w.since))
    WHERE p_shrink AND r.route = p_route AND r.shrunk_at < clock() - interval '2 seconds';
    IF p_seconds IS NULL THEN PERFORM release_held('route', p_route), audit(session_user, 'route.released', p_route, '{}'); END IF;
END $$;

CREATE FUNCTION backbeat.book(p_call backbeat.model_calls, p_status text, p_cost numeric DEFAULT 0, p_tokens bigint DEFAULT 0) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_open integer := (p_status = 'open')::integer - (p_call.status IS NOT DISTINCT FROM 'open')::integer;
    v_lost integer := (p_status = 'lost')::integer - (p_call.status IS NOT DISTINCT FROM 'lost')::integer;
    v_ends integer := (p_status = 'done')::integer;
    v_usd numeric := coalesce(p_call.reserved_usd, 0);
    v_level integer := 4;
BEGIN
    IF p_call.block IS NOT NULL THEN
        UPDATE budget_blocks k
        SET left_usd = k.left_usd - v_usd * (v_open + v_lost) - coalesce(p_cost, 0) * v_ends,
            left_tokens = k.left_tokens - p_call.reserved_tokens * (v_open + v_lost) - p_tokens * v_ends
        WHERE k.id = p_call.block;
        v_level := CASE WHEN FOUND THEN 2 ELSE 4 END;
    END IF;
    UPDATE budgets b
    SET reserved_usd = b.reserved_usd + CASE WHEN b.soft THEN coalesce(p_call.likely_usd, 0) ELSE v_usd END * v_open,
        reserved_tokens = b.reserved_tokens + CASE WHEN b.soft THEN p_call.likely_tokens ELSE p_call.reserved_tokens END * v_open,
        presumed_usd = b.presumed_usd + v_usd * v_lost, presumed_tokens = b.presumed_tokens + p_call.reserved_tokens * v_lost,
        spent_usd = b.spent_usd + coalesce(p_cost, 0) * v_ends, spent_tokens = b.spent_tokens + p_tokens * v_ends,
        overrun_usd = b.overrun_usd + greatest(p_cost - p_call.reserved_usd, 0) * v_ends, calls = b.calls + v_ends,
        unpriced_calls = b.unpriced_calls + CASE WHEN p_cost IS NULL THEN v_ends ELSE 0 END,
        rate = b.rate * exp(greatest(least(extract(epoch FROM b.touched_at - clock())::double precision / 10, 0), -50)) + greatest(v_open, 0) / 10.0, touched_at = clock()
    WHERE b.id = ANY (p_call.charged) AND b.level <= v_level;
END $$;

CREATE FUNCTION backbeat.cancel_agent(p_agent uuid, p_reason text, p_by text) RETURNS SETOF integer
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT c.ended FROM (SELECT cancel_below(ARRAY[p_agent], format('%s (by %s)', p_reason, p_by)) AS ended OFFSET 0) c
    WHERE c.ended > 0 AND audit(session_user, 'agent.cancelled', p_agent::text, jsonb_build_object('by', p_by, 'reason', p_reason)) > 0 $$;

CREATE FUNCTION backbeat.cancel_below(p_ids uuid[], p_error text) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_below uuid[]; v_live uuid[]; v_before uuid[];
BEGIN
    LOOP
        v_below := ARRAY(WITH RECURSIVE below AS (SELECT unnest(p_ids) AS id UNION
            SELECT unnest(j.children) FROM below b JOIN agents a ON a.id = b.id JOIN joins j ON j.id = a.task_id WHERE j.children_left > 0) SELECT id FROM below);
        v_live := ARRAY(SELECT t.id FROM simple_tasks t WHERE t.id = ANY (v_below) OR t.agent_id = ANY (v_below) ORDER BY t.id FOR UPDATE);
        EXIT WHEN v_live <@ v_before;
        v_before := v_live;
    END LOOP;
    PERFORM next_step(a.id) FROM agents a WHERE a.id = ANY (v_below) AND a.status = 'waiting';
    RETURN (SELECT count(*) FROM finish(ARRAY(SELECT t.id FROM simple_tasks t WHERE t.id = ANY (v_below) OR t.agent_id = ANY (v_below)), 'cancelled', 'cancelled', p_error));
END $$;

CREATE FUNCTION backbeat.cancel_orphans(p_workflow uuid, p_limit integer DEFAULT 500) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET plan_cache_mode TO 'force_custom_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_tasks uuid[];
BEGIN
    PERFORM push_outbox(o.id, 'cancel') FROM (
        SELECT c.id FROM orchestrated_workflows c JOIN orchestrated_workflows w ON w.id = c.parent_workflow
        WHERE c.finished_at IS NULL AND w.finished_at IS NOT NULL AND c.parent_workflow = coalesce(p_workflow, c.parent_workflow)
          AND NOT EXISTS (SELECT FROM temporal_outbox o WHERE o.stream = c.id AND o.kind = 'cancel') ORDER BY c.id LIMIT p_limit FOR NO KEY UPDATE OF c SKIP LOCKED) o;
    v_tasks := ARRAY(
        SELECT t.id FROM joins j JOIN orchestrated_workflows w ON w.id = j.workflow_id JOIN simple_tasks t ON t.parent_id = j.id
        WHERE j.children_left > 0 AND j.workflow_id = coalesce(p_workflow, j.workflow_id) AND (w.finished_at IS NOT NULL OR j.failed > j.tolerated) ORDER BY 1 LIMIT p_limit);
    RETURN (SELECT count(*) FROM finish(v_tasks, 'cancelled', 'cancelled', 'what waited for it ended'));
END $$;

CREATE FUNCTION backbeat.cancel_task(p_task uuid, p_reason text) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT count(audit(session_user, 'task.cancelled', f.id::text, jsonb_build_object('reason', p_reason))) > 0
    FROM finish(ARRAY[p_task], 'cancelled', 'cancelled', p_reason) AS f(id) $$;

CREATE FUNCTION backbeat.cancel_workflow(p_workflow uuid, p_reason text) RETURNS SETOF bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH open AS (SELECT w.id FROM orchestrated_workflows w WHERE w.id = p_workflow AND w.finished_at IS NULL FOR NO KEY UPDATE)
    SELECT push_outbox(o.id, 'cancel') + audit(session_user, 'workflow.cancelled', o.id::text, jsonb_build_object('reason', p_reason)) FROM open o $$;

CREATE FUNCTION backbeat.canonical(p_value jsonb, p_depth integer DEFAULT 0) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET extra_float_digits TO '1'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE c_deepest CONSTANT integer := 100;
    v_number numeric;
BEGIN
    CASE jsonb_typeof(p_value)
    WHEN 'object', 'array' THEN
        IF p_depth >= c_deepest THEN RAISE EXCEPTION 'the payload has no canonical form: it is nested deeper than % levels', c_deepest USING ERRCODE = 'BB003'; END IF;
    WHEN 'number' THEN
        v_number := p_value::numeric;
        IF abs(v_number) >= 9007199254740991.5 THEN
            RAISE EXCEPTION 'the payload has no canonical form: the number % is not below 2^53', left(v_number::text, 40)
            USING ERRCODE = 'BB003', HINT = 'Write it as a string';
        ELSIF abs(v_number) <= 2.4703282292062327e-324 THEN
            RETURN '0';
        ELSIF abs(v_number) < 1e-6 AND abs(v_number::double precision) < 1e-6 THEN
            RETURN replace(v_number::double precision::text, 'e-0', 'e-');
        END IF;
        RETURN trim_scale(v_number::double precision::text::numeric);
    ELSE
        RETURN p_value;
    END CASE;
    IF jsonb_typeof(p_value) = 'array' THEN
        RETURN '[' || coalesce((
            SELECT string_agg(canonical(e.value, p_depth + 1), ',' ORDER BY e.n) FROM jsonb_array_elements(p_value) WITH ORDINALITY AS e(value, n)), '') || ']';
    END IF;
    -- Keys sort by UTF-16 units: U+E000 to U+FFFF come after what is beyond them, so here they get the last character before them.
    RETURN '{' || coalesce((
        SELECT string_agg(to_jsonb(m.key)::text || ':' ||
            CASE WHEN jsonb_typeof(m.value) = 'string' THEN m.value::text ELSE canonical(m.value, p_depth + 1) END, ',' ORDER BY
            CASE WHEN octet_length(m.key) = length(m.key) THEN m.key ELSE regexp_replace(
                replace(m.key, U&'\+10FFFF', U&'\+10FFFF\0001'), U&'([\E000-\FFFF])', U&'\+10FFFF\\1', 'g') END COLLATE "C")
        FROM jsonb_each(p_value) AS m), '') || '}';
END $$;

CREATE FUNCTION backbeat.cause_stands(p_reason text, p_key text, p_since timestamp with time zone) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_stands boolean;
BEGIN
    IF p_reason IN ('budget', 'price') THEN
        SELECT c.set_at <= p_since INTO v_stands FROM budget_caps c
        WHERE c.scope || '/' || c.key = regexp_replace(p_key, '^.* under ', '') FOR SHARE;
    ELSIF p_reason = 'effect' THEN
        SELECT e.status = 'unknown' INTO v_stands FROM side_effects e WHERE e.key = p_key FOR SHARE;
    ELSIF p_reason = 'batch' THEN
        SELECT coalesce(bool_or(true), false) INTO v_stands FROM (SELECT FROM model_calls c WHERE c.owner = p_key::uuid AND c.status = 'open' AND c.batch IS NOT NULL FOR SHARE) c;
    END IF;
    RETURN coalesce(v_stands, true);
END $$;

CREATE TABLE backbeat.orchestrated_workflows (
    id uuid NOT NULL,
    workflow text NOT NULL,
    version integer NOT NULL,
    tenant text NOT NULL,
    input jsonb NOT NULL,
    status text DEFAULT 'starting'::text NOT NULL,
    generation smallint DEFAULT 1 NOT NULL,
    temporal_id text GENERATED ALWAYS AS ((((workflow || '/'::text) || id) ||
CASE
    WHEN (generation = 1) THEN ''::text
    ELSE ('~r'::text || generation)
END)) STORED NOT NULL,
    run_id text,
    state_seq integer DEFAULT 0 NOT NULL,
    waiting_for text,
    deadline timestamp with time zone,
    result jsonb,
    error text,
    parent_task uuid,
    origin_id uuid NOT NULL,
    traceparent text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    checked_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    parent_workflow uuid,
    parent_step text,
    start_key text,
    CONSTRAINT ended_says_when CHECK (((status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT failed_says_why CHECK (((status = 'failed'::text) = (error IS NOT NULL))),
    CONSTRAINT only_completed_has_a_result CHECK (((status = 'completed'::text) = (result IS NOT NULL))),
    CONSTRAINT orchestrated_workflows_generation_check CHECK ((generation > 0)),
    CONSTRAINT orchestrated_workflows_input_check CHECK ((jsonb_typeof(input) = 'object'::text)),
    CONSTRAINT orchestrated_workflows_status_check CHECK ((status = ANY (ARRAY['starting'::text, 'running'::text, 'waiting'::text, 'completed'::text, 'failed'::text, 'cancelled'::text]))),
    CONSTRAINT orchestrated_workflows_tenant_check CHECK ((tenant <> ''::text)),
    CONSTRAINT orchestrated_workflows_traceparent_check CHECK ((traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'::text)),
    CONSTRAINT orchestrated_workflows_version_check CHECK ((version > 0)),
    CONSTRAINT orchestrated_workflows_workflow_check CHECK ((workflow ~ '^[a-z][a-z0-9_]{0,62}$'::text)),
    CONSTRAINT waiting_says_for_what CHECK (((status = 'waiting'::text) = (waiting_for IS NOT NULL)))
)
WITH (fillfactor='70');

CREATE FUNCTION backbeat.child_workflow(p_parent uuid, p_step text, p_workflow text, p_input jsonb) RETURNS SETOF backbeat.orchestrated_workflows
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_parent orchestrated_workflows; v_id uuid;
BEGIN
    SELECT * INTO v_parent FROM orchestrated_workflows w WHERE w.id = p_parent AND w.finished_at IS NULL FOR NO KEY UPDATE;
    IF FOUND AND NOT EXISTS (SELECT FROM orchestrated_workflows c WHERE (c.parent_workflow, c.parent_step) = (p_parent, p_step)) THEN
        PERFORM expect_wake(p_parent);
        v_id := start_workflow(p_workflow, 1, v_parent.tenant, p_input, v_parent.origin_id, NULL, v_parent.traceparent);
        UPDATE orchestrated_workflows SET parent_workflow = p_parent, parent_step = p_step WHERE id = v_id;
    END IF;
    RETURN QUERY SELECT * FROM orchestrated_workflows c WHERE (c.parent_workflow, c.parent_step) = (p_parent, p_step);
END $$;

CREATE FUNCTION backbeat.children_ended() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    UPDATE agents SET status = 'thinking' WHERE (id, task_id, status) = (NEW.agent_id, NEW.id, 'waiting');
    PERFORM next_step(NEW.agent_id) WHERE FOUND;
    RETURN NULL;
END $$;

CREATE TABLE backbeat.simple_tasks (
    id uuid NOT NULL,
    tenant text NOT NULL,
    workflow text NOT NULL,
    version integer NOT NULL,
    tier text NOT NULL,
    class text NOT NULL,
    payload jsonb NOT NULL,
    status text NOT NULL,
    rank smallint DEFAULT 1 NOT NULL,
    hold_reason text,
    hold_key text,
    run_after timestamp with time zone,
    expires_at timestamp with time zone,
    source_at timestamp with time zone,
    vstart double precision,
    estimate double precision,
    attempts smallint DEFAULT 0 NOT NULL,
    max_attempts smallint NOT NULL,
    releases smallint DEFAULT 0 NOT NULL,
    history jsonb DEFAULT '[]'::jsonb NOT NULL,
    alone boolean DEFAULT false NOT NULL,
    lease bigint,
    lease_until timestamp with time zone,
    worker text,
    started_at timestamp with time zone,
    agent_id uuid,
    parent_id uuid,
    origin_id uuid NOT NULL,
    first_id uuid,
    idempotency_key bytea,
    traceparent text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT delayed_says_when CHECK (((status <> 'delayed'::text) OR (run_after IS NOT NULL))),
    CONSTRAINT held_says_why CHECK (((status = 'held'::text) = ((hold_reason IS NOT NULL) AND (hold_key IS NOT NULL)))),
    CONSTRAINT ready_has_a_place CHECK (((status = ANY (ARRAY['ready'::text, 'running'::text])) = ((vstart IS NOT NULL) AND (estimate IS NOT NULL)))),
    CONSTRAINT running_has_a_lease CHECK ((((status = 'running'::text) = ((lease_until IS NOT NULL) AND (worker IS NOT NULL) AND (started_at IS NOT NULL))) AND ((status <> 'running'::text) OR (lease IS NOT NULL)))),
    CONSTRAINT simple_tasks_attempts_check CHECK ((attempts >= 0)),
    CONSTRAINT simple_tasks_class_check CHECK ((class = ANY (ARRAY['urgent'::text, 'high'::text, 'normal'::text, 'low'::text]))),
    CONSTRAINT simple_tasks_hold_reason_check CHECK ((hold_reason = ANY (ARRAY['budget'::text, 'version'::text, 'route'::text, 'effect'::text, 'price'::text, 'paused'::text, 'batch'::text]))),
    CONSTRAINT simple_tasks_rank_check CHECK ((rank = ANY (ARRAY[0, 1]))),
    CONSTRAINT simple_tasks_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'ready'::text, 'running'::text, 'delayed'::text, 'held'::text]))),
    CONSTRAINT simple_tasks_traceparent_check CHECK ((length(traceparent) = 55))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_cost_delay='0');

CREATE FUNCTION backbeat.claim(p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision, p_idle boolean DEFAULT true) RETURNS SETOF backbeat.simple_tasks
    LANGUAGE plpgsql SECURITY DEFINER
    SET plan_cache_mode TO 'force_generic_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE c_urgent_share CONSTANT double precision := 0.25;
    v_tiers text[]; v_shut text[]; v_taken uuid[] := '{}'; v_flows tid[]; v_rest integer; v_now timestamptz;
BEGIN
    IF p_limit <= 0 OR EXISTS (SELECT FROM switches s WHERE s.name = 'all') THEN RETURN; END IF;
    SELECT array_agg(v.tier) INTO v_tiers FROM virtual_time v WHERE v.tier NOT LIKE 'bulk/%';
    SELECT coalesce(array_agg(p.key) FILTER (WHERE p.scope = 'tenant'), '{}') INTO v_shut FROM pauses p;
    p_loaded := startable(p_loaded);
    IF p_idle THEN
        SELECT coalesce(array_agg(l.id), '{}') INTO v_taken FROM (
            SELECT t.id FROM simple_tasks t
            WHERE t.status = 'ready' AND t.alone AND t.tier = ANY (v_tiers) AND t.workflow || '@' || t.version = ANY (p_loaded) AND t.tenant <> ALL (v_shut)
            ORDER BY t.id LIMIT 1 FOR UPDATE SKIP LOCKED) l;
    END IF;
    IF v_taken = '{}' THEN
        SELECT coalesce(array_agg(l.id), '{}') INTO v_taken FROM (
            SELECT t.id FROM simple_tasks t
            WHERE t.status = 'ready' AND t.class = 'urgent' AND NOT t.alone AND t.tier = ANY (v_tiers)
                AND t.workflow || '@' || t.version = ANY (p_loaded) AND t.tenant <> ALL (v_shut)
            ORDER BY t.vstart, t.id LIMIT floor(p_limit * c_urgent_share + random()) FOR UPDATE SKIP LOCKED) l;
        -- First a share of each tier; then what is left, of any, and a row that came late from behind the floor.
        FOR v_try IN 1..2 LOOP
            v_rest := p_limit - cardinality(v_taken);
            EXIT WHEN v_rest <= 0;
            SELECT v_taken || coalesce(array_agg(l.id), '{}') INTO v_taken FROM (
                SELECT r.id FROM (
                    SELECT v.tier, v.floor * (2 - v_try) AS floor, CASE v_try WHEN 1 THEN ceil(v_rest / count(*) OVER ())::integer ELSE v_rest END AS share
                    FROM virtual_time v WHERE v.tier = ANY (v_tiers) ORDER BY v.tier) w CROSS JOIN LATERAL (
                    -- Of "= ANY" the planner would think that few rows pass, and sort them all; of IS NOT NULL, that most do.
                    SELECT t.id FROM simple_tasks t
                    WHERE t.status = 'ready' AND t.tier = w.tier AND t.vstart > w.floor AND NOT t.alone AND t.id <> ALL (v_taken)
                        AND array_position(p_loaded, t.workflow || '@' || t.version) IS NOT NULL AND t.tenant <> ALL (v_shut)
                    ORDER BY t.vstart, t.id LIMIT w.share FOR UPDATE SKIP LOCKED) r LIMIT v_rest) l;
        END LOOP;
    END IF;
    IF v_taken = '{}' THEN RETURN; END IF;
    -- Where they are: a reader's old snapshot keeps every version of a flow, and looking it up again would walk over them again.
    v_flows := ARRAY(
        SELECT f.ctid FROM flows f WHERE (f.tenant, f.tier, f.class) IN (SELECT t.tenant, t.tier, t.class FROM simple_tasks t WHERE t.id = ANY (v_taken))
        ORDER BY f.tenant, f.tier, f.class FOR UPDATE);
    PERFORM FROM virtual_time v WHERE v.tier = ANY (v_tiers) ORDER BY v.tier FOR UPDATE;
    v_now := clock();
    RETURN QUERY
    WITH started AS (
        UPDATE simple_tasks t
        SET status = 'running', lease = nextval('leases'), lease_until = v_now + make_interval(secs => p_lease_seconds),
            worker = p_worker, started_at = v_now, attempts = t.attempts + 1
        WHERE t.id = ANY (v_taken) RETURNING t.*
    ), by_flow AS (
        SELECT s.tenant, s.tier, s.class, count(*) AS n FROM started s GROUP BY 1, 2, 3
    ), told AS (
        UPDATE flows f SET ready = f.ready - c.n, running = f.running + c.n FROM by_flow c
        WHERE f.ctid = ANY (v_flows) AND (f.tenant, f.tier, f.class) = (c.tenant, c.tier, c.class)
    ), moved AS (
        UPDATE virtual_time v SET v = c.v FROM (
            SELECT s.tier, max(s.vstart - s.estimate / (class_weight(s.class) * (SELECT n.weight FROM tenants n WHERE n.id = s.tenant))) AS v FROM started s GROUP BY 1) c
        WHERE v.tier = c.tier AND v.v < c.v
    )
    SELECT * FROM started s ORDER BY s.vstart, s.id;
END $$;

CREATE FUNCTION backbeat.claim_bulk(p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision, p_idle boolean DEFAULT true, p_patient boolean DEFAULT true) RETURNS SETOF backbeat.simple_tasks
    LANGUAGE plpgsql SECURITY DEFINER
    SET plan_cache_mode TO 'force_custom_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_urgent boolean := random() < 0.25;
    v_taken uuid[]; v_now timestamptz;
BEGIN
    IF p_limit <= 0 OR EXISTS (SELECT FROM switches s WHERE s.name = 'all') THEN RETURN; END IF;
    p_loaded := startable(p_loaded);
    IF p_idle THEN
        SELECT array_agg(l.id) INTO v_taken FROM (
            SELECT t.id FROM simple_tasks t JOIN flow_rooms f USING (tenant, tier, class)
            WHERE t.alone AND t.status = 'pending' AND t.tier LIKE 'bulk/%' AND t.workflow || '@' || t.version = ANY (p_loaded) AND f.room > 0
            ORDER BY t.id LIMIT 1 FOR UPDATE OF t SKIP LOCKED) l;
    END IF;
    IF v_taken IS NULL THEN
        SELECT array_agg(c.id) INTO v_taken FROM (
            SELECT l.id FROM (
                SELECT f.* FROM flow_rooms f JOIN virtual_time v ON v.tier = f.tier
                WHERE f.tier LIKE 'bulk/%' AND f.room > 0
                  AND EXISTS (
                      SELECT FROM simple_tasks t WHERE t.status = 'pending' AND (t.tenant, t.tier, t.class) = (f.tenant, f.tier, f.class)
                      ORDER BY t.rank, t.id LIMIT 1 OFFSET 0)
                ORDER BY (v_urgent AND f.class = 'urgent') DESC, greatest(f.last_v, v.v), f.tenant LIMIT 64) f
            CROSS JOIN LATERAL (
                SELECT t.id FROM simple_tasks t
                WHERE t.status = 'pending' AND t.tenant = f.tenant AND t.tier = f.tier AND t.class = f.class AND NOT t.alone
                  AND t.workflow || '@' || t.version = ANY (p_loaded)
                ORDER BY t.rank, t.id LIMIT least(f.room, p_limit) FOR UPDATE SKIP LOCKED) l
            LIMIT p_limit) c;
    END IF;
    IF p_patient THEN
        PERFORM lock_flows(v_taken);
    ELSE
        WITH free AS (
            SELECT f.tenant, f.tier, f.class FROM flows f JOIN tenants n ON n.id = f.tenant AND n.max_running IS NULL
            WHERE (f.tenant, f.tier, f.class) IN (SELECT t.tenant, t.tier, t.class FROM simple_tasks t WHERE t.id = ANY (v_taken))
            FOR UPDATE OF f SKIP LOCKED
        )
        SELECT array_agg(t.id) INTO v_taken FROM simple_tasks t JOIN free USING (tenant, tier, class) WHERE t.id = ANY (v_taken);
    END IF;
    IF v_taken IS NULL THEN RETURN; END IF;
    -- The room of a tenant with a cap is known only now; its rows of several flows share it.
    IF EXISTS (SELECT FROM tenants n WHERE n.max_running IS NOT NULL) THEN
        SELECT array_agg(p.id) INTO v_taken FROM (
            SELECT t.id, t.tenant, row_number() OVER (PARTITION BY t.tenant ORDER BY t.rank, t.id) AS place FROM simple_tasks t WHERE t.id = ANY (v_taken)) p
        JOIN tenants n ON n.id = p.tenant
        WHERE n.max_running IS NULL OR p.place <= n.max_running - (SELECT sum(g.ready + g.running) FROM flows g WHERE g.tenant = n.id);
        IF v_taken IS NULL THEN RETURN; END IF;
    END IF;
    PERFORM FROM virtual_time v WHERE v.tier IN (SELECT t.tier FROM simple_tasks t WHERE t.id = ANY (v_taken)) ORDER BY v.tier FOR UPDATE;
    v_now := clock();
    RETURN QUERY
    WITH begun AS MATERIALIZED (
        SELECT f.tenant, f.tier, f.class, greatest(f.last_v, v.v) AS at_v, n.weight * class_weight(f.class) AS weight
        FROM flows f JOIN tenants n ON n.id = f.tenant JOIN virtual_time v ON v.tier = f.tier
        WHERE (f.tenant, f.tier, f.class) IN (SELECT t.tenant, t.tier, t.class FROM simple_tasks t WHERE t.id = ANY (v_taken))
    ), started AS (
        UPDATE simple_tasks t
        SET status = 'running', lease = nextval('leases'), lease_until = v_now + make_interval(secs => p_lease_seconds), worker = p_worker,
            started_at = v_now, attempts = t.attempts + 1, vstart = b.at_v,
            estimate = coalesce((SELECT e.cost FROM estimates e WHERE (e.workflow, e.version) = (t.workflow, t.version)), 1)
        FROM begun b WHERE (b.tenant, b.tier, b.class) = (t.tenant, t.tier, t.class) AND t.id = ANY (v_taken) RETURNING t.*
    ), by_flow AS (
        SELECT s.tenant, s.tier, s.class, count(*) AS n, sum(s.estimate) AS cost FROM started s GROUP BY 1, 2, 3
    ), told AS (
        UPDATE flows f SET running = f.running + c.n, last_v = b.at_v + c.cost / b.weight
        FROM by_flow c JOIN begun b USING (tenant, tier, class) WHERE (f.tenant, f.tier, f.class) = (c.tenant, c.tier, c.class)
    ), moved AS (
        UPDATE virtual_time v SET v = b.at_v FROM (SELECT g.tier, min(g.at_v) AS at_v FROM begun g GROUP BY 1) b WHERE v.tier = b.tier AND v.v < b.at_v
    )
    SELECT * FROM started s ORDER BY s.vstart, s.rank, s.id;
END $$;

CREATE FUNCTION backbeat.class_weight(p_class text) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE p_class WHEN 'urgent'::text THEN 4 WHEN 'high'::text THEN 4 WHEN 'normal'::text THEN 2 ELSE 1 END;

CREATE FUNCTION backbeat.close_calls(p_ends jsonb) RETURNS SETOF bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET plan_cache_mode TO 'force_generic_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_calls model_calls[]; v_places bigint[]; v_call model_calls;
BEGIN
    SELECT array_agg(l.c), array_agg(l.n) INTO v_calls, v_places FROM (
        SELECT c, e.n FROM jsonb_array_elements(p_ends) WITH ORDINALITY AS e(body, n)
        JOIN model_calls c ON (c.owner, c.call_key, c.seq) = ((e.body ->> 'owner')::uuid, e.body ->> 'call_key', (e.body ->> 'seq')::smallint)
        WHERE c.status IN ('open', 'lost') AND c.status <> e.body ->> 'status' ORDER BY c.owner, c.call_key, c.seq FOR UPDATE OF c) l;
    IF v_calls IS NULL THEN RETURN; END IF;
    PERFORM lock_budgets(v_calls);
    FOR i IN 1..cardinality(v_calls) LOOP
        v_call := jsonb_populate_record(v_calls[i], p_ends -> (v_places[i] - 1)::integer);
        PERFORM book(v_calls[i], v_call.status, v_call.cost_usd, coalesce(v_call.uncached + v_call.cache_read + v_call.cache_write + v_call.output, 0));
        UPDATE model_calls c
        SET status = v_call.status, closed_at = clock(), cost_usd = v_call.cost_usd, valid = v_call.valid, stop = v_call.stop, output = v_call.output,
            model_answered = v_call.model_answered, response_id = v_call.response_id, error_class = v_call.error_class, error = left(v_call.error, 2000),
            response = CASE WHEN EXISTS (SELECT FROM simple_tasks t WHERE t.id = c.owner) OR EXISTS (
                SELECT FROM orchestrated_workflows w WHERE w.id = c.owner AND w.finished_at IS NULL) THEN v_call.response END, uncached = v_call.uncached,
            cache_read = v_call.cache_read, cache_write = v_call.cache_write, reasoning = v_call.reasoning, request = NULL
        WHERE (c.owner, c.call_key, c.seq) = (v_call.owner, v_call.call_key, v_call.seq);
        IF v_call.cost_usd > v_call.reserved_usd THEN
            PERFORM audit('(worker)', 'budget.overrun', format('%s/%s#%s', v_call.owner, v_call.call_key, v_call.seq), jsonb_build_object(
                'route', v_call.route, 'model', v_call.model, 'reserved_usd', v_call.reserved_usd, 'cost_usd', v_call.cost_usd));
            INSERT INTO pauses (scope, key, reason, paused_by, paused_at) VALUES ('route', v_call.route, format('a call cost %s USD, %s were reserved',
                trim_scale(v_call.cost_usd), trim_scale(v_call.reserved_usd)), '(worker)', clock()) ON CONFLICT DO NOTHING;
        END IF;
    END LOOP;
    RETURN QUERY SELECT unnest(v_places);
END $$;

CREATE FUNCTION backbeat.close_if_pending(p_request uuid) RETURNS TABLE(state text, settled boolean, seconds_left double precision, closed_by text, closed_at timestamp with time zone, revision integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE v_request approval_requests; v_was approval_requests; v_stuck boolean; v_now timestamptz;
BEGIN
    PERFORM FROM orchestrated_workflows w WHERE w.id = (SELECT r.workflow_id FROM approval_requests r WHERE r.id = p_request) FOR NO KEY UPDATE;
    SELECT * INTO v_request FROM approval_requests r WHERE r.id = p_request FOR UPDATE;
    v_now := clock();
    IF v_request.state IN ('pending', 'changes') THEN
        v_was := extended(v_request, v_now);
        v_stuck := nobody_can(v_was, v_now);
        UPDATE approval_requests r
        SET stuck = v_stuck, escalated = (SELECT count(*) FROM unnest(r.escalate_at) AS a WHERE a <= v_now),
            remind_at = CASE WHEN r.remind_at <= v_now THEN next_reminder(r.tenant, r.policy, r.deadline, v_now) ELSE r.remind_at END
        WHERE r.id = p_request RETURNING * INTO v_request;
        IF v_now >= v_request.deadline THEN
            UPDATE approval_requests r
            SET closed_at = v_now, closed_by = '(deadline)', effect_after = v_now + make_interval(secs => coalesce((r.policy ->> 'effect_delay')::double precision, 0)),
                state = CASE WHEN r.policy @> '{"on_expiry": "approve"}' AND (r.state, r.revision, r.stuck, r.editable IS NULL) = ('pending', 1, false, false) THEN 'approved' ELSE 'expired' END
            WHERE r.id = p_request RETURNING * INTO v_request;
            PERFORM tell(v_request, 'decided', '{"by": "(deadline)"}', v_now);
            PERFORM audit('(deadline)', 'approval.' || v_request.state, p_request::text, jsonb_build_object('deadline', v_request.deadline));
        ELSE
            PERFORM tell(v_request, e.event, '{}', v_now), audit('(clock)', 'approval.' || e.event, p_request::text, jsonb_build_object('deadline', v_request.deadline))
            FROM (VALUES ('escalated', v_request.escalated > v_was.escalated), ('reminded', v_was.remind_at <= v_now),
                         ('stuck', v_request.stuck AND NOT v_was.stuck)) AS e(event, due) WHERE e.due;
        END IF;
    END IF;
    RETURN QUERY SELECT v_request.state, v_request.closed_at IS NOT NULL AND (v_request.state = 'approved' AND v_request.effect_after > v_now) IS NOT TRUE,
        extract(epoch FROM CASE WHEN v_request.closed_at IS NULL THEN least(v_request.deadline, v_request.remind_at,
            (SELECT min(a) FROM unnest(v_request.escalate_at) AS a WHERE a > v_now)) ELSE greatest(v_request.effect_after, v_now) END - v_now)::double precision,
        v_request.closed_by, v_request.closed_at, v_request.revision WHERE v_request.id IS NOT NULL;
END $$;

CREATE FUNCTION backbeat.rule_problem(p_rule jsonb, p_path text, p_keys text[], p_nobody_is_fine boolean) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN (jsonb_typeof(p_rule) IS DISTINCT FROM 'object'::text) THEN (p_path || ' is not an object'::text) WHEN ((p_rule - p_keys) <> '{}'::jsonb) THEN ((p_path || ': unknown key '::text) || (SELECT string_agg(k.k, ', '::text ORDER BY k.k) AS string_agg FROM jsonb_object_keys((rule_problem.p_rule - rule_problem.p_keys)) k(k))) WHEN ((jsonb_typeof(COALESCE((p_rule -> 'approvers'::text), '[]'::jsonb)) <> 'array'::text) OR jsonb_path_exists(p_rule, '$."approvers"[*]?(@.type() != "string" || @ == "")'::jsonpath)) THEN (p_path || '.approvers is not a list of user names'::text) WHEN ((jsonb_typeof(COALESCE((p_rule -> 'groups'::text), '[]'::jsonb)) <> 'array'::text) OR jsonb_path_exists(p_rule, '$."groups"[*]?(@.type() != "string" || @ == "")'::jsonpath)) THEN (p_path || '.groups is not a list of group names'::text) WHEN (COALESCE((p_rule ->> 'needed'::text), '1'::text) !~ '^[1-9][0-9]?$'::text) THEN (p_path || '.needed is not a number from 1 to 99'::text) WHEN (('after'::text = ANY (p_keys)) AND (NOT jsonb_path_exists(COALESCE((p_rule -> 'after'::text), 'null'::jsonb), 'strict $?(@ >= 1 && @ <= 31622400)'::jsonpath))) THEN (p_path || '.after is not a number of seconds from 1 to 31622400'::text) WHEN (p_nobody_is_fine OR (jsonb_array_length(COALESCE((p_rule -> 'groups'::text), '[]'::jsonb)) > 0)) THEN NULL::text WHEN ((COALESCE((p_rule ->> 'needed'::text), '1'::text))::integer > (SELECT count(DISTINCT a.value) AS count FROM jsonb_array_elements_text(COALESCE((rule_problem.p_rule -> 'approvers'::text), '[]'::jsonb)) a(value))) THEN (p_path || ': nobody can satisfy it: it needs more approvers than it names'::text) ELSE NULL::text END;

CREATE FUNCTION backbeat.policy_problem(p_policy jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN (jsonb_typeof(p_policy) IS DISTINCT FROM 'object'::text) THEN 'policy is not an object'::text WHEN ((p_policy ? 'rules'::text) AND (p_policy ?| '{approvers,groups,needed}'::text[])) THEN 'policy.rules stands in place of approvers, groups and needed'::text WHEN ((p_policy @> '{"allow_unsigned_signal": true}'::jsonb) AND ((COALESCE((p_policy ->> 'needed'::text), '1'::text) <> '1'::text) OR (p_policy ? 'rules'::text) OR (p_policy @> '{"four_eyes": true}'::jsonb))) THEN 'policy.allow_unsigned_signal cannot go with a quorum, with rules or with four_eyes'::text ELSE (SELECT string_agg(f.problem, '; '::text ORDER BY f.n) AS string_agg FROM (SELECT 0 AS n, format('policy.%s is not %s'::text, t.field, t.what) AS problem FROM (VALUES ('rules'::text,'(@.type() == "array" && @.size() > 0)'::text,'a list of rules'::text), ('escalate'::text,'(@.type() == "array")'::text,'a list of steps'::text), ('four_eyes'::text,'(@.type() == "boolean")'::text,'true or false'::text), ('allow_unsigned_signal'::text,'(@.type() == "boolean")'::text,'true or false'::text), ('on_expiry'::text,'(@ == "reject" || @ == "approve")'::text,'reject or approve'::text), ('calendar'::text,'(@.type() == "string")'::text,'the name of a calendar'::text), ('max_rounds'::text,'(@ >= 0 && @ <= 99 && @ == @.floor())'::text,'a number from 0 to 99'::text), ('remind_every'::text,'(@ >= 1 && @ <= 31622400)'::text,'a number of seconds from 1 to 31622400'::text), ('remind_before'::text,'(@ >= 1 && @ <= 31622400)'::text,'a number of seconds from 1 to 31622400'::text), ('effect_delay'::text,'(@ >= 1 && @ <= 31622400)'::text,'a number of seconds from 1 to 31622400'::text)) t(field, test, what) WHERE ((policy_problem.p_policy ? t.field) AND (NOT jsonb_path_exists((policy_problem.p_policy -> t.field), (('strict $ ? '::text || t.test))::jsonpath))) UNION ALL SELECT 1, backbeat.rule_problem((policy_problem.p_policy - '{rules,escalate,allow_unsigned_signal,four_eyes,on_expiry,calendar,max_rounds,remind_every,remind_before,effect_delay}'::text[]), 'policy'::text, '{approvers,groups,needed}'::text[], ((policy_problem.p_policy ? 'rules'::text) OR (policy_problem.p_policy @> '{"allow_unsigned_signal": true}'::jsonb))) AS rule_problem UNION ALL SELECT (1 + r.n), backbeat.rule_problem(r.rule, format('policy.rules[%s]'::text, (r.n - 1)), '{approvers,groups,needed}'::text[], false) AS rule_problem FROM jsonb_path_query(policy_problem.p_policy, '$."rules"[*]'::jsonpath) WITH ORDINALITY r(rule, n) UNION ALL SELECT (1000 + e.n), backbeat.rule_problem(e.step, format('policy.escalate[%s]'::text, (e.n - 1)), '{after,approvers,groups}'::text[], false) AS rule_problem FROM jsonb_path_query(policy_problem.p_policy, '$."escalate"[*]'::jsonpath) WITH ORDINALITY e(step, n)) f) END;

CREATE TABLE backbeat.approval_requests (
    id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    step text NOT NULL,
    tenant text NOT NULL,
    title text NOT NULL,
    payload jsonb NOT NULL,
    hash text NOT NULL,
    policy jsonb NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    requested_at timestamp with time zone NOT NULL,
    deadline timestamp with time zone NOT NULL,
    closed_at timestamp with time zone,
    closed_by text,
    requested_by text,
    editable boolean,
    revision integer DEFAULT 1 NOT NULL,
    escalate_at timestamp with time zone[] DEFAULT '{}'::timestamp with time zone[] NOT NULL,
    escalated integer DEFAULT 0 NOT NULL,
    remind_at timestamp with time zone,
    stuck boolean DEFAULT false NOT NULL,
    claimed_by text,
    claimed_until timestamp with time zone,
    effect_after timestamp with time zone,
    outages_until timestamp with time zone,
    CONSTRAINT approval_requests_hash_check CHECK ((hash ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT approval_requests_payload_check CHECK ((((payload - '{effect,request}'::text[]) = '{}'::jsonb) AND (jsonb_typeof((payload -> 'effect'::text)) = 'string'::text) AND (payload ? 'request'::text))),
    CONSTRAINT approval_requests_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'changes'::text, 'approved'::text, 'rejected'::text, 'expired'::text, 'cancelled'::text, 'revoked'::text]))),
    CONSTRAINT approval_requests_step_check CHECK ((step <> ''::text)),
    CONSTRAINT approval_requests_title_check CHECK (((length(title) >= 1) AND (length(title) <= 300))),
    CONSTRAINT approved_says_from_when CHECK (((state <> 'approved'::text) OR (effect_after >= closed_at))),
    CONSTRAINT closed_says_when_and_by_whom CHECK ((((state = ANY (ARRAY['pending'::text, 'changes'::text])) = (closed_at IS NULL)) AND ((closed_at IS NULL) = (closed_by IS NULL)))),
    CONSTRAINT deadline_lies_ahead CHECK ((deadline > requested_at)),
    CONSTRAINT decided_in_time CHECK (((state <> ALL (ARRAY['approved'::text, 'rejected'::text])) OR (closed_at < deadline) OR (closed_by = '(deadline)'::text))),
    CONSTRAINT policy_is_sound CHECK ((backbeat.policy_problem(policy) IS NULL)),
    CONSTRAINT says_who_asked CHECK (((requested_by ~ '^[[:alnum:]][[:alnum:]._@+-]{0,99}$'::text) AND ((requested_by IS NOT NULL) OR (NOT (policy @> '{"four_eyes": true}'::jsonb)))))
);

CREATE FUNCTION backbeat.create_approval(p_workflow uuid, p_step text, p_hash text, p_editable boolean DEFAULT false) RETURNS SETOF backbeat.approval_requests
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_workflow orchestrated_workflows; v_policy jsonb; v_request approval_requests; v_now timestamptz;
BEGIN
    SELECT * INTO v_workflow FROM orchestrated_workflows WHERE id = p_workflow AND finished_at IS NULL FOR NO KEY UPDATE;
    v_now := clock();
    IF FOUND AND NOT EXISTS (SELECT FROM approval_requests r WHERE (r.workflow_id, r.step) = (p_workflow, p_step)) THEN
        v_policy := v_workflow.input -> 'policy';
        IF NOT EXISTS (SELECT FROM calendars c WHERE (c.tenant, c.name) = (v_workflow.tenant, v_policy ->> 'calendar')) AND v_policy ? 'calendar' THEN
            RAISE EXCEPTION 'policy.calendar: there is no calendar %', v_policy ->> 'calendar' USING ERRCODE = 'check_violation';
        END IF;
        INSERT INTO approval_requests (id, workflow_id, step, tenant, title, payload, hash, policy, requested_at, deadline, requested_by, editable, escalate_at, remind_at)
        SELECT uuid7(), p_workflow, p_step, v_workflow.tenant, i.title, jsonb_build_object('effect', i.effect, 'request', i.request), p_hash, v_policy,
               v_now, after_time(v_workflow.tenant, v_policy, v_now, i.deadline_seconds), i.requested_by, p_editable,
               ARRAY(SELECT after_time(v_workflow.tenant, v_policy, v_now, (e.step ->> 'after')::double precision)
                     FROM jsonb_array_elements(v_policy -> 'escalate') WITH ORDINALITY AS e(step, n) ORDER BY e.n),
               next_reminder(v_workflow.tenant, v_policy, after_time(v_workflow.tenant, v_policy, v_now, i.deadline_seconds), v_now)
        FROM jsonb_to_record(v_workflow.input) AS i(title text, effect jsonb, request jsonb, deadline_seconds double precision, requested_by text)
        RETURNING * INTO v_request;
        UPDATE orchestrated_workflows SET deadline = v_request.deadline, updated_at = v_now WHERE id = p_workflow;
    ELSE
        UPDATE approval_requests r SET editable = p_editable
        WHERE (r.workflow_id, r.step) = (p_workflow, p_step) AND r.closed_at IS NULL AND r.editable IS NULL AND p_editable IS NOT NULL RETURNING * INTO v_request;
    END IF;
    PERFORM tell(v_request, CASE WHEN p_editable IS NULL THEN 'unloaded' ELSE 'asked' END, '{}', v_now) WHERE v_request.id IS NOT NULL;
    PERFORM audit('(workflow)', CASE WHEN p_editable IS NULL THEN 'approval.unloaded' ELSE 'approval.requested' END, v_request.id::text, jsonb_build_object('workflow', p_workflow,
        'step', p_step, 'title', v_request.title, 'hash', p_hash, 'policy', v_request.policy)) WHERE v_request.id IS NOT NULL;
    RETURN QUERY SELECT * FROM approval_requests r WHERE (r.workflow_id, r.step) = (p_workflow, p_step);
END $$;

CREATE FUNCTION backbeat.create_token(p_key bytea, p_user text, p_groups text[], p_seconds double precision) RETURNS text
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH made AS (INSERT INTO api_tokens (id, key, user_name, groups, created_at, created_by, expires_at) VALUES (left(encode(sha256(p_key), 'hex'), 16), p_key, p_user,
        p_groups, backbeat.now(), session_user, backbeat.now() + make_interval(secs => p_seconds)) RETURNING id)
    SELECT m.id FROM made m WHERE audit(session_user, 'token.created', m.id, jsonb_build_object('user', p_user, 'groups', p_groups)) > 0 $$;

CREATE FUNCTION backbeat.decide(p_proof text, p_request uuid, p_decision text, p_hash text, p_comment text, p_decision_id uuid, p_via text, p_body jsonb DEFAULT NULL::jsonb, p_problem text DEFAULT NULL::text) RETURNS TABLE(verdict text, user_name text, state text, closed_by text, closed_at timestamp with time zone, deadline timestamp with time zone, problem text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $_$
#variable_conflict use_column
DECLARE c_refusals_a_minute CONSTANT integer := 30;
    c_largest CONSTANT integer := 262144;
    v_comment text := coalesce(p_comment, '');
    v_body text; v_problem text; v_user text; v_verdict text; v_state text;
    v_now timestamptz; v_until timestamptz; v_unsigned boolean; v_workflow uuid; v_right record;
    v_request approval_requests; v_prior approval_decisions; v_token api_tokens;
BEGIN
    SELECT r.workflow_id INTO v_workflow FROM approval_requests r WHERE r.id = p_request;
    PERFORM FROM orchestrated_workflows w WHERE w.id = v_workflow FOR NO KEY UPDATE;
    SELECT * INTO v_request FROM approval_requests r WHERE r.id = p_request FOR UPDATE;
    v_now := clock();
    v_problem := coalesce(p_problem, CASE WHEN p_decision_id IS NULL THEN 'decision_id is missing'
        WHEN coalesce(p_via NOT IN ('cli', 'web', 'signal'), true) THEN 'via is not cli, web or signal'
        WHEN coalesce(p_decision NOT IN ('approve', 'reject', 'request_changes', 'edit', 'revoke', 'comment', 'claim', 'unclaim', 'delegate'), true)
            THEN 'decision is none of those there are'
        WHEN p_request IS NULL AND p_decision <> 'delegate' THEN 'request is missing'
        WHEN p_decision IN ('approve', 'reject', 'request_changes', 'edit', 'revoke') AND coalesce(p_hash !~ '^[0-9a-f]{64}$', true)
            THEN 'hash is not 64 hexadecimal digits'
        WHEN length(v_comment) > 4000 THEN 'comment has more than 4000 letters'
        WHEN p_decision IN ('comment', 'request_changes') AND v_comment = '' THEN 'comment is empty'
        WHEN coalesce(jsonb_typeof(p_body), '') <> CASE WHEN p_decision IN ('edit', 'claim', 'delegate') THEN 'object' ELSE '' END
            THEN 'body is not what goes with this decision'
        WHEN octet_length(p_body::text) > c_largest THEN format('body has %s bytes, of at most %s', octet_length(p_body::text), c_largest)
        WHEN p_decision <> 'edit' AND p_body ? 'seconds' AND NOT jsonb_path_exists(p_body, '$.seconds ? (@ >= 1 && @ <= 31622400)')
            THEN 'body.seconds is not a number from 1 to 31622400'
        WHEN p_decision = 'delegate' AND NOT EXISTS (
            SELECT FROM api_tokens t WHERE t.user_name = p_body ->> 'to' AND t.revoked_at IS NULL AND (t.expires_at > v_now) IS NOT FALSE)
            THEN 'body.to is nobody who holds a token' END);
    BEGIN
        v_body := encode(sha256(convert_to(canonical(p_body), 'UTF8')), 'hex');
    EXCEPTION WHEN SQLSTATE 'BB003' THEN
        v_problem := coalesce(v_problem, 'body: ' || SQLERRM);
    END;
    v_token := signer(p_proof, concat_ws(':', p_request, p_decision, p_hash, v_body, v_comment), v_now);
    v_unsigned := p_proof IS NULL AND p_via = 'signal' AND p_decision IN ('approve', 'reject') AND coalesce(v_request.policy @> '{"allow_unsigned_signal": true}', false);
    v_user := CASE WHEN v_unsigned THEN '(unsigned signal)' ELSE coalesce(v_token.user_name, '(unauthenticated)') END;
    SELECT * INTO v_prior FROM approval_decisions d WHERE d.id = p_decision_id;
    v_request := extended(v_request, v_now);
    -- Her own right, before one that was handed to her; one that has not voted yet, before one that has.
    SELECT g.*, EXISTS (SELECT FROM approval_decisions d WHERE (d.request_id, d.revision, d.decision) = (p_request, v_request.revision, 'approve')
        AND (d.for_user = g.name OR d.user_name = v_user)) AS voted
    INTO v_right FROM rights(v_request, v_user, v_token.groups, v_now) AS g ORDER BY g.barred, voted, g.name <> v_user, g.name LIMIT 1;

    v_verdict := CASE WHEN v_problem IS NOT NULL THEN 'malformed'
        WHEN v_token.id IS NULL AND NOT v_unsigned THEN 'unauthenticated'
        WHEN p_request IS NOT NULL AND v_request.id IS NULL THEN 'not_found'
        WHEN v_prior.id IS NOT NULL THEN CASE
            WHEN (v_prior.request_id, v_prior.user_name, v_prior.decision) IS NOT DISTINCT FROM (p_request, v_user, p_decision) THEN 'repeated' ELSE 'malformed' END
        WHEN p_request IS NULL THEN 'accepted'
        WHEN NOT v_unsigned AND v_right.name IS NULL AND NOT (p_decision = 'delegate' AND EXISTS (
            SELECT FROM rules_at(v_request, v_now) AS r(rule) WHERE fits(r.rule, v_user, v_token.groups))) THEN 'not_eligible'
        WHEN v_request.closed_at IS NOT NULL AND NOT (v_request.state = 'approved' AND p_decision IN ('revoke', 'comment')) THEN 'closed'
        WHEN v_request.closed_at IS NULL AND v_now >= v_request.deadline THEN 'expired'
        WHEN p_hash <> v_request.hash THEN 'stale'
        WHEN p_decision = 'approve' AND v_right.barred THEN 'four_eyes'
        WHEN p_decision = 'approve' AND v_right.voted THEN 'voted'
        WHEN p_decision IN ('approve', 'request_changes') AND v_request.state = 'changes' THEN 'changes'
        WHEN p_decision = 'request_changes' AND coalesce((v_request.policy ->> 'max_rounds')::integer, 0) <= (
            SELECT count(*) FROM approval_decisions d WHERE (d.request_id, d.decision) = (p_request, 'request_changes')) THEN 'no_rounds'
        WHEN p_decision = 'edit' AND v_request.editable IS NOT TRUE THEN 'not_editable'
        WHEN p_decision IN ('claim', 'unclaim') AND v_request.claimed_until > v_now AND v_request.claimed_by <> v_user THEN 'claimed'
        WHEN p_decision = 'revoke' AND v_request.state <> 'approved' THEN 'not_approved'
        WHEN p_decision = 'revoke' AND EXISTS (SELECT FROM side_effects e WHERE e.approval_id = p_request) THEN 'too_late'
        ELSE 'accepted' END;

    v_state := v_request.state;
    IF v_verdict = 'accepted' THEN
        v_state := CASE WHEN p_decision = 'reject' THEN 'rejected'
            WHEN p_decision = 'approve' AND (v_unsigned OR enough(v_request, v_right.name, v_right.groups, v_now)) THEN 'approved'
            WHEN p_decision = 'request_changes' THEN 'changes'
            WHEN p_decision = 'edit' THEN 'pending'
            WHEN p_decision = 'revoke' THEN 'revoked'
            ELSE v_request.state END;
        v_until := CASE p_decision WHEN 'claim' THEN v_now + make_interval(secs => coalesce((p_body ->> 'seconds')::double precision, 900))
            WHEN 'delegate' THEN coalesce(v_now + make_interval(secs => (p_body ->> 'seconds')::double precision), 'infinity') END;
        INSERT INTO approval_decisions VALUES (
            p_decision_id, p_request, coalesce(v_request.revision, 0), v_user, CASE WHEN p_decision = 'delegate' THEN v_user ELSE coalesce(v_right.name, v_user) END,
            CASE WHEN p_decision = 'delegate' THEN v_token.groups ELSE coalesce(v_right.groups, '{}') END, v_token.id, p_decision, p_hash, p_body,
            CASE WHEN p_decision = 'delegate' THEN p_body ->> 'to' END, v_until, v_comment, p_via, v_state, v_now);
        IF v_state <> v_request.state THEN
            PERFORM push_outbox(v_workflow, 'poke');
            UPDATE approval_requests r SET state = v_state, closed_at = CASE WHEN v_state NOT IN ('pending', 'changes') THEN v_now END,
                closed_by = CASE WHEN v_state NOT IN ('pending', 'changes') THEN v_user END,
                effect_after = v_now + make_interval(secs => coalesce((r.policy ->> 'effect_delay')::double precision, 0))
            WHERE r.id = p_request RETURNING * INTO v_request;
            PERFORM tell(v_request, CASE v_state WHEN 'changes' THEN 'changes' ELSE 'decided' END, jsonb_build_object('by', v_user, 'comment', v_comment), v_now)
            WHERE v_state <> 'pending';
        END IF;
        IF p_decision = 'edit' THEN
            v_request := revise(p_request, v_request.revision, p_body, v_user, v_now);
        ELSIF p_decision IN ('claim', 'unclaim') THEN
            UPDATE approval_requests r SET claimed_by = CASE WHEN p_decision = 'claim' THEN v_user END, claimed_until = v_until WHERE r.id = p_request;
        ELSIF p_decision = 'delegate' THEN
            PERFORM tell(v_request, 'delegated', jsonb_build_object('by', v_user, 'until', v_until), v_now, ARRAY[p_body ->> 'to']);
        END IF;
        PERFORM audit(v_user, 'approval.' || p_decision, coalesce(p_request::text, v_user), jsonb_strip_nulls(jsonb_build_object(
            'decision_id', p_decision_id, 'hash', p_hash, 'comment', v_comment, 'via', p_via, 'token', v_token.id, 'state', v_state,
            'body', p_body, 'for', nullif(v_right.name, v_user), 'revision', v_request.revision)));
    ELSIF (SELECT count(*) FROM audit_log a WHERE a.action = 'approval.refused' AND a.actor = v_user AND a.at > v_now - interval '1 minute') < c_refusals_a_minute THEN
        PERFORM audit(v_user, 'approval.refused', coalesce(p_request::text, '(none)'), jsonb_strip_nulls(jsonb_build_object(
            'verdict', v_verdict, 'decision', left(p_decision, 100), 'hash', left(p_hash, 100), 'via', p_via, 'token', v_token.id, 'problem', left(v_problem, 2000))));
    END IF;
    RETURN QUERY SELECT v_verdict, v_user, CASE v_verdict WHEN 'repeated' THEN v_prior.state_after ELSE v_state END,
        v_request.closed_by, v_request.closed_at, v_request.deadline, v_problem;
END $_$;

CREATE FUNCTION backbeat.discard_dead(p_ids uuid[], p_by text, p_reason text) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
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

CREATE FUNCTION backbeat.drop_answers(p_owners uuid[]) RETURNS void
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    DELETE FROM model_calls c WHERE c.owner = ANY (p_owners) AND NOT EXISTS (SELECT FROM finished_tasks f WHERE f.id = c.owner);
    UPDATE model_calls c SET response = NULL WHERE c.owner = ANY (p_owners) AND c.response IS NOT NULL; $$;

CREATE TABLE backbeat.llm_batches (
    tag text NOT NULL,
    route text NOT NULL,
    provider text NOT NULL,
    calls integer NOT NULL,
    status text DEFAULT 'intended'::text NOT NULL,
    vendor_id text,
    looks integer DEFAULT 0 NOT NULL,
    lease bigint DEFAULT 0 NOT NULL,
    cancel boolean DEFAULT false NOT NULL,
    note text,
    intended_at timestamp with time zone DEFAULT backbeat.clock() NOT NULL,
    next_at timestamp with time zone DEFAULT backbeat.clock() NOT NULL,
    CONSTRAINT llm_batches_check CHECK (((status = ANY (ARRAY['intended'::text, 'submitted'::text, 'unsure'::text, 'ended'::text, 'lost'::text])) AND ((status <> 'submitted'::text) OR (vendor_id IS NOT NULL))))
);

CREATE FUNCTION backbeat.due_batches(p_providers text[]) RETURNS SETOF backbeat.llm_batches
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
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

CREATE FUNCTION backbeat.end_tasks(p_departures backbeat.departure[]) RETURNS void
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_custom_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_ids uuid[] := ARRAY(SELECT d.id FROM unnest(p_departures) d);
    v_now timestamptz := clock();
BEGIN
    IF EXISTS (SELECT FROM joins j WHERE j.children_left > 0) THEN PERFORM settle_joins(p_departures); END IF;
    WITH bills AS (
        SELECT c.owner, count(*) AS calls, sum(c.uncached + c.cache_read + c.cache_write) AS input_tokens, sum(c.output) AS output_tokens,
               CASE WHEN count(c.cost_usd) = count(*) THEN sum(c.cost_usd) END AS cost_usd
        FROM model_calls c WHERE c.owner = ANY (v_ids) AND c.status = 'done' GROUP BY 1
    ), gone AS (
        DELETE FROM simple_tasks t WHERE t.id = ANY (v_ids) RETURNING t.*
    )
    INSERT INTO finished_tasks (
        id, tenant, workflow, version, tier, class, status, payload, result, error_class, error, attempts, history,
        calls, input_tokens, output_tokens, cost_usd, agent_id, parent_id, origin_id, workflow_id, idempotency_key,
        traceparent, source_at, created_at, finished_at)
    SELECT g.id, g.tenant, g.workflow, g.version, g.tier, g.class, d.status, g.payload, d.result, d.error_class, d.error, g.attempts,
           g.history || coalesce(d.entry, '[]'), coalesce(b.calls, 0), coalesce(b.input_tokens, 0), coalesce(b.output_tokens, 0),
           CASE WHEN b.owner IS NULL THEN 0 ELSE b.cost_usd END, g.agent_id, g.parent_id, g.origin_id,
           d.workflow_id, g.idempotency_key, g.traceparent, g.source_at, g.created_at, v_now
    FROM gone g JOIN unnest(p_departures) d ON d.id = g.id LEFT JOIN bills b ON b.owner = g.id;

    v_ids := ARRAY(SELECT d.id FROM unnest(p_departures) d WHERE d.status = 'dead');
    IF v_ids <> '{}' THEN
        INSERT INTO dead_letters (id, tenant, workflow, version, error_class, error, attempts, payload, died_at,
                                  class, origin_id, idempotency_key, traceparent, source_at)
        SELECT f.id, f.tenant, f.workflow, f.version, f.error_class, coalesce(f.error, ''), f.attempts, f.payload, f.finished_at,
               f.class, f.origin_id, f.idempotency_key, f.traceparent, f.source_at
        FROM finished_tasks f WHERE f.id = ANY (v_ids);
    END IF;
    UPDATE model_calls c SET response = NULL
    WHERE c.owner = ANY (ARRAY(SELECT d.id FROM unnest(p_departures) d WHERE d.status <> 'dead')) AND c.response IS NOT NULL;
END $$;

CREATE FUNCTION backbeat.end_tick(p_id uuid, p_claimed integer, p_settled integer) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$ UPDATE ticks SET ended_at = clock(), claimed = p_claimed, settled = p_settled WHERE id = p_id $$;

CREATE FUNCTION backbeat.enough(p_request backbeat.approval_requests, p_right text, p_groups text[], p_at timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT NOT EXISTS (SELECT FROM rules_at(p_request, p_at) AS r(rule) WHERE (r.rule ->> 'needed')::integer > fits(r.rule, p_right, p_groups)::integer + (
        SELECT count(*) FROM approval_decisions d WHERE (d.request_id, d.revision, d.decision) = (p_request.id, p_request.revision, 'approve')
          AND fits(r.rule, d.for_user, d.groups))) $$;

CREATE FUNCTION backbeat.enqueue(p_workflow text, p_version integer, p_payloads jsonb[], p_keys bytea[] DEFAULT NULL::bytea[], p_tenant text DEFAULT 'default'::text, p_class text DEFAULT 'normal'::text, p_run_after timestamp with time zone DEFAULT NULL::timestamp with time zone, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_source_at timestamp with time zone[] DEFAULT NULL::timestamp with time zone[], p_traceparent text DEFAULT NULL::text, p_origin uuid DEFAULT NULL::uuid, p_parent uuid DEFAULT NULL::uuid, p_salt text DEFAULT ''::text) RETURNS TABLE(ord bigint, task_id uuid, created boolean, status text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET plan_cache_mode TO 'force_custom_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE c_payload_cap CONSTANT integer := 1048576;
    v_workflow workflows; v_canary workflows; v_keys bytea[] := p_keys; v_known uuid[]; v_given_up uuid[] := '{}'; v_new uuid[]; v_ids uuid[]; v_ready uuid[];
    v_at timestamptz := clock();
    v_start bigint := floor(extract(epoch FROM v_at) * 1000);
    v_seed text := gen_random_uuid();
    v_trace text := substring(p_traceparent FROM '^00-([0-9a-f]{32})-[0-9a-f]{16}-');
    v_due timestamptz := CASE WHEN p_run_after > backbeat.now() THEN p_run_after END;
    v_wrong text := CASE WHEN p_payloads IS NULL THEN 'p_payloads is NULL'
        WHEN EXISTS (SELECT FROM unnest(p_payloads) AS p(body) WHERE p.body IS NULL) THEN 'p_payloads holds NULL, which is no payload'
        WHEN EXISTS (SELECT FROM unnest(p_keys) AS k(key) WHERE octet_length(k.key) <> 32) THEN 'p_keys holds a key that is not 32 bytes long'
        WHEN cardinality(p_keys) <> cardinality(p_payloads) OR cardinality(p_source_at) <> cardinality(p_payloads)
            THEN format('there are %s payloads, but not as many keys or moments', cardinality(p_payloads))
        WHEN p_salt IS NULL THEN 'p_salt is NULL'
        WHEN p_class = ANY ('{urgent,high,normal,low}') IS NOT TRUE THEN 'p_class is none of urgent, high, normal, low' END;
BEGIN
    IF v_wrong IS NOT NULL THEN RAISE EXCEPTION '%', v_wrong USING ERRCODE = 'BB003'; END IF;
    SELECT * INTO v_workflow FROM workflows w WHERE w.name = p_workflow AND w.version = p_version AND w.runtime = 'cron';
    IF NOT FOUND THEN RAISE EXCEPTION 'no task % version % is registered', p_workflow, p_version USING ERRCODE = 'BB001'; END IF;
    SELECT * INTO v_canary FROM workflows c WHERE c.name = p_workflow AND c.canary IS NOT NULL AND p_version IN (c.version, c.stable);
    PERFORM need_tenant(p_tenant);
    IF EXISTS (SELECT FROM unnest(p_payloads) AS p(body) WHERE octet_length(p.body::text) > c_payload_cap) THEN
        RAISE EXCEPTION 'a payload of % is larger than % bytes', p_workflow, c_payload_cap USING ERRCODE = 'BB002';
    END IF;
    IF p_keys IS NULL AND v_workflow.idempotency THEN
        SELECT array_agg(idempotency_key(p_workflow, p_version, p.body, p_salt) ORDER BY p.n) INTO v_keys
        FROM unnest(p_payloads) WITH ORDINALITY AS p(body, n);
    END IF;

    -- Only by ids that are at hand when it is planned is the history searched in few of its days.
    v_known := ARRAY(SELECT i.task_id FROM idempotency i WHERE i.tenant = p_tenant AND i.key = ANY (v_keys));
    IF v_known <> '{}' THEN
        v_given_up := ARRAY(
            SELECT unnest(v_known) EXCEPT SELECT t.id FROM simple_tasks t WHERE t.id = ANY (v_known)
            EXCEPT SELECT f.id FROM finished_tasks f WHERE f.id = ANY (v_known) AND f.status IN ('succeeded', 'escalated'));
    END IF;

    -- A moment, the place in the batch and 60 random bits (RFC 9562, version 7): ids sort as the payloads were given.
    WITH given AS MATERIALIZED (
        SELECT g.*, (lpad(to_hex((v_start + g.n / 4096) << 16 | 28672 | g.n % 4096), 16, '0') || '8'
                     || left(encode(sha256(convert_to(v_seed || g.n, 'UTF8')), 'hex'), 15))::uuid AS id
        FROM unnest(p_payloads, v_keys, p_source_at) WITH ORDINALITY AS g(payload, key, source_at, n)
    ), taken AS (
        INSERT INTO idempotency AS i (tenant, key, task_id)
        SELECT DISTINCT ON (g.key) p_tenant, g.key, g.id FROM given g WHERE g.key IS NOT NULL ORDER BY g.key, g.n
        ON CONFLICT (tenant, key) DO UPDATE SET task_id = excluded.task_id WHERE i.task_id = ANY (v_given_up)
        RETURNING i.task_id AS id
    ), fresh AS MATERIALIZED (
        SELECT g.*, CASE WHEN g.key IS NULL OR g.id IN (SELECT k.id FROM taken k) THEN g.id END AS new FROM given g
    ), added AS (
        INSERT INTO simple_tasks (id, tenant, workflow, version, tier, class, payload, status, run_after, expires_at, source_at,
                                  max_attempts, parent_id, origin_id, idempotency_key, traceparent, created_at)
        SELECT f.id, p_tenant, p_workflow, CASE WHEN v_canary.canary IS NULL THEN p_version
                   WHEN abs(hashtextextended(coalesce(f.key::text, f.id::text), 0) % 100) < v_canary.canary THEN v_canary.version ELSE v_canary.stable END,
               v_workflow.lane, p_class, f.payload, CASE WHEN v_due IS NULL THEN 'pending' ELSE 'delayed' END,
               v_due, p_expires_at, f.source_at, v_workflow.max_attempts, p_parent, coalesce(p_origin, f.id), f.key,
               -- backbeat.trace_id and span_id, written out: this runs once a row.
               '00-' || coalesce(v_trace, left(encode(sha256(convert_to('task:' || f.id, 'UTF8')), 'hex'), 32)) || '-'
                     || left(encode(sha256(convert_to('enqueue:' || f.id, 'UTF8')), 'hex'), 16) || '-01', v_at
        FROM fresh f WHERE f.new IS NOT NULL
    )
    SELECT array_agg(f.new ORDER BY f.n) INTO v_new FROM fresh f;

    INSERT INTO flows (tenant, tier, class) VALUES (p_tenant, v_workflow.lane, p_class) ON CONFLICT DO NOTHING;
    INSERT INTO virtual_time (tier) VALUES (v_workflow.lane) ON CONFLICT DO NOTHING;
    IF v_due IS NULL THEN PERFORM promote(ARRAY(SELECT f FROM flows f WHERE (f.tenant, f.tier, f.class) = (p_tenant, v_workflow.lane, p_class))); END IF;

    v_ids := ARRAY(
        SELECT coalesce(u.new, (SELECT i.task_id FROM idempotency i WHERE i.tenant = p_tenant AND i.key = u.key))
        FROM unnest(v_new, v_keys) WITH ORDINALITY AS u(new, key, n) ORDER BY u.n);
    v_known := ARRAY(SELECT unnest(v_ids) EXCEPT SELECT unnest(v_new));
    -- Of new rows the first may have come into the window; none is looked up behind them.
    v_ready := ARRAY(SELECT t.id FROM simple_tasks t WHERE t.status = 'ready' AND t.id = ANY (ARRAY(SELECT u.id FROM unnest(v_new) AS u(id) WHERE u.id IS NOT NULL LIMIT 64)));
    RETURN QUERY
    SELECT u.n, u.id, u.new IS NOT NULL, CASE WHEN u.new IS NULL THEN coalesce((SELECT t.status FROM simple_tasks t WHERE t.id = u.id), f.status)
        WHEN v_due IS NOT NULL THEN 'delayed' WHEN u.new = ANY (v_ready) THEN 'ready' ELSE 'pending' END
    FROM unnest(v_ids, v_new) WITH ORDINALITY AS u(id, new, n)
    LEFT JOIN (SELECT h.id, h.status FROM finished_tasks h WHERE h.id = ANY (v_known)) f ON f.id = u.id
    ORDER BY u.n;
END $$;

CREATE FUNCTION backbeat.erase(p_ids uuid[], p_subject text, p_by text, p_reason text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $_$
DECLARE v text[]; v_table text; v_n int; v_rows jsonb := '{}'; v_ids uuid[] := ARRAY(SELECT unnest(p_ids) EXCEPT SELECT id FROM simple_tasks
    EXCEPT SELECT id FROM orchestrated_workflows WHERE finished_at IS NULL);
BEGIN FOREACH v_table IN ARRAY string_to_array('finished_tasks id payload result error history;model_calls owner response error;agents id input result error;'
    'agent_steps task_id args reasoning output observation;side_effects owner request outcome error;orchestrated_workflows id input result error;'
    'orchestrated_workflows_steps workflow_id detail', ';') LOOP v := string_to_array(v_table, ' ');
    EXECUTE (SELECT format('UPDATE %s SET %s WHERE %s = ANY ($1)', v[1], string_agg(format(CASE WHEN c IN ('error', 'reasoning', 'observation')
        THEN '%1$s = left(%1$s, 0)' ELSE '%1$s = CASE WHEN %1$s IS NOT NULL THEN ''{}''::jsonb END' END, c), ', '), v[2]) FROM unnest(v[3:]) c) USING v_ids;
    GET DIAGNOSTICS v_n = ROW_COUNT; v_rows := v_rows || jsonb_build_object(v[1], v_n); END LOOP;
    UPDATE dead_letters SET payload = NULL, error = '', resolved_at = coalesce(resolved_at, clock()), resolved_by = p_by, reason = p_reason WHERE id = ANY (v_ids);
    DELETE FROM feedback WHERE task_id = ANY (v_ids); GET DIAGNOSTICS v_n = ROW_COUNT; v_rows := v_rows || jsonb_build_object('feedback', v_n);
    UPDATE notifications o SET facts = '{}' FROM approval_requests r WHERE r.id = o.request_id AND r.workflow_id = ANY (v_ids);
    UPDATE approval_requests SET payload = payload || '{"request": null}', title = 'erased' WHERE workflow_id = ANY (v_ids);
    PERFORM audit(session_user, 'erased', p_subject, v_rows || jsonb_build_object('by', p_by, 'reason', p_reason)); RETURN v_rows; END $_$;

CREATE FUNCTION backbeat.expect_wake(p_workflow uuid) RETURNS void
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    INSERT INTO temporal_outbox (stream, seq, kind, lease_until, created_at, delivered_at)
    SELECT p_workflow, max(o.seq) + 1, 'wake', clock(), clock(), clock() FROM temporal_outbox o WHERE o.stream = p_workflow HAVING NOT bool_or(o.kind = 'wake') $$;

CREATE FUNCTION backbeat.extended(p_request backbeat.approval_requests, p_at timestamp with time zone) RETURNS backbeat.approval_requests
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_gone timestamptz := (SELECT max(p.until) FROM presence p WHERE p.since <= p_request.deadline);
    v_back timestamptz := least(p_at, (SELECT min(p.since) FROM presence p WHERE p.since > v_gone));
    v_lost interval := v_back - greatest(v_gone, p_request.requested_at, p_request.outages_until);
BEGIN
    IF p_request.closed_at IS NULL AND p_at >= p_request.deadline AND v_gone < p_request.deadline - interval '1 minute' AND v_lost > '0' THEN
        UPDATE approval_requests r SET deadline = r.deadline + v_lost, outages_until = v_back WHERE r.id = p_request.id RETURNING * INTO p_request;
        UPDATE orchestrated_workflows w SET deadline = p_request.deadline WHERE w.id = p_request.workflow_id;
        PERFORM audit('(outage)', 'approval.extended', p_request.id::text, jsonb_build_object('from', v_gone, 'until', v_back, 'deadline', p_request.deadline));
    END IF;
    RETURN p_request;
END $$;

CREATE FUNCTION backbeat.fan_out(p_end backbeat.ending) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_task simple_tasks; v_kind record;
BEGIN
    SELECT * INTO v_task FROM simple_tasks t WHERE t.id = (p_end).id;
    FOR v_kind IN
        SELECT c.workflow, c.version, array_agg(c.payload) AS payloads FROM jsonb_to_recordset((p_end).children) AS c(workflow text, version integer, payload jsonb)
        GROUP BY 1, 2 ORDER BY 1, 2
    LOOP
        PERFORM FROM enqueue(v_kind.workflow, v_kind.version, v_kind.payloads, p_keys => array_fill(NULL::bytea, ARRAY[cardinality(v_kind.payloads)]),
            p_tenant => v_task.tenant, p_class => v_task.class, p_source_at => array_fill(v_task.source_at, ARRAY[cardinality(v_kind.payloads)]),
            p_traceparent => v_task.traceparent, p_origin => v_task.origin_id, p_parent => v_task.id);
    END LOOP;
END $$;

CREATE FUNCTION backbeat.finish(p_ids uuid[], p_status text, p_error_class text, p_error text) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_ids uuid[];
BEGIN
    SELECT array_agg(l.id) INTO v_ids FROM (SELECT t.id FROM simple_tasks t WHERE t.id = ANY (p_ids) ORDER BY t.id FOR UPDATE) l;
    IF v_ids IS NULL THEN RETURN; END IF;
    PERFORM lock_flows(v_ids);
    PERFORM leave_flows(v_ids);
    PERFORM lose_calls(v_ids);
    PERFORM end_tasks(ARRAY(
        SELECT ROW(t.id, p_status, NULL, p_error_class, p_error, NULL,
            CASE WHEN t.status = 'running' THEN history_entry(t, p_status, p_error_class, p_error) END)::departure
        FROM simple_tasks t WHERE t.id = ANY (v_ids)));
    RETURN QUERY SELECT unnest(v_ids);
END $$;

CREATE FUNCTION backbeat.finish_effect(p_key text, p_outcome jsonb, p_read_back boolean DEFAULT false) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    UPDATE side_effects SET status = 'done', outcome = coalesce(p_outcome, '{}'), done_at = clock(), error = NULL,
        resolved_by = CASE WHEN p_read_back THEN 'read-back' END WHERE key = p_key AND status <> 'done';
    PERFORM release_held('effect', p_key) WHERE FOUND;
    RETURN FOUND;
END $$;

CREATE FUNCTION backbeat.fire_schedule(p_name text, p_watermark timestamp with time zone, p_slot timestamp with time zone, p_next_at timestamp with time zone, p_payloads jsonb[], p_keys bytea[], p_run_after timestamp with time zone, p_note text) RETURNS uuid[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_schedule schedules;
BEGIN
    UPDATE schedules s SET watermark = p_slot, next_at = p_next_at, note = p_note WHERE s.name = p_name AND s.watermark = p_watermark
        AND p_slot BETWEEN p_watermark AND backbeat.now() AND NOT s.paused RETURNING * INTO v_schedule;
    RETURN CASE WHEN NOT FOUND THEN NULL WHEN p_slot = p_watermark OR cardinality(p_payloads) = 0 THEN '{}' ELSE (
        SELECT coalesce(array_agg(e.task_id ORDER BY e.ord) FILTER (WHERE e.created), '{}')
        FROM enqueue(v_schedule.workflow, v_schedule.version, p_payloads, p_keys, v_schedule.tenant, v_schedule.class,
            p_run_after => p_run_after, p_source_at => array_fill(p_slot, ARRAY[cardinality(p_payloads)])) e) END;
END $$;

CREATE FUNCTION backbeat.fits(p_rule jsonb, p_user text, p_groups text[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (COALESCE(((p_rule -> 'approvers'::text) ? p_user), false) OR COALESCE(((p_rule -> 'groups'::text) ?| p_groups), false));

CREATE TABLE backbeat.budget_blocks (
    id bigint NOT NULL,
    worker text NOT NULL,
    budgets bigint[] NOT NULL,
    usd numeric NOT NULL,
    tokens bigint NOT NULL,
    left_usd numeric,
    left_tokens bigint,
    leased_until timestamp with time zone NOT NULL
)
WITH (fillfactor='50');

CREATE FUNCTION backbeat.fold(p_block backbeat.budget_blocks) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    PERFORM FROM budgets b WHERE b.id = ANY (p_block.budgets) ORDER BY b.level, b.id FOR UPDATE;
    UPDATE budgets b
    SET reserved_usd = b.reserved_usd - p_block.usd + d.open_usd, reserved_tokens = b.reserved_tokens - p_block.tokens + d.open_tokens,
        spent_usd = b.spent_usd + d.spent_usd, spent_tokens = b.spent_tokens + d.spent_tokens, presumed_usd = b.presumed_usd + d.lost_usd,
        presumed_tokens = b.presumed_tokens + d.lost_tokens, overrun_usd = b.overrun_usd + d.overrun_usd, calls = b.calls + d.calls,
        unpriced_calls = b.unpriced_calls + d.calls - d.priced, rate = b.rate + d.opened / 10.0
    FROM (
        SELECT coalesce(sum(c.reserved_usd) FILTER (WHERE c.status = 'open'), 0) AS open_usd, coalesce(sum(c.reserved_tokens) FILTER (WHERE c.status = 'open'), 0) AS open_tokens,
               coalesce(sum(c.reserved_usd) FILTER (WHERE c.status = 'lost'), 0) AS lost_usd, coalesce(sum(c.reserved_tokens) FILTER (WHERE c.status = 'lost'), 0) AS lost_tokens,
               coalesce(sum(c.cost_usd), 0) AS spent_usd, coalesce(sum(c.uncached + c.cache_read + c.cache_write + c.output), 0) AS spent_tokens,
               coalesce(sum(greatest(c.cost_usd - c.reserved_usd, 0)), 0) AS overrun_usd, count(*) FILTER (WHERE c.status = 'done') AS calls,
               count(c.cost_usd) FILTER (WHERE c.status = 'done') AS priced, count(*) AS opened
        FROM model_calls c WHERE c.block = p_block.id) d
    WHERE b.id = ANY (p_block.budgets);
    DELETE FROM budget_blocks k WHERE k.id = p_block.id;
END $$;

CREATE FUNCTION backbeat.fork_agent(p_agent uuid, p_steps integer, p_id uuid, p_by text) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    INSERT INTO agents (id, tenant, workflow, version, status, input, steps, max_steps, task_id, forked_from, created_at)
    SELECT p_id, a.tenant, a.workflow, a.version, 'thinking', a.input, p_steps, a.max_steps, f.id, a.id, clock()
    FROM agents a JOIN agent_steps s ON (s.agent_id, s.number) = (a.id, p_steps) JOIN finished_tasks f ON f.id = s.task_id WHERE a.id = p_agent;
    INSERT INTO agent_steps SELECT s.* FROM agents a JOIN agent_steps o ON o.agent_id = a.forked_from AND o.number <= a.steps
    CROSS JOIN jsonb_populate_record(o, jsonb_build_object('agent_id', p_id, 'input_tokens', 0, 'output_tokens', 0, 'cost_usd', 0)) s WHERE a.id = p_id;
    SELECT next_step(p_id);
    SELECT id FROM agents WHERE id = p_id AND audit(session_user, 'agent.forked', p_agent::text, jsonb_build_object('by', p_by, 'steps', p_steps, 'as', p_id)) > 0 $$;

CREATE FUNCTION backbeat.handed_on(p_request uuid, p_at timestamp with time zone) RETURNS TABLE(user_name text, to_user text, groups text[])
    LANGUAGE sql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT h.user_name, h.to_user, h.groups FROM (SELECT DISTINCT ON (w.user_name) * FROM (
            SELECT DISTINCT ON (d.user_name, d.request_id) d.* FROM approval_decisions d
            WHERE d.decision = 'delegate' AND (d.request_id IS NULL OR d.request_id = p_request)
            ORDER BY d.user_name, d.request_id, d.decided_at DESC, d.id DESC) AS w
        WHERE w.until > p_at ORDER BY w.user_name, w.request_id IS NULL) AS h
    WHERE h.user_name <> h.to_user $$;

CREATE FUNCTION backbeat.heartbeat(p_worker text, p_ids uuid[], p_leases bigint[], p_lease_seconds double precision) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    UPDATE workers SET seen_at = backbeat.now() WHERE id = p_worker;
    WITH mine AS (
        SELECT t.id FROM simple_tasks t JOIN unnest(p_ids, p_leases) AS m(id, lease) ON t.id = m.id AND t.lease = m.lease
        WHERE t.status = 'running' ORDER BY t.id FOR NO KEY UPDATE OF t
    ), kept AS (
        UPDATE simple_tasks t SET lease_until = clock() + make_interval(secs => p_lease_seconds)
        FROM mine WHERE t.id = mine.id RETURNING t.id
    )
    SELECT m.id FROM unnest(p_ids) AS m(id) WHERE m.id NOT IN (SELECT k.id FROM kept k) $$;

CREATE FUNCTION backbeat.history_entry(p_task backbeat.simple_tasks, p_outcome text, p_error_class text, p_error text) RETURNS jsonb
    LANGUAGE sql
    RETURN jsonb_strip_nulls(jsonb_build_object('lease', (p_task).lease, 'worker', (p_task).worker, 'started_at', (p_task).started_at, 'ended_at', backbeat.clock(), 'outcome', p_outcome, 'error_class', p_error_class, 'error', "left"(p_error, 2000)));

CREATE FUNCTION backbeat.idempotency_key(p_workflow text, p_version integer, p_payload jsonb, p_salt text DEFAULT ''::text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN sha256(convert_to(format('[%s,%s,"%s",%s]'::text, to_jsonb(p_workflow), p_version, encode(sha256(convert_to(backbeat.canonical(p_payload), 'UTF8'::name)), 'hex'::text), to_jsonb(p_salt)), 'UTF8'::name));

CREATE TABLE backbeat.messages (
    id uuid NOT NULL,
    channel text NOT NULL,
    recipient text NOT NULL,
    notifications uuid[] NOT NULL,
    due_at timestamp with time zone NOT NULL,
    lease bigint,
    attempts integer DEFAULT 0 NOT NULL,
    shown uuid[] DEFAULT '{}'::uuid[] NOT NULL,
    last_error text,
    status text DEFAULT 'open'::text NOT NULL,
    CONSTRAINT messages_status_check CHECK ((status = ANY (ARRAY['open'::text, 'sent'::text, 'dead'::text, 'withdrawn'::text])))
);

CREATE FUNCTION backbeat.lease_message(p_channel text, p_for double precision) RETURNS SETOF backbeat.messages
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH due AS MATERIALIZED (SELECT d.id, ARRAY(
            SELECT n.id FROM notifications n LEFT JOIN approval_requests r ON r.id = n.request_id WHERE n.id = ANY (d.notifications)
            AND (r.id IS NULL OR n.event = 'decided' OR r.closed_at IS NULL AND n.facts -> 'revision' = to_jsonb(r.revision)) ORDER BY n.id) AS holds
        FROM messages d WHERE d.channel = p_channel AND d.status = 'open' AND d.due_at <= clock() ORDER BY d.due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    UPDATE messages m SET lease = nextval('leases'), due_at = clock() + make_interval(secs => p_for), shown = CASE m.attempts WHEN 0 THEN d.holds ELSE m.shown END,
    attempts = m.attempts + (d.holds <> '{}')::int, status = CASE d.holds WHEN '{}' THEN 'withdrawn' ELSE 'open' END FROM due d WHERE m.id = d.id RETURNING m.* $$;

CREATE FUNCTION backbeat.lease_outbox(p_kinds text[], p_limit integer, p_seconds double precision, p_loaded text[] DEFAULT NULL::text[]) RETURNS TABLE(stream uuid, seq integer, kind text, lease bigint, attempts integer, workflow text, version integer, temporal_id text, status text, state_seq integer)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH picked AS (
        SELECT o.stream, o.seq FROM temporal_outbox o JOIN orchestrated_workflows w ON w.id = o.stream, (SELECT clock(), clock() - interval '5 minutes') AS t(at, ago)
        WHERE o.kind = ANY (p_kinds) AND o.delivered_at IS NULL AND o.dead_at IS NULL AND o.lease_until <= t.at
          AND (p_loaded IS NULL OR w.workflow || '@' || w.version = ANY (p_loaded) OR o.lease_until < t.ago
               AND EXISTS (SELECT FROM presence p WHERE p.until > t.at - interval '1 minute' AND p.since < t.ago)
               AND NOT EXISTS (SELECT FROM workers k WHERE k.kind = 'temporal' AND k.seen_at > t.ago AND w.workflow || '@' || w.version = ANY (k.loaded)))
          AND NOT EXISTS (SELECT FROM temporal_outbox e
                          WHERE e.stream = o.stream AND e.seq < o.seq AND e.delivered_at IS NULL AND e.dead_at IS NULL)
        ORDER BY o.lease_until LIMIT p_limit FOR UPDATE OF o SKIP LOCKED
    )
    UPDATE temporal_outbox o SET lease = nextval('leases'), lease_until = clock() + make_interval(secs => p_seconds), attempts = o.attempts + 1
    FROM picked p, orchestrated_workflows w WHERE (o.stream, o.seq, w.id) = (p.stream, p.seq, p.stream)
    RETURNING o.stream, o.seq, o.kind, o.lease, o.attempts, w.workflow, w.version, w.temporal_id, w.status, w.state_seq $$;

CREATE TABLE backbeat.telemetry_outbox (
    id uuid NOT NULL,
    spans integer NOT NULL,
    body bytea NOT NULL,
    leased_until timestamp with time zone,
    refused text
);

CREATE FUNCTION backbeat.lease_spans(p_for double precision) RETURNS SETOF backbeat.telemetry_outbox
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    UPDATE telemetry_outbox o SET leased_until = clock() + make_interval(secs => p_for) WHERE o.id IN (SELECT i.id FROM telemetry_outbox i
    WHERE i.refused IS NULL AND coalesce(i.leased_until < clock(), true) ORDER BY i.id LIMIT 20 FOR UPDATE SKIP LOCKED) RETURNING o.* $$;

CREATE FUNCTION backbeat.leave_flows(p_ids uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_custom_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    WITH leaving AS (
        SELECT t.tenant, t.tier, t.class, t.workflow, t.version, t.status, t.estimate, 1 + coalesce(b.tokens, 0) / 1000.0::double precision AS cost
        FROM simple_tasks t LEFT JOIN (
            SELECT c.owner, c.lease, sum(c.uncached + c.cache_read + c.cache_write + c.output) AS tokens
            FROM model_calls c WHERE c.owner = ANY (p_ids) GROUP BY 1, 2) b ON (b.owner, b.lease) = (t.id, t.lease)
        WHERE t.id = ANY (p_ids) AND t.status IN ('ready', 'running')
    ), by_flow AS (
        SELECT l.tenant, l.tier, l.class, count(*) FILTER (WHERE l.status = 'ready') AS ready, count(*) FILTER (WHERE l.status = 'running') AS running,
               coalesce(sum(l.cost - l.estimate) FILTER (WHERE l.status = 'running'), 0) AS excess
        FROM leaving l GROUP BY 1, 2, 3
    ), told AS (
        UPDATE flows f SET ready = f.ready - b.ready, running = f.running - b.running, last_v = f.last_v + b.excess / (coalesce(n.weight, 1) * class_weight(f.class))
        FROM by_flow b LEFT JOIN tenants n ON n.id = b.tenant
        WHERE (f.tenant, f.tier, f.class) = (b.tenant, b.tier, b.class)
    )
    INSERT INTO estimates AS e (workflow, version, cost)
    SELECT l.workflow, l.version, avg(l.cost) FROM leaving l WHERE l.status = 'running' GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (workflow, version) DO UPDATE SET cost = 0.9 * e.cost + 0.1 * excluded.cost WHERE e.cost <> excluded.cost;
END $$;

CREATE FUNCTION backbeat.lock_budgets(p_calls backbeat.model_calls[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    PERFORM FROM budgets b WHERE b.id IN (SELECT unnest(c.charged) FROM unnest(p_calls) c) AND b.level < 3 ORDER BY b.level, b.id FOR UPDATE;
    PERFORM FROM budget_blocks k WHERE k.id IN (SELECT c.block FROM unnest(p_calls) c) ORDER BY k.id FOR UPDATE;
    PERFORM FROM budgets b
    WHERE b.id IN (SELECT unnest(c.charged) FROM unnest(p_calls) c WHERE NOT EXISTS (SELECT FROM budget_blocks k WHERE k.id = c.block))
    ORDER BY b.level, b.id FOR UPDATE;
END $$;

CREATE TABLE backbeat.flows (
    tenant text NOT NULL,
    tier text NOT NULL,
    class text NOT NULL,
    last_v double precision DEFAULT 0 NOT NULL,
    ready integer DEFAULT 0 NOT NULL,
    running integer DEFAULT 0 NOT NULL,
    CONSTRAINT flows_class_check CHECK ((class = ANY (ARRAY['urgent'::text, 'high'::text, 'normal'::text, 'low'::text]))),
    CONSTRAINT flows_ready_check CHECK ((ready >= 0)),
    CONSTRAINT flows_running_check CHECK ((running >= 0))
)
WITH (fillfactor='20', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500', autovacuum_vacuum_cost_delay='0');

CREATE FUNCTION backbeat.lock_flows(p_ids uuid[], p_children text[] DEFAULT NULL::text[], p_flows backbeat.flows[] DEFAULT NULL::backbeat.flows[]) RETURNS SETOF backbeat.flows
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH own AS (
        SELECT t.tenant, t.tier, t.class FROM simple_tasks t WHERE t.id = ANY (p_ids) UNION SELECT k.tenant, k.tier, k.class FROM unnest(p_flows) k
    ), wanted AS (
        SELECT * FROM own
        UNION SELECT o.tenant, w.lane, o.class FROM own o JOIN workflows w ON w.name || '@' || w.version = ANY (p_children)
    ), capped AS MATERIALIZED (
        SELECT n.id FROM tenants n WHERE n.max_running IS NOT NULL AND n.id IN (SELECT o.tenant FROM own o) ORDER BY n.id FOR UPDATE
    )
    SELECT f.* FROM flows f JOIN wanted USING (tenant, tier, class) WHERE (SELECT count(*) FROM capped) >= 0 ORDER BY f.tenant, f.tier, f.class FOR UPDATE OF f $$;

CREATE FUNCTION backbeat.lose(p_calls backbeat.model_calls[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    IF p_calls <> '{}' THEN
        PERFORM lock_budgets(p_calls);
        PERFORM book(c, 'lost') FROM unnest(p_calls) c;
        UPDATE model_calls c SET status = 'lost', closed_at = clock(), error_class = 'worker_lost'
        FROM unnest(p_calls) l WHERE (c.owner, c.call_key, c.seq) = (l.owner, l.call_key, l.seq);
    END IF;
END $$;

CREATE FUNCTION backbeat.lose_calls(p_owners uuid[]) RETURNS void
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$ SELECT lose(ARRAY(SELECT c FROM model_calls c WHERE c.owner = ANY (p_owners) AND c.status = 'open' AND c.batch IS NULL ORDER BY c.owner, c.call_key FOR UPDATE)) $$;

CREATE FUNCTION backbeat.maintain_partitions(p_days_ahead integer DEFAULT 14) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET lock_timeout TO '2s'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_made integer := 0;
    v_today date := utc_day(backbeat.now());
    v_day date; v_name text;
BEGIN
    FOR v_day IN
        WITH RECURSIVE live AS (
            SELECT NULL::date AS day, '00000000-0000-0000-0000-000000000000'::uuid AS after
            UNION ALL
            SELECT n.day, uuid7_floor((n.day + 1)::timestamp AT TIME ZONE 'UTC') FROM live l CROSS JOIN LATERAL (
                SELECT utc_day(to_timestamp((('x' || translate(left(t.id::text, 13), '-', ''))::bit(48)::bigint) / 1000.0)) AS day
                FROM simple_tasks t WHERE t.id >= l.after ORDER BY t.id LIMIT 1) n WHERE n.day < v_today
        )
        SELECT l.day FROM live l WHERE l.day >= v_today - 400
        UNION SELECT v_today + d FROM generate_series(-1, least(greatest(p_days_ahead, 1), 31)) AS d
    LOOP
        v_name := 'finished_tasks_' || to_char(v_day, 'YYYYMMDD');
        IF to_regclass('backbeat.' || v_name) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE backbeat.%I (LIKE backbeat.finished_tasks INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', v_name);
                EXECUTE format('ALTER TABLE backbeat.finished_tasks ATTACH PARTITION backbeat.%I FOR VALUES FROM (%L) TO (%L)',
                    v_name, uuid7_floor(v_day::timestamp AT TIME ZONE 'UTC'), uuid7_floor((v_day + 1)::timestamp AT TIME ZONE 'UTC'));
                EXECUTE format('GRANT SELECT ON backbeat.%I TO backbeat_worker', v_name);
                v_made := v_made + 1;
            EXCEPTION
                -- Another tick makes it, or somebody is in the way for now: there are days in hand.
                WHEN duplicate_table OR lock_not_available THEN NULL;
            END;
        END IF;
    END LOOP;
    RETURN v_made;
END $$;

CREATE FUNCTION backbeat.mark_batch(p_tag text, p_lease bigint, p_status text, p_vendor_id text, p_note text, p_seconds double precision, p_cancel boolean DEFAULT false) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
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

CREATE FUNCTION backbeat.may_be_lost(p_key text, p_owner uuid DEFAULT NULL::uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT CASE WHEN p_key ~ '^[0-9a-f]{32}:' THEN p_owner < uuid7_floor(l.restored_at + interval '1 day') ELSE p_key COLLATE "C" < uuid7_floor(l.restored_at)::text END
        AND NOT EXISTS (SELECT FROM side_effects e WHERE e.key = p_key) FROM ledger l $$;

CREATE FUNCTION backbeat.need_tenant(p_id text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $_$
BEGIN
    IF EXISTS (SELECT FROM tenants t WHERE t.id = p_id AND t.id <> '*') THEN RETURN; END IF;
    INSERT INTO tenants (id, weight, max_running)
    SELECT p_id, t.weight, t.max_running FROM tenants t WHERE t.id = '*' AND p_id ~ '^(?=.*\S)[^[:cntrl:]]{1,200}$'
    ON CONFLICT DO NOTHING;
    IF p_id = '*' OR NOT EXISTS (SELECT FROM tenants t WHERE t.id = p_id) THEN
        RAISE EXCEPTION 'tenant % does not exist', p_id USING ERRCODE = 'BB001', HINT = '`backbeat tenant set` makes one, `backbeat tenant unknown create` all';
    END IF;
END $_$;

CREATE FUNCTION backbeat.next_reminder(p_tenant text, p_policy jsonb, p_deadline timestamp with time zone, p_at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT least(after_time(p_tenant, p_policy, p_at, (p_policy ->> 'remind_every')::double precision), CASE WHEN l.at > p_at THEN l.at END)
    FROM (SELECT p_deadline - make_interval(secs => (p_policy ->> 'remind_before')::double precision)) AS l(at) $$;

CREATE FUNCTION backbeat.next_step(p_agent uuid) RETURNS void
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    INSERT INTO simple_tasks (id, tenant, workflow, version, tier, class, payload, status, rank, max_attempts, agent_id, parent_id, origin_id, traceparent, source_at,
        created_at)
    SELECT uuid7(), f.tenant, f.workflow, f.version, f.tier, f.class, f.payload, 'pending', 0, w.max_attempts, a.id, a.parent_id, f.origin_id, f.traceparent, f.source_at,
        clock() FROM agents a JOIN finished_tasks f ON f.id = a.task_id JOIN workflows w ON (w.name, w.version) = (f.workflow, f.version) WHERE a.id = p_agent
    ON CONFLICT (agent_id) WHERE agent_id IS NOT NULL DO NOTHING $$;

CREATE FUNCTION backbeat.nobody_can(p_request backbeat.approval_requests, p_at timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT NOT p_request.policy @> '{"allow_unsigned_signal": true}' AND EXISTS (
        SELECT FROM rules_at(p_request, p_at) AS r(rule) WHERE (r.rule ->> 'needed')::integer > (SELECT count(*) FROM (
            SELECT t.user_name FROM api_tokens t, LATERAL rights(p_request, t.user_name, t.groups, p_at) AS g
            WHERE t.revoked_at IS NULL AND (t.expires_at > p_at) IS NOT FALSE AND NOT g.barred AND fits(r.rule, g.name, g.groups)
            UNION SELECT d.user_name FROM approval_decisions d
            WHERE (d.request_id, d.revision, d.decision) = (p_request.id, p_request.revision, 'approve') AND fits(r.rule, d.for_user, d.groups)) AS people)) $$;

CREATE FUNCTION backbeat.note_effect(p_key text, p_error text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$ UPDATE side_effects SET error = left(p_error, 2000) WHERE key = p_key AND status <> 'done' $$;

CREATE FUNCTION backbeat.note_presence() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO presence AS p SELECT coalesce(max(o.since), NEW.seen_at), NEW.seen_at FROM presence o WHERE o.until > NEW.seen_at - interval '1 minute'
    ON CONFLICT (since) DO UPDATE SET until = greatest(p.until, excluded.until);
    RETURN NULL;
END $$;

CREATE FUNCTION backbeat.note_restore(p_proof uuid, p_by text, p_reason text) RETURNS SETOF bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH news AS (UPDATE ledger SET restored_at = clock() WHERE p_proof IS NULL OR p_proof > uuid7_floor(restored_at) RETURNING one), doubted AS (
        UPDATE side_effects SET status = 'unknown', fire_until = greatest(fire_until, clock()) WHERE status = 'intended' AND EXISTS (SELECT FROM news) RETURNING 1)
    SELECT audit(session_user, 'postgres.restored', 'ledger', jsonb_build_object('by', p_by, 'reason', p_reason, 'open', (SELECT count(*) FROM doubted))) FROM news $$;

CREATE TABLE backbeat.budgets (
    id bigint NOT NULL,
    scope text NOT NULL,
    key text NOT NULL,
    day date NOT NULL,
    level smallint GENERATED ALWAYS AS (array_position('{task,agent,workflow,tenant}'::text[], scope)) STORED NOT NULL,
    cap_usd numeric,
    cap_tokens bigint,
    soft boolean DEFAULT false NOT NULL,
    reserved_usd numeric DEFAULT 0 NOT NULL,
    reserved_tokens bigint DEFAULT 0 NOT NULL,
    spent_usd numeric DEFAULT 0 NOT NULL,
    spent_tokens bigint DEFAULT 0 NOT NULL,
    presumed_usd numeric DEFAULT 0 NOT NULL,
    presumed_tokens bigint DEFAULT 0 NOT NULL,
    overrun_usd numeric DEFAULT 0 NOT NULL,
    calls bigint DEFAULT 0 NOT NULL,
    unpriced_calls bigint DEFAULT 0 NOT NULL,
    rate double precision DEFAULT 0 NOT NULL,
    touched_at timestamp with time zone DEFAULT backbeat.clock() NOT NULL,
    raised_by text,
    CONSTRAINT budgets_overrun_usd_check CHECK ((overrun_usd >= (0)::numeric)),
    CONSTRAINT budgets_presumed_tokens_check CHECK ((presumed_tokens >= 0)),
    CONSTRAINT budgets_presumed_usd_check CHECK ((presumed_usd >= (0)::numeric)),
    CONSTRAINT budgets_reserved_tokens_check CHECK ((reserved_tokens >= 0)),
    CONSTRAINT budgets_reserved_usd_check CHECK ((reserved_usd >= (0)::numeric)),
    CONSTRAINT budgets_scope_check CHECK ((scope = ANY (ARRAY['task'::text, 'agent'::text, 'workflow'::text, 'tenant'::text]))),
    CONSTRAINT budgets_spent_tokens_check CHECK ((spent_tokens >= 0)),
    CONSTRAINT budgets_spent_usd_check CHECK ((spent_usd >= (0)::numeric))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_threshold='500', autovacuum_vacuum_cost_delay='0');

CREATE FUNCTION backbeat.objection(p_row backbeat.budgets, p_usd numeric, p_tokens bigint) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN (((p_row).cap_usd IS NOT NULL) AND (p_usd IS NULL)) THEN 'unpriced'::text WHEN (((((p_row).spent_usd + (p_row).presumed_usd) + p_usd) > (p_row).cap_usd) OR ((((p_row).spent_tokens + (p_row).presumed_tokens) + p_tokens) > (p_row).cap_tokens)) THEN CASE WHEN ((p_row).scope = ANY (ARRAY['task'::text, 'agent'::text])) THEN 'over'::text ELSE 'held'::text END WHEN ((((((p_row).spent_usd + (p_row).presumed_usd) + (p_row).reserved_usd) + p_usd) > (p_row).cap_usd) OR (((((p_row).spent_tokens + (p_row).presumed_tokens) + (p_row).reserved_tokens) + p_tokens) > (p_row).cap_tokens)) THEN 'snooze'::text ELSE NULL::text END;

CREATE FUNCTION backbeat.open_calls(p_worker text, p_calls jsonb) RETURNS TABLE(n bigint, verdict text, seq smallint, response jsonb, detail text, until timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET plan_cache_mode TO 'force_generic_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE v_answered integer; v_ask record; v_call model_calls; v_lost model_calls[]; v_rows bigint[]; v_hot bigint[];
    v_block budget_blocks; v_need record; v_part record; v_no record;
BEGIN
    -- KEY SHARE blocks a reaper and a settlement, not a heartbeat: no call opens under a lease that is being taken away.
    PERFORM FROM simple_tasks t WHERE t.id IN (SELECT (a ->> 'owner')::uuid FROM jsonb_array_elements(p_calls) a) ORDER BY t.id FOR KEY SHARE;
    RETURN QUERY
    SELECT a.n, CASE WHEN NOT a.payable AND a.seq IS NULL THEN 'fenced' WHEN a.payable THEN 'stopped' ELSE 'memo' END, a.seq, a.response, w.reason, NULL::timestamptz
    FROM asked(p_calls) a LEFT JOIN switches w ON w.name = 'all' WHERE NOT a.payable OR w.name IS NOT NULL;
    GET DIAGNOSTICS v_answered = ROW_COUNT;
    IF v_answered = jsonb_array_length(p_calls) THEN RETURN; END IF;
    v_lost := ARRAY(
        SELECT c FROM asked(p_calls) a JOIN model_calls c ON (c.owner, c.call_key, c.status) = ((a.call).owner, (a.call).call_key, 'open')
        WHERE a.payable ORDER BY c.owner, c.call_key FOR UPDATE OF c);
    IF v_lost <> '{}' THEN
        PERFORM lose(ARRAY(SELECT l FROM unnest(v_lost) l WHERE l.batch IS NULL));
        RETURN QUERY SELECT a.n, CASE WHEN l.batch IS NULL THEN 'again' ELSE 'batch' END, NULL::smallint, NULL::jsonb, NULL, NULL::timestamptz
        FROM asked(p_calls) a LEFT JOIN unnest(v_lost) l ON (l.owner, l.call_key) = ((a.call).owner, (a.call).call_key) WHERE a.payable;
        RETURN;
    END IF;

    LOOP
        v_rows := ARRAY(SELECT DISTINCT p.budget FROM asked(p_calls) a CROSS JOIN LATERAL payers((a.call).owner) p WHERE a.payable);
        EXIT WHEN array_position(v_rows, NULL) IS NULL;
        INSERT INTO budgets (scope, key, day, cap_usd, cap_tokens, soft)
        SELECT DISTINCT p.scope, p.key, p.day, p.usd, p.tokens, p.soft FROM asked(p_calls) a CROSS JOIN LATERAL payers((a.call).owner) p
        WHERE a.payable AND p.budget IS NULL ORDER BY p.scope, p.key ON CONFLICT DO NOTHING;
    END LOOP;
    PERFORM FROM budgets b WHERE b.id = ANY (v_rows) AND b.level < 3 ORDER BY b.level, b.id FOR UPDATE;
    v_hot := ARRAY(SELECT b.id FROM budgets b WHERE b.id = ANY (v_rows) AND b.level > 2 ORDER BY b.level, b.id);
    SELECT sum((a ->> 'reserved_usd')::numeric) AS usd, sum((a ->> 'reserved_tokens')::bigint) AS tokens, bool_or(a ->> 'reserved_usd' IS NULL) AS unpriced
    INTO v_need FROM jsonb_array_elements(p_calls) a;
    SELECT * INTO v_block FROM budget_blocks k WHERE k.worker = p_worker AND k.budgets = v_hot FOR UPDATE;
    IF v_block.leased_until < clock() OR v_block.left_usd < v_need.usd OR v_block.left_tokens < v_need.tokens OR v_block.left_usd IS NOT NULL AND v_need.unpriced THEN
        PERFORM fold(v_block);
        v_block := NULL;
    ELSIF v_block.id IS NULL THEN
        PERFORM FROM budgets b WHERE b.id = ANY (v_hot) ORDER BY b.level, b.id FOR UPDATE;
    END IF;

    FOR v_ask IN SELECT a.n, a.call FROM asked(p_calls) a WHERE a.payable LOOP
        n := v_ask.n; verdict := 'open'; seq := NULL; detail := NULL; until := NULL;
        v_call := v_ask.call; v_call.block := v_block.id; v_call.charged := v_rows;
        IF EXISTS (SELECT FROM pauses p WHERE (p.scope, p.key) = ('route', v_call.route)) THEN
            verdict := 'route'; detail := v_call.route; until := clock() + interval '15 minutes';
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF cardinality(v_rows) > 2 THEN v_call.charged := ARRAY(SELECT p.budget FROM payers(v_call.owner) p); END IF;
        SELECT o.* INTO v_no FROM (
            SELECT b.*, CASE WHEN b.soft THEN objection(b, v_call.likely_usd, v_call.likely_tokens) ELSE objection(b, v_call.reserved_usd, v_call.reserved_tokens) END AS verdict
            FROM budgets b WHERE b.id = ANY (v_call.charged) AND (v_call.block IS NULL OR b.level < 3)) o
        WHERE o.verdict IS NOT NULL ORDER BY o.verdict = 'snooze', o.level LIMIT 1;
        IF FOUND THEN
            verdict := v_no.verdict;
            detail := v_no.scope || '/' || v_no.key;
            IF verdict = 'held' THEN
                until := (v_no.day + 1)::timestamp AT TIME ZONE 'UTC' + random() * interval '5 minutes';
            ELSIF verdict = 'over' THEN
                detail := format('%s may use %s USD and %s tokens; %s USD and %s tokens are spent, %s and %s presumed spent, and call %s may take %s and %s',
                    detail, coalesce(trim_scale(v_no.cap_usd)::text, 'any'), coalesce(v_no.cap_tokens::text, 'any'), trim_scale(v_no.spent_usd), v_no.spent_tokens, trim_scale(v_no.presumed_usd),
                    v_no.presumed_tokens, v_call.call_key, coalesce(trim_scale(v_call.reserved_usd)::text, 'unknown'), v_call.reserved_tokens);
            END IF;
        ELSE
            PERFORM book(v_call, 'open');
            SELECT coalesce(max(c.seq), 0) + 1 INTO seq FROM model_calls c WHERE c.owner = v_call.owner AND c.call_key = v_call.call_key;
            v_call.seq := seq; v_call.status := 'open';
            INSERT INTO model_calls SELECT v_call.*;
        END IF;
        RETURN NEXT;
    END LOOP;

    SELECT min(trunc((b.cap_usd - b.spent_usd - b.presumed_usd - b.reserved_usd) / 64, 9)) AS usd,
           min((b.cap_tokens - b.spent_tokens - b.presumed_tokens - b.reserved_tokens) / 64) AS tokens, max(b.rate) > 100 AND NOT bool_or(b.soft) AS wanted
    INTO v_part FROM budgets b WHERE b.id = ANY (v_hot);
    IF v_block.id IS NULL AND v_part.wanted AND cardinality(v_hot) = 2 AND coalesce(v_part.usd > 4 * v_need.usd, true) AND coalesce(v_part.tokens > 4 * v_need.tokens, true) THEN
        INSERT INTO budget_blocks (worker, budgets, usd, tokens, left_usd, left_tokens, leased_until)
        VALUES (p_worker, v_hot, coalesce(v_part.usd, 0), coalesce(v_part.tokens, 0), v_part.usd, v_part.tokens, clock() + interval '10 seconds');
        UPDATE budgets b SET reserved_usd = b.reserved_usd + coalesce(v_part.usd, 0), reserved_tokens = b.reserved_tokens + coalesce(v_part.tokens, 0)
        WHERE b.id = ANY (v_hot);
    END IF;
END $$;

CREATE FUNCTION backbeat.pause(p_scope text, p_key text, p_reason text, p_by text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
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

CREATE FUNCTION backbeat.payers(p_owner uuid) RETURNS TABLE(scope text, key text, day date, usd numeric, tokens bigint, soft boolean, budget bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE v_next uuid := p_owner; v_task record; v_workflow text; v_above text; v_tenant text;
BEGIN
    WHILE v_next IS NOT NULL LOOP
        SELECT t.id, t.parent_id, t.agent_id, t.workflow, t.version, t.tenant INTO v_task FROM simple_tasks t WHERE t.id = v_next;
        IF NOT FOUND THEN SELECT f.id, f.parent_id, f.agent_id, f.workflow, f.version, f.tenant INTO v_task FROM finished_tasks f WHERE f.id = v_next; END IF;
        IF NOT FOUND THEN
            SELECT w.id, NULL::uuid AS parent_id, NULL::uuid AS agent_id, w.workflow, w.version, w.tenant INTO v_task FROM orchestrated_workflows w
            WHERE w.id = coalesce((SELECT j.workflow_id FROM joins j WHERE j.id = v_next), v_next);
            v_above := nullif(v_task.workflow, v_workflow);
        END IF;
        v_workflow := coalesce(v_workflow, v_task.workflow); v_tenant := coalesce(v_tenant, v_task.tenant);
        v_next := v_task.parent_id;
        RETURN QUERY
        SELECT s.scope, s.key, s.day, s.usd, s.tokens, s.soft, b.id FROM (
            SELECT o.scope, coalesce(v_task.agent_id, v_task.id)::text AS key, date '-infinity' AS day, coalesce(c.usd, w.max_usd) AS usd,
                   coalesce(c.tokens, w.max_tokens) AS tokens, coalesce(c.soft, false) AS soft
            FROM (SELECT CASE WHEN v_task.agent_id IS NULL THEN 'task' ELSE 'agent' END AS scope) o
            LEFT JOIN workflows w ON (w.name, w.version) = (v_task.workflow, v_task.version) LEFT JOIN budget_caps c ON (c.scope, c.key) = (o.scope, v_task.workflow)
            WHERE coalesce(c.usd, w.max_usd, c.tokens, w.max_tokens) IS NOT NULL) s
        LEFT JOIN budgets b ON (b.scope, b.key, b.day) = (s.scope, s.key, s.day);
    END LOOP;
    RETURN QUERY
    SELECT s.scope, s.key, utc_day(backbeat.now()), c.usd, c.tokens, coalesce(c.soft, false), b.id
    FROM (VALUES ('workflow', v_workflow), ('workflow', nullif(v_above, v_workflow)), ('tenant', v_tenant)) AS s(scope, key)
    LEFT JOIN budget_caps c ON (c.scope, c.key) = (s.scope, s.key) LEFT JOIN budgets b ON (b.scope, b.key, b.day) = (s.scope, s.key, utc_day(backbeat.now())) WHERE s.key IS NOT NULL;
END $$;

CREATE PROCEDURE backbeat.pin_functions()
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_function regprocedure;
BEGIN
    FOR v_function IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'backbeat'::regnamespace AND p.prosqlbody IS NULL
        AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c(setting) WHERE c.setting LIKE 'search_path=%')
    LOOP
        EXECUTE format('ALTER ROUTINE %s SET search_path = backbeat, pg_temp', v_function);
    END LOOP;
END $$;

CREATE FUNCTION backbeat.project_run(p_workflow uuid, p_seq integer, p_status text, p_run_id text, p_waiting_for text, p_result jsonb, p_error text, p_steps jsonb) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_news boolean := project_state(p_workflow, p_seq, p_status, p_run_id, p_waiting_for, p_result, p_error);
BEGIN
    INSERT INTO orchestrated_workflows_steps SELECT s.* FROM jsonb_populate_recordset(NULL::orchestrated_workflows_steps, p_steps) s WHERE v_news
    ON CONFLICT (workflow_id, seq) DO UPDATE SET status = excluded.status, waits_for = excluded.waits_for, ended_at = excluded.ended_at, detail = excluded.detail;
    RETURN v_news;
END $$;

CREATE FUNCTION backbeat.project_state(p_workflow uuid, p_seq integer, p_status text, p_run_id text, p_waiting_for text DEFAULT NULL::text, p_result jsonb DEFAULT NULL::jsonb, p_error text DEFAULT NULL::text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_ended boolean := p_status IN ('completed', 'failed', 'cancelled');
    v_now timestamptz; v_request uuid;
BEGIN
    PERFORM FROM orchestrated_workflows WHERE id = p_workflow FOR NO KEY UPDATE;
    v_now := clock();
    UPDATE orchestrated_workflows
    SET status = p_status, state_seq = p_seq, run_id = p_run_id, waiting_for = p_waiting_for, result = p_result, error = p_error,
        updated_at = CASE WHEN waiting_for = p_waiting_for THEN updated_at ELSE v_now END, checked_at = v_now, finished_at = CASE WHEN v_ended THEN v_now END
    WHERE id = p_workflow AND state_seq < p_seq AND finished_at IS NULL;
    IF NOT FOUND THEN RETURN false; END IF;
    IF v_ended THEN
        FOR v_request IN UPDATE approval_requests SET state = 'cancelled', closed_at = v_now, closed_by = '(workflow)'
            WHERE workflow_id = p_workflow AND (state IN ('pending', 'changes') OR state = 'approved' AND effect_after > v_now) RETURNING id
        LOOP
            PERFORM audit('(workflow)', 'approval.cancelled', v_request::text, jsonb_build_object('workflow', p_status));
        END LOOP;
        PERFORM audit('(workflow)', 'workflow.refused', p_workflow::text, jsonb_build_object('error', p_error)) FROM orchestrated_workflows w
        WHERE (w.id, w.workflow, w.status) = (p_workflow, 'approve_effect', 'failed') AND NOT EXISTS (SELECT FROM approval_requests r WHERE r.workflow_id = w.id);
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION backbeat.promote(p_flows backbeat.flows[]) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET plan_cache_mode TO 'force_custom_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_ids uuid[]; v_moved integer;
BEGIN
    SELECT array_agg(l.id) INTO v_ids
    FROM unnest(p_flows) AS k JOIN flow_rooms f ON (f.tenant, f.tier, f.class) = (k.tenant, k.tier, k.class) AND f.tier NOT LIKE 'bulk/%' CROSS JOIN LATERAL (
        SELECT t.id, t.workflow FROM simple_tasks t
        WHERE t.status = 'pending' AND t.tenant = f.tenant AND t.tier = f.tier AND t.class = f.class
        ORDER BY t.rank, t.id LIMIT f.room FOR UPDATE SKIP LOCKED) l
    -- The next sweep parks them; who comes here may be a producer.
    WHERE NOT EXISTS (SELECT FROM pauses p WHERE (p.scope, p.key) = ('workflow', l.workflow));
    IF v_ids IS NULL THEN RETURN 0; END IF;
    PERFORM lock_flows(v_ids);
    WITH picked AS (
        SELECT t.id, t.tenant, t.tier, t.class, t.rank, coalesce(e.cost, 1) AS cost,
               row_number() OVER (PARTITION BY t.tenant, t.tier, t.class ORDER BY t.rank, t.id) AS in_flow,
               row_number() OVER (PARTITION BY t.tenant ORDER BY t.rank, t.id) AS in_tenant
        FROM simple_tasks t LEFT JOIN estimates e ON (e.workflow, e.version) = (t.workflow, t.version)
        WHERE t.id = ANY (v_ids)
    ), placed AS MATERIALIZED (
        SELECT p.id, p.cost, greatest(f.last_v, v.v, v.floor) + sum(p.cost) OVER (PARTITION BY p.tenant, p.tier, p.class ORDER BY p.rank, p.id)
               / (n.weight * class_weight(p.class)) AS vstart
        FROM picked p JOIN flows f USING (tenant, tier, class) JOIN tenants n ON n.id = p.tenant JOIN virtual_time v ON v.tier = p.tier
        WHERE p.in_flow <= 64 - f.ready
          AND (n.max_running IS NULL OR p.in_tenant <= n.max_running - (SELECT sum(g.ready + g.running) FROM flows g WHERE g.tenant = n.id))
    ), moved AS (
        UPDATE simple_tasks t SET status = 'ready', vstart = p.vstart, estimate = p.cost
        FROM placed p WHERE t.id = p.id RETURNING t.tenant, t.tier, t.class, t.vstart
    ), counted AS (
        SELECT m.tenant, m.tier, m.class, count(*)::integer AS n, max(m.vstart) AS last_v FROM moved m GROUP BY 1, 2, 3
    ), told AS (
        UPDATE flows f SET ready = f.ready + c.n, last_v = c.last_v FROM counted c
        WHERE (f.tenant, f.tier, f.class) = (c.tenant, c.tier, c.class) RETURNING c.n
    )
    SELECT coalesce(sum(n), 0) INTO v_moved FROM told;
    RETURN v_moved;
END $$;

CREATE FUNCTION backbeat.push_outbox(p_stream uuid, p_kind text) RETURNS integer
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    INSERT INTO temporal_outbox (stream, seq, kind, lease_until, created_at)
    SELECT p_stream, coalesce(max(seq), 0) + 1, p_kind, clock(), clock() FROM temporal_outbox WHERE stream = p_stream
    RETURNING seq $$;

CREATE FUNCTION backbeat.put_spans(p_id uuid, p_spans integer, p_body bytea) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    INSERT INTO telemetry_outbox (id, spans, body) VALUES (p_id, p_spans, p_body) ON CONFLICT DO NOTHING $$;

CREATE FUNCTION backbeat.reap(p_limit integer DEFAULT 100, p_leases bigint[] DEFAULT NULL::bigint[]) RETURNS TABLE(task_id uuid, lease bigint, status text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE v_ids uuid[]; v_leases bigint[]; v_dead departure[];
BEGIN
    SELECT array_agg(l.id ORDER BY l.id), array_agg(l.lease ORDER BY l.id) INTO v_ids, v_leases FROM (
        SELECT t.id, t.lease FROM simple_tasks t
        WHERE t.status = 'running' AND t.lease_until < clock() AND (p_leases IS NULL OR t.lease = ANY (p_leases))
        ORDER BY t.id LIMIT p_limit FOR UPDATE SKIP LOCKED) l;
    IF v_ids IS NULL THEN RETURN; END IF;
    PERFORM lock_flows(v_ids);
    PERFORM leave_flows(v_ids);
    PERFORM lose_calls(v_ids);
    SELECT array_agg(ROW(t.id, 'dead', NULL, 'worker_lost', format('worker %s stopped renewing its lease; %s of %s attempts', t.worker, t.attempts, t.max_attempts),
        NULL, history_entry(t, 'lost', 'worker_lost', NULL))::departure) INTO v_dead
    FROM simple_tasks t WHERE t.id = ANY (v_ids) AND t.attempts >= t.max_attempts;
    IF v_dead IS NOT NULL THEN PERFORM end_tasks(v_dead); END IF;
    UPDATE simple_tasks t
    SET status = 'pending', rank = 0, vstart = NULL, estimate = NULL, lease_until = NULL, worker = NULL, started_at = NULL,
        alone = t.attempts + 1 >= t.max_attempts, history = t.history || history_entry(t, 'lost', 'worker_lost', NULL)
    WHERE t.id = ANY (v_ids);
    RETURN QUERY
    SELECT l.id, l.lease, coalesce(t.status, 'dead') FROM unnest(v_ids, v_leases) AS l(id, lease) LEFT JOIN simple_tasks t ON t.id = l.id;
END $$;

CREATE FUNCTION backbeat.reassign(p_from text, p_to text, p_reason text) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_now timestamptz := clock(); v_open integer;
    v_groups text[] := ARRAY(SELECT DISTINCT unnest(t.groups) FROM api_tokens t WHERE t.user_name = p_from ORDER BY 1);
BEGIN
    IF p_from = p_to OR NOT EXISTS (SELECT FROM api_tokens t WHERE t.user_name = p_to AND t.revoked_at IS NULL AND (t.expires_at > v_now) IS NOT FALSE) THEN
        RETURN NULL;
    END IF;
    INSERT INTO approval_decisions (id, revision, user_name, for_user, groups, decision, to_user, until, comment, via, decided_at)
    VALUES (uuid7(), 0, p_from, p_from, v_groups, 'delegate', p_to, 'infinity', p_reason, 'owner', v_now);
    UPDATE api_tokens SET revoked_at = v_now WHERE user_name = p_from AND revoked_at IS NULL;
    SELECT count(*) INTO v_open FROM approval_requests r WHERE r.state IN ('pending', 'changes')
        AND EXISTS (SELECT FROM rules_at(r, v_now) AS a(rule) WHERE fits(a.rule, p_from, v_groups));
    INSERT INTO notifications VALUES (uuid7(), 'delegated', NULL, NULL, ARRAY[p_to], '{}', jsonb_build_object('by', session_user, 'from', p_from, 'open', v_open), v_now);
    PERFORM audit(session_user, 'approval.reassigned', p_from, jsonb_build_object('to', p_to, 'reason', p_reason, 'open', v_open));
    RETURN v_open;
END $$;

CREATE FUNCTION backbeat.recheck_workflow(p_workflow uuid) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    UPDATE orchestrated_workflows SET checked_at = '-infinity' WHERE id = p_workflow AND finished_at IS NULL RETURNING id $$;

CREATE FUNCTION backbeat.reconcile_call(p_owner uuid, p_key text, p_seq smallint, p_cost numeric, p_tokens integer, p_by text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_call model_calls;
BEGIN
    SELECT * INTO v_call FROM model_calls c WHERE (c.owner, c.call_key, c.seq, c.status) = (p_owner, p_key, p_seq, 'lost') FOR UPDATE;
    IF FOUND THEN
        PERFORM close_calls(jsonb_build_array(jsonb_build_object('owner', p_owner, 'call_key', p_key, 'seq', p_seq, 'error_class', 'reconciled',
            'status', CASE WHEN p_cost = 0 AND p_tokens = 0 THEN 'refused' ELSE 'done' END, 'cost_usd', p_cost,
            'uncached', p_tokens, 'cache_read', 0, 'cache_write', 0, 'output', 0)));
        PERFORM audit(session_user, 'budget.reconciled', format('%s/%s#%s', p_owner, p_key, p_seq), jsonb_build_object('by', p_by, 'presumed_usd', v_call.reserved_usd,
            'presumed_tokens', v_call.reserved_tokens, 'cost_usd', p_cost, 'tokens', p_tokens));
    END IF;
    RETURN v_call.owner IS NOT NULL;
END $$;

CREATE FUNCTION backbeat.refire_effect(p_key text, p_token bigint, p_fire_seconds double precision, p_error text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    IF p_fire_seconds > 0 AND EXISTS (SELECT FROM switches) THEN RETURN false; END IF;
    UPDATE side_effects
    SET status = 'intended', error = p_error, resolved_by = NULL,
        fire_until = CASE WHEN p_fire_seconds > 0 THEN clock() + make_interval(secs => p_fire_seconds) END,
        fires = fires + CASE WHEN p_fire_seconds > 0 THEN 1 ELSE 0 END
    WHERE key = p_key AND status <> 'done' AND token = p_token;
    RETURN FOUND;
END $$;

CREATE FUNCTION backbeat.refuse_start(p_workflow text, p_by text, p_error text) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT audit(session_user, 'workflow.refused', p_workflow, jsonb_build_object('by', p_by, 'error', p_error)) $$;

CREATE FUNCTION backbeat.refuse_unknown_tenants(p_by text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    DELETE FROM tenants WHERE id = '*';
    SELECT FROM audit(session_user, 'tenant.refuse_unknown', '*', jsonb_build_object('by', p_by)); $$;

CREATE FUNCTION backbeat.register_definitions(p_runtime text, p_definitions jsonb) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    INSERT INTO workflows AS w (name, version, runtime, tier, max_attempts, bulk, history, trace, idempotency, max_usd, max_tokens)
    SELECT d.name, d.version, p_runtime, d.tier, d.max_attempts, d.bulk, coalesce(d.history, 'full'), coalesce(d.trace, 'task'),
           coalesce(d.idempotency, true), d.max_usd, d.max_tokens
    FROM jsonb_populate_recordset(NULL::workflows, p_definitions) AS d
    ORDER BY d.name, d.version
    ON CONFLICT (name, version) DO UPDATE
    SET tier = excluded.tier, max_attempts = excluded.max_attempts, bulk = excluded.bulk, history = excluded.history, trace = excluded.trace,
        idempotency = excluded.idempotency, max_usd = excluded.max_usd, max_tokens = excluded.max_tokens
    WHERE (w.tier, w.max_attempts, w.bulk, w.history, w.trace, w.idempotency, w.max_usd, w.max_tokens) IS DISTINCT FROM
        (excluded.tier, excluded.max_attempts, excluded.bulk, excluded.history, excluded.trace, excluded.idempotency, excluded.max_usd, excluded.max_tokens) $$;

CREATE FUNCTION backbeat.register_worker(p_worker text, p_kind text, p_definitions jsonb) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_loaded text[]; v_released integer;
BEGIN
    PERFORM register_definitions(p_kind, p_definitions);
    UPDATE workflows w SET seen_at = backbeat.now()
    FROM jsonb_to_recordset(p_definitions) AS d(name text, version integer)
    WHERE (w.name, w.version, w.runtime) = (d.name, d.version, p_kind) AND coalesce(w.seen_at < backbeat.now() - interval '1 minute', true);
    SELECT coalesce(array_agg(d.name || '@' || d.version ORDER BY d.name, d.version), '{}') INTO v_loaded
    FROM jsonb_to_recordset(p_definitions) AS d(name text, version integer);

    -- A tick registers under a name of its own; yesterday's are of no use to anybody.
    DELETE FROM workers w WHERE w.id IN (
        SELECT o.id FROM workers o WHERE o.seen_at < backbeat.now() - interval '1 day' ORDER BY o.id LIMIT 100 FOR UPDATE SKIP LOCKED);
    INSERT INTO workers AS w (id, kind, loaded, started_at, seen_at)
    VALUES (p_worker, p_kind, v_loaded, backbeat.now(), backbeat.now())
    ON CONFLICT (id) DO UPDATE SET loaded = excluded.loaded, seen_at = excluded.seen_at;

    SELECT coalesce(sum(release_held('version', l.key)), 0) INTO v_released FROM unnest(v_loaded) AS l(key);
    RETURN v_released;
END $$;

CREATE FUNCTION backbeat.release_held(p_reason text, p_key text, p_limit integer DEFAULT 5000) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_moved integer;
BEGIN
    WITH picked AS (
        SELECT t.id FROM simple_tasks t
        WHERE t.status = 'held' AND t.hold_reason = p_reason AND t.hold_key = p_key
        ORDER BY t.id LIMIT p_limit FOR UPDATE SKIP LOCKED
    )
    UPDATE simple_tasks t SET status = 'pending', rank = 0, run_after = NULL, hold_reason = NULL, hold_key = NULL
    FROM picked p WHERE t.id = p.id;
    GET DIAGNOSTICS v_moved = ROW_COUNT;
    -- What is left is due at the next sweeps, a bounded number at each.
    IF v_moved = p_limit THEN
        UPDATE simple_tasks t SET run_after = backbeat.now()
        WHERE t.id IN (
            SELECT h.id FROM simple_tasks h WHERE h.status = 'held' AND h.hold_reason = p_reason AND h.hold_key = p_key FOR UPDATE SKIP LOCKED);
    END IF;
    RETURN v_moved;
END $$;

CREATE FUNCTION backbeat.release_switch(p_name text, p_by text DEFAULT NULL::text) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH gone AS (DELETE FROM switches WHERE name = p_name RETURNING name)
    SELECT count(audit(session_user, 'switch.released', g.name, jsonb_build_object('by', p_by))) > 0 FROM gone g $$;

CREATE FUNCTION backbeat.remove_schedule(p_name text) RETURNS bigint
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH gone AS (DELETE FROM schedules s WHERE s.name = p_name RETURNING *)
    SELECT audit(session_user, 'schedule.removed', g.name, to_jsonb(g)) FROM gone g $$;

CREATE FUNCTION backbeat.requeue_dead(p_ids uuid[], p_newest boolean, p_start timestamp with time zone, p_seconds double precision, p_by text, p_reason text) RETURNS TABLE(letter uuid, task_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET plan_cache_mode TO 'force_custom_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
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

CREATE FUNCTION backbeat.require_approved(p_approval uuid, p_hash text, p_workflow uuid) RETURNS boolean
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT count(*) > 0 FROM (SELECT FROM approval_requests
        WHERE id = p_approval AND state = 'approved' AND hash = p_hash AND workflow_id = p_workflow AND effect_after <= clock() FOR SHARE) AS r $$;

CREATE FUNCTION backbeat.resolve_batch(p_tag text, p_status text, p_vendor_id text, p_by text) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT coalesce(bool_and(CASE WHEN mark_batch(b.tag, b.lease, p_status, p_vendor_id, b.note, CASE WHEN p_status IS NOT NULL THEN 0 END, p_status IS NULL) THEN
        audit(session_user, 'batch.' || coalesce(p_status, 'cancel'), b.tag, jsonb_build_object('by', p_by, 'vendor_id', p_vendor_id)) > 0 END), false)
    FROM (SELECT * FROM llm_batches l WHERE l.tag = p_tag AND (l.status = 'unsure') = (p_status IS NOT NULL) FOR UPDATE) b $$;

CREATE FUNCTION backbeat.resolve_effect(p_key text, p_outcome jsonb, p_reason text, p_by text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    UPDATE side_effects SET status = CASE WHEN p_outcome IS NULL THEN 'intended' ELSE 'done' END, outcome = p_outcome, resolved_by = p_by,
        error = CASE WHEN p_outcome IS NULL THEN p_reason END, done_at = CASE WHEN p_outcome IS NOT NULL THEN clock() END, fire_until = NULL
    WHERE key = p_key AND status <> 'done' AND (fire_until > clock()) IS NOT TRUE;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM release_held('effect', p_key);
    PERFORM audit(session_user, 'effect.resolved', p_key, jsonb_build_object('outcome', p_outcome, 'reason', p_reason, 'by', p_by));
    RETURN true;
END $$;

CREATE FUNCTION backbeat.restart_workflow(p_workflow uuid, p_temporal_id text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    PERFORM FROM orchestrated_workflows WHERE id = p_workflow AND temporal_id = p_temporal_id AND finished_at IS NULL FOR NO KEY UPDATE;
    UPDATE orchestrated_workflows
    SET generation = generation + CASE WHEN status = 'starting' THEN 0 ELSE 1 END, status = 'starting', run_id = NULL, waiting_for = NULL, updated_at = clock()
    WHERE FOUND AND id = p_workflow AND NOT EXISTS (
        SELECT FROM temporal_outbox WHERE stream = p_workflow AND kind = 'start' AND delivered_at IS NULL AND dead_at IS NULL);
    PERFORM push_outbox(p_workflow, 'start') WHERE FOUND;
    RETURN FOUND;
END $$;

CREATE FUNCTION backbeat.resume_agent(p_agent uuid, p_tokens bigint, p_usd numeric, p_steps integer, p_by text, p_reason text) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT requeue_dead(ARRAY[a.task_id], false, NULL, 0, p_by, p_reason) FROM agents a WHERE (a.id, a.status) = (p_agent, 'dead');
    UPDATE budgets SET cap_tokens = coalesce(p_tokens, cap_tokens), cap_usd = coalesce(p_usd, cap_usd), raised_by = p_by WHERE (scope, key) = ('agent', p_agent::text);
    UPDATE agents SET max_steps = coalesce(p_steps, max_steps) WHERE id = p_agent;
    SELECT t.id FROM simple_tasks t WHERE t.agent_id = p_agent AND audit(session_user, 'agent.resumed', p_agent::text,
        jsonb_build_object('by', p_by, 'tokens', p_tokens, 'usd', p_usd, 'steps', p_steps, 'reason', p_reason)) > 0 $$;

CREATE FUNCTION backbeat.retain(p_limit integer DEFAULT 5000) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET plan_cache_mode TO 'force_custom_plan'
    SET lock_timeout TO '100ms'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $_$
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
END $_$;

CREATE FUNCTION backbeat.retain_agents(p_limit integer DEFAULT 1000) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    DELETE FROM agents a WHERE a.id IN (SELECT o.id FROM agents o JOIN retention r ON r.policy = 'finished'
        AND o.finished_at < backbeat.now() - make_interval(days => r.days) LIMIT p_limit FOR UPDATE OF o SKIP LOCKED) $$;

CREATE FUNCTION backbeat.retry_workflow(p_workflow uuid, p_by text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_was text;
BEGIN
    SELECT CASE WHEN EXISTS (SELECT FROM side_effects e WHERE e.owner = w.id AND e.key LIKE '%:undo:%') THEN 'undone' ELSE w.status END INTO v_was
    FROM orchestrated_workflows w WHERE w.id = p_workflow FOR NO KEY UPDATE;
    IF v_was IN ('failed', 'cancelled') THEN
        DELETE FROM joins j WHERE j.workflow_id = p_workflow AND (j.failed > 0 OR j.children_left > 0);
        UPDATE orchestrated_workflows c SET parent_workflow = NULL, parent_step = NULL WHERE c.parent_workflow = p_workflow AND c.status <> 'completed';
        UPDATE orchestrated_workflows SET status = 'starting', generation = generation + 1, run_id = NULL, error = NULL, finished_at = NULL, checked_at = clock() WHERE id = p_workflow;
        PERFORM push_outbox(p_workflow, 'start'), audit(session_user, 'workflow.retried', p_workflow::text, jsonb_build_object('by', p_by));
        RETURN NULL;
    END IF;
    RETURN v_was;
END $$;

CREATE FUNCTION backbeat.return_blocks(p_worker text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_blocks budget_blocks[] := ARRAY(
        SELECT k FROM budget_blocks k WHERE k.worker = p_worker OR k.leased_until < clock() ORDER BY k.id FOR UPDATE SKIP LOCKED);
BEGIN
    PERFORM FROM budgets b WHERE b.id IN (SELECT unnest(k.budgets) FROM unnest(v_blocks) k) ORDER BY b.level, b.id FOR UPDATE;
    PERFORM fold(k) FROM unnest(v_blocks) k;
END $$;

CREATE FUNCTION backbeat.revise(p_request uuid, p_revision integer, p_body jsonb, p_by text, p_at timestamp with time zone) RETURNS backbeat.approval_requests
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_request approval_requests;
BEGIN
    UPDATE approval_requests r
    SET state = 'pending', revision = r.revision + 1, payload = jsonb_set(r.payload, '{request}', p_body), stuck = false,
        hash = encode(sha256(convert_to(canonical(jsonb_build_object('title', r.title) || jsonb_set(r.payload, '{request}', p_body)), 'UTF8')), 'hex')
    WHERE r.id = p_request AND r.revision = p_revision AND r.closed_at IS NULL AND r.deadline > p_at RETURNING * INTO v_request;
    PERFORM tell(v_request, 'asked', jsonb_build_object('by', p_by), p_at) WHERE v_request.id IS NOT NULL;
    RETURN v_request;
END $$;

CREATE FUNCTION backbeat.revise_approval(p_request uuid, p_revision integer, p_body jsonb) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT count(audit('(workflow)', 'approval.revised', p_request::text, jsonb_build_object('revision', n.revision, 'hash', n.hash))) > 0
    FROM (SELECT FROM approval_requests WHERE id = p_request AND state = 'changes' FOR UPDATE) AS r,
        LATERAL revise(p_request, p_revision, p_body, '(workflow)', clock()) AS n WHERE n.id IS NOT NULL $$;

CREATE FUNCTION backbeat.revoke_token(p_id text) RETURNS boolean
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH gone AS (UPDATE api_tokens SET revoked_at = clock() WHERE id = p_id AND revoked_at IS NULL RETURNING id)
    SELECT count(audit(session_user, 'token.revoked', g.id, '{}')) > 0 FROM gone g $$;

CREATE FUNCTION backbeat.rights(p_request backbeat.approval_requests, p_user text, p_groups text[], p_at timestamp with time zone) RETURNS TABLE(name text, groups text[], barred boolean)
    LANGUAGE sql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT m.name, m.groups, p_request.policy @> '{"four_eyes": true}' AND EXISTS (SELECT FROM (SELECT p_request.requested_by UNION ALL
                     SELECT e.user_name FROM approval_decisions e WHERE (e.request_id, e.decision) = (p_request.id, 'edit')) AS a(name)
        WHERE a.name IN (p_user, m.name))
    FROM (SELECT p_user, p_groups WHERE NOT EXISTS (SELECT FROM handed_on(p_request.id, p_at) AS h WHERE h.user_name = p_user)
          UNION ALL SELECT h.user_name, h.groups FROM handed_on(p_request.id, p_at) AS h WHERE h.to_user = p_user) AS m(name, groups)
    WHERE EXISTS (SELECT FROM rules_at(p_request, p_at) AS r(rule) WHERE fits(r.rule, m.name, m.groups)) $$;

CREATE FUNCTION backbeat.route_notification(p_id uuid, p_to jsonb) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH said AS (UPDATE notifications n SET routed_at = clock() WHERE n.id = p_id AND n.routed_at IS NULL RETURNING n.id), made AS (INSERT INTO messages AS m
    SELECT uuid7(), t.channel, t.recipient, ARRAY[p_id], clock() + make_interval(secs => t.seconds) FROM said, jsonb_to_recordset(p_to) AS t(channel text, recipient text,
    seconds float) ON CONFLICT (channel, recipient) WHERE status = 'open' AND attempts = 0 DO UPDATE SET notifications = m.notifications || excluded.notifications)
    SELECT count(*) FROM said $$;

CREATE FUNCTION backbeat.rules_at(p_request backbeat.approval_requests, p_at timestamp with time zone) RETURNS SETOF jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    AS $_$
    SELECT jsonb_build_object('needed', coalesce((r.rule ->> 'needed')::integer, 1),
        'approvers', coalesce(r.rule -> 'approvers', '[]') || u.approvers, 'groups', coalesce(r.rule -> 'groups', '[]') || u.groups)
    FROM jsonb_array_elements(coalesce(p_request.policy -> 'rules', jsonb_build_array(p_request.policy))) AS r(rule), (
        SELECT coalesce(jsonb_path_query_array(jsonb_agg(e.step), '$[*].approvers[*]'), '[]') AS approvers,
               coalesce(jsonb_path_query_array(jsonb_agg(e.step), '$[*].groups[*]'), '[]') AS groups
        FROM jsonb_array_elements(p_request.policy -> 'escalate') WITH ORDINALITY AS e(step, n) WHERE p_request.escalate_at[e.n] <= p_at) AS u $_$;

CREATE FUNCTION backbeat.run_selector(p_name text, p_watermark timestamp with time zone, p_limit integer) RETURNS SETOF jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_sql text; v_row jsonb;
BEGIN
    ASSERT current_user = 'backbeat_selector', 'backbeat.run_selector must belong to backbeat_selector';
    PERFORM set_config('transaction_read_only', 'on', true);
    SELECT s.selector INTO v_sql FROM backbeat.schedules s WHERE s.name = p_name AND s.watermark = p_watermark;
    IF v_sql IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('backbeat.schedules:' || p_name, 0)) THEN
        RAISE EXCEPTION 'somebody else is at this slot of %', p_name USING ERRCODE = 'BB007';
    END IF;
    -- A loop is a cursor, which takes one statement only.
    FOR v_row IN EXECUTE format(E'SELECT to_jsonb(s) FROM (\n%s\n) AS s LIMIT %s', v_sql, p_limit) LOOP RETURN NEXT v_row; END LOOP;
END $$;

CREATE FUNCTION backbeat.set_budget(p_scope text, p_key text, p_usd numeric, p_tokens bigint, p_by text, p_soft boolean DEFAULT false) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_name text := p_scope || '/' || p_key; v_rows bigint[]; v_released integer;
BEGIN
    INSERT INTO budget_caps AS c (scope, key, usd, tokens, soft, set_by, set_at) VALUES (p_scope, p_key, p_usd, p_tokens, p_soft, p_by, clock())
    ON CONFLICT (scope, key) DO UPDATE SET usd = excluded.usd, tokens = excluded.tokens, soft = excluded.soft, set_by = excluded.set_by, set_at = clock();
    IF p_scope IN ('workflow', 'tenant') THEN
        -- Even before the day's first call, which may be copying the old cap at this moment.
        INSERT INTO budgets (scope, key, day) VALUES (p_scope, p_key, utc_day(backbeat.now())) ON CONFLICT DO NOTHING;
    END IF;
    v_rows := ARRAY(
        SELECT b.id FROM budgets b
        WHERE (b.scope, b.key, b.day) = (p_scope, p_key, utc_day(backbeat.now())) OR b.scope = p_scope AND b.day = '-infinity' AND b.key IN (
            SELECT coalesce(t.agent_id, t.id)::text FROM simple_tasks t WHERE t.workflow = p_key
            UNION ALL SELECT w.id::text FROM orchestrated_workflows w WHERE w.workflow = p_key AND w.status <> 'completed')
        ORDER BY b.level, b.id FOR UPDATE);
    UPDATE budgets b
    SET cap_usd = coalesce(p_usd, (SELECT max(w.max_usd) FROM workflows w WHERE b.level < 3 AND w.name = p_key)),
        cap_tokens = coalesce(p_tokens, (SELECT max(w.max_tokens) FROM workflows w WHERE b.level < 3 AND w.name = p_key)),
        raised_by = p_by, soft = CASE WHEN b.reserved_tokens = 0 THEN p_soft ELSE b.soft END
    WHERE b.id = ANY (v_rows);
    SELECT release_held('budget', v_name) + coalesce(sum(release_held('price', h.hold_key)), 0) INTO v_released FROM (
        SELECT DISTINCT t.hold_key FROM simple_tasks t
        WHERE t.status = 'held' AND t.hold_reason = 'price' AND right(t.hold_key, length(v_name) + 7) = ' under ' || v_name) h;
    PERFORM audit(session_user, 'budget.set', v_name, jsonb_build_object('by', p_by, 'usd', p_usd, 'tokens', p_tokens, 'soft', p_soft, 'released', v_released));
    RETURN v_released;
END $$;

CREATE FUNCTION backbeat.set_calendar(p_tenant text, p_name text, p_time_zone text, p_days integer[], p_opens time without time zone, p_closes time without time zone, p_holidays date[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT backbeat.now() AT TIME ZONE p_time_zone;
    DELETE FROM calendars c WHERE (c.tenant, c.name) = (p_tenant, p_name);
    INSERT INTO calendars (tenant, name, time_zone, days, opens, closes, holidays) VALUES (p_tenant, p_name, p_time_zone, p_days, p_opens, p_closes, p_holidays);
    SELECT audit(session_user, 'calendar.set', p_tenant || '/' || p_name, to_jsonb(c)) FROM calendars c WHERE (c.tenant, c.name) = (p_tenant, p_name); $$;

CREATE FUNCTION backbeat.set_canary(p_name text, p_version integer, p_percent integer, p_by text) RETURNS SETOF bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH older AS (SELECT max(o.version) AS version FROM workflows w JOIN workflows o USING (name, runtime, lane)
        WHERE (name, w.version, runtime) = (p_name, p_version, 'cron') AND o.version < w.version
    ), said AS (UPDATE workflows w SET canary = CASE WHEN w.version = p_version THEN p_percent END, stable = o.version FROM older o
        WHERE w.name = p_name AND (w.canary IS NOT NULL OR w.version = p_version) AND (p_version IS NULL OR o.version IS NOT NULL) RETURNING 1)
    SELECT audit(session_user, 'workflow.canary', p_name, jsonb_build_object('by', p_by, 'version', p_version, 'percent', p_percent)) FROM said LIMIT 1 $$;

CREATE FUNCTION backbeat.set_retention(p_policy text, p_days integer, p_by text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    UPDATE retention SET days = p_days, set_by = p_by WHERE policy = p_policy;
    SELECT FROM audit(session_user, 'retention.set', p_policy, jsonb_build_object('by', p_by, 'days', p_days)); $$;

CREATE FUNCTION backbeat.set_route(p_scope text, p_key text, p_body jsonb, p_by text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_before jsonb := (SELECT l.body FROM llm_routes l WHERE (l.scope, l.key) = (p_scope, p_key));
BEGIN
    DELETE FROM llm_routes l WHERE (l.scope, l.key) = (p_scope, p_key);
    INSERT INTO llm_routes SELECT p_scope, p_key, p_body, p_by, clock() WHERE p_body IS NOT NULL;
    PERFORM audit(session_user, 'route.set', p_scope || '/' || p_key, jsonb_build_object('by', p_by, 'before', v_before, 'after', p_body));
    RETURN v_before IS NOT NULL;
END $$;

CREATE FUNCTION backbeat.set_tenant(p_id text, p_weight double precision, p_max_running integer, p_by text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $_$
BEGIN
    IF NOT coalesce(p_weight BETWEEN 0.001 AND 1000, true) OR p_max_running < 0 OR p_id !~ '^(?=.*\S)[^[:cntrl:]]{1,200}$' THEN
        RAISE EXCEPTION 'a tenant has a name, a weight from 0.001 to 1000 and a cap of 0 or more' USING ERRCODE = 'BB003';
    END IF;
    INSERT INTO tenants AS t (id, weight, max_running) VALUES (p_id, coalesce(p_weight, 1), nullif(p_max_running, 0))
    ON CONFLICT (id) DO UPDATE SET weight = coalesce(p_weight, t.weight),
        max_running = CASE WHEN p_max_running IS NULL THEN t.max_running ELSE nullif(p_max_running, 0) END;
    PERFORM audit(session_user, 'tenant.set', p_id, jsonb_build_object('by', p_by, 'weight', p_weight, 'max_running', p_max_running));
END $_$;

CREATE FUNCTION backbeat.settle(p_rows jsonb) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET plan_cache_mode TO 'force_custom_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE c_free_releases CONSTANT integer := 20;
    v_all ending[] := ARRAY(SELECT r FROM jsonb_populate_recordset(NULL::ending, p_rows) r);
    v_ends ending[]; v_ids uuid[]; v_children text[]; v_flows flows[]; v_departures departure[];
BEGIN
    SELECT coalesce(array_agg(l.id), '{}'), array_agg(l.r) INTO v_ids, v_ends FROM (
        SELECT t.id, r FROM simple_tasks t JOIN unnest(v_all) r ON r.id = t.id AND r.lease = t.lease
        WHERE t.id = ANY (ARRAY(SELECT a.id FROM unnest(v_all) a)) AND t.status = 'running' ORDER BY t.id FOR UPDATE OF t) l;
    IF p_rows @> '[{"outcome": "hold"}]' THEN
        SELECT array_agg(CASE WHEN r.outcome = 'hold' AND NOT cause_stands(r.reason, r.key, t.started_at)
            THEN jsonb_populate_record(r, '{"outcome": "snooze", "until": null}') ELSE r END ORDER BY t.id) INTO v_ends
        FROM unnest(v_ends) r JOIN simple_tasks t ON t.id = r.id;
    END IF;
    IF p_rows @> '[{"outcome": "fan_out"}]' THEN
        v_children := ARRAY(SELECT DISTINCT c.workflow || '@' || c.version FROM unnest(v_ends) r CROSS JOIN LATERAL jsonb_to_recordset(r.children) AS c(workflow text, version integer));
        -- A flow that another session makes meanwhile would be locked after those behind it.
        INSERT INTO flows (tenant, tier, class)
        SELECT DISTINCT t.tenant, w.lane, t.class FROM simple_tasks t JOIN workflows w ON w.name || '@' || w.version = ANY (v_children)
        WHERE t.id = ANY (v_ids) ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING;
    END IF;
    v_flows := ARRAY(SELECT f FROM lock_flows(v_ids, v_children) f);
    PERFORM leave_flows(v_ids);
    PERFORM lose_calls(v_ids);

    SELECT array_agg(ROW(
        r.id, CASE r.outcome WHEN 'succeed' THEN 'succeeded' WHEN 'fan_out' THEN 'succeeded' WHEN 'escalate' THEN 'escalated' ELSE 'dead' END,
        r.result, CASE WHEN r.outcome = 'release' THEN 'released_too_often' ELSE r.error_class END, r.error,
        CASE WHEN r.outcome = 'escalate' THEN start_workflow(r.workflow, 1, t.tenant, r.input, t.origin_id, r.id, t.traceparent) END,
        CASE WHEN w.history = 'full' OR w.history = 'failures' AND r.outcome NOT IN ('succeed', 'fan_out', 'escalate')
            THEN history_entry(t, r.outcome, r.error_class, r.error) END)::departure) INTO v_departures
    FROM unnest(v_ends) r JOIN simple_tasks t ON t.id = r.id JOIN workflows w ON (w.name, w.version) = (t.workflow, t.version)
    WHERE r.outcome IN ('succeed', 'fan_out', 'dead', 'escalate') OR (r.outcome = 'retry' AND t.attempts >= t.max_attempts)
       OR (uses_patience(r.outcome, r.reason) AND t.releases >= c_free_releases);
    PERFORM fan_out(r) FROM unnest(v_ends) r WHERE r.outcome = 'fan_out';
    IF v_departures IS NOT NULL THEN PERFORM end_tasks(v_departures); END IF;

    UPDATE simple_tasks t
    SET status = CASE WHEN r.outcome = 'hold' THEN 'held' WHEN coalesce(r.after, 0) > 0 OR r.until > backbeat.now()
            OR uses_patience(r.outcome, r.reason) AND t.releases > 0 THEN 'delayed' ELSE 'pending' END,
        rank = 0, vstart = NULL, estimate = NULL, lease_until = NULL, worker = NULL, started_at = NULL,
        run_after = CASE WHEN r.outcome = 'hold' THEN r.until ELSE coalesce(r.until, clock() + make_interval(secs => greatest(least(coalesce(r.after, 0), 2592000), 0,
            -- The longer a vendor is away, the rarer it is asked: the free releases last for hours.
            CASE WHEN uses_patience(r.outcome, r.reason) THEN least(power(2, t.releases) - 1, 900) END))) END,
        hold_reason = CASE WHEN r.outcome = 'hold' THEN r.reason END, hold_key = CASE WHEN r.outcome = 'hold' THEN r.key END,
        attempts = t.attempts - CASE WHEN r.outcome = 'retry' THEN 0 ELSE 1 END,
        releases = t.releases + CASE WHEN uses_patience(r.outcome, r.reason) THEN 1 ELSE 0 END,
        -- A snooze may come a thousand times; it leaves no trace but its span.
        history = CASE WHEN r.outcome = 'snooze' OR w.history = 'none' THEN t.history
            ELSE t.history || history_entry(t, r.outcome, coalesce(r.error_class, r.reason), coalesce(r.error, r.key)) END
    FROM unnest(v_ends) r, workflows w
    WHERE t.id = r.id AND t.id = ANY (v_ids) AND (w.name, w.version) = (t.workflow, t.version) AND r.outcome NOT IN ('succeed', 'fan_out');

    PERFORM promote(v_flows);
    RETURN QUERY SELECT a.id FROM unnest(v_all) a WHERE a.id <> ALL (v_ids);
END $$;

CREATE FUNCTION backbeat.settle_joins(p_departures backbeat.departure[]) RETURNS void
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_custom_plan'
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_workflow uuid;
BEGIN
    PERFORM FROM joins j WHERE j.id IN (SELECT t.parent_id FROM unnest(p_departures) d JOIN simple_tasks t ON t.id = d.id) ORDER BY j.id FOR NO KEY UPDATE;
    FOR v_workflow IN
        UPDATE joins j SET children_left = j.children_left - e.n, failed = j.failed + e.failed
        FROM (SELECT t.parent_id, count(*) AS n, count(*) FILTER (WHERE d.status NOT IN ('succeeded', 'escalated')) AS failed
              FROM unnest(p_departures) d JOIN simple_tasks t ON t.id = d.id WHERE t.agent_id IS NULL OR d.result ->> 'agent' = 'done' OR d.status <> 'succeeded' GROUP BY 1) e
        WHERE j.id = e.parent_id
        RETURNING CASE WHEN j.sealed AND j.children_left = 0 OR j.failed > j.tolerated AND j.failed - e.failed <= j.tolerated THEN j.workflow_id END
    LOOP
        PERFORM wake(v_workflow);
    END LOOP;
END $$;

CREATE FUNCTION backbeat.settle_message(p_id uuid, p_lease bigint, p_status text, p_error text, p_seconds double precision) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH done AS (UPDATE messages m SET status = p_status, last_error = p_error, due_at = clock() + make_interval(secs => p_seconds)
        WHERE (m.id, m.lease, m.status) = (p_id, p_lease, 'open') RETURNING m.*)
    SELECT count(CASE d.status WHEN 'dead' THEN audit('(notify)', 'notification.dead', d.id::text, to_jsonb(d) - '{id,lease,due_at}'::text[]) ELSE 0 END) FROM done d $$;

CREATE FUNCTION backbeat.settle_outbox(p_stream uuid, p_seq integer, p_lease bigint, p_outcome text, p_error text DEFAULT NULL::text, p_delay double precision DEFAULT 0, p_run_id text DEFAULT NULL::text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_now timestamptz; v_kind text;
BEGIN
    PERFORM FROM orchestrated_workflows WHERE id = p_stream FOR NO KEY UPDATE;
    v_now := clock();
    UPDATE temporal_outbox
    SET delivered_at = CASE p_outcome WHEN 'delivered' THEN v_now END, dead_at = CASE p_outcome WHEN 'dead' THEN v_now END,
        last_error = p_error, lease_until = v_now + make_interval(secs => p_delay)
    WHERE (stream, seq, lease) = (p_stream, p_seq, p_lease) AND delivered_at IS NULL AND dead_at IS NULL
    RETURNING kind INTO v_kind;
    UPDATE orchestrated_workflows
    SET status = CASE p_outcome WHEN 'dead' THEN 'failed' ELSE 'running' END, run_id = p_run_id, updated_at = v_now, checked_at = v_now,
        error = CASE p_outcome WHEN 'dead' THEN p_error END, finished_at = CASE p_outcome WHEN 'dead' THEN v_now END
    WHERE id = p_stream AND status = 'starting' AND v_kind = 'start' AND p_outcome <> 'retry';
    PERFORM audit('(worker)', 'workflow.refused', p_stream::text, jsonb_build_object('error', p_error)) WHERE v_kind = 'start' AND p_outcome = 'dead';
    RETURN v_kind IS NOT NULL;
END $$;

CREATE FUNCTION backbeat.settle_spans(p_id uuid, p_refused text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    DELETE FROM telemetry_outbox o WHERE o.id = p_id AND p_refused IS NULL; UPDATE telemetry_outbox o SET refused = p_refused WHERE o.id = p_id $$;

CREATE TABLE backbeat.llm_rate (
    route text NOT NULL,
    period double precision DEFAULT 60 NOT NULL,
    given double precision[] DEFAULT '{0,0,0}'::double precision[] NOT NULL,
    told double precision[] DEFAULT '{NULL,NULL,NULL}'::double precision[] NOT NULL,
    share double precision[] DEFAULT '{1,0.33,0.5}'::double precision[] NOT NULL,
    shrink double precision DEFAULT 1 NOT NULL,
    shrunk_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    pace double precision,
    blocked_until timestamp with time zone,
    blocked_by text,
    running jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT llm_rate_period_check CHECK ((period > (0)::double precision)),
    CONSTRAINT llm_rate_shrink_check CHECK ((shrink > (0)::double precision))
)
WITH (fillfactor='40');

CREATE FUNCTION backbeat.shrunk(p_rate backbeat.llm_rate) RETURNS double precision
    LANGUAGE sql STABLE
    RETURN LEAST((1)::double precision, ((p_rate).shrink + CASE WHEN isfinite((p_rate).shrunk_at) THEN (((EXTRACT(epoch FROM (backbeat.now() - (p_rate).shrunk_at)) * 0.3))::double precision / (p_rate).period) ELSE (1)::double precision END));

CREATE TABLE backbeat.api_tokens (
    id text NOT NULL,
    key bytea NOT NULL,
    user_name text NOT NULL,
    groups text[] NOT NULL,
    created_at timestamp with time zone NOT NULL,
    created_by text NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    CONSTRAINT api_tokens_check CHECK ((expires_at > created_at)),
    CONSTRAINT api_tokens_id_check CHECK ((id ~ '^[0-9a-f]{16}$'::text)),
    CONSTRAINT api_tokens_key_check CHECK ((octet_length(key) = 32)),
    CONSTRAINT api_tokens_user_name_check CHECK ((user_name ~ '^[[:alnum:]][[:alnum:]._@+-]{0,99}$'::text))
);

CREATE FUNCTION backbeat.signer(p_proof text, p_message text, p_at timestamp with time zone) RETURNS backbeat.api_tokens
    LANGUAGE sql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    -- Compared by their hashes, so that the time it takes tells nothing about the mac.
    SELECT t.* FROM api_tokens t
    WHERE t.id = split_part(p_proof, '_', 2) AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > p_at)
      AND sha256(convert_to(p_proof, 'UTF8')) = sha256(convert_to(format(
          'bbd_%s_%s', t.id, encode(sha256(t.key || sha256(convert_to(p_message, 'UTF8'))), 'hex')), 'UTF8')) $$;

CREATE FUNCTION backbeat.span_id(VARIADIC p_parts text[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN "left"(encode(sha256(convert_to(array_to_string(p_parts, ':'::text), 'UTF8'::name)), 'hex'::text), 16);

CREATE FUNCTION backbeat.start_orchestration(p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_key text, p_traceparent text) RETURNS TABLE(id uuid, created boolean, same boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE v_id uuid;
BEGIN
    IF NOT EXISTS (SELECT FROM workflows w WHERE (w.name, w.version, w.runtime) = (p_workflow, p_version, 'temporal')) THEN
        RAISE EXCEPTION 'no orchestration % version % is registered', p_workflow, p_version USING ERRCODE = 'BB001';
    END IF;
    PERFORM need_tenant(p_tenant), pg_advisory_xact_lock(hashtextextended(concat_ws(':', p_tenant, p_workflow, coalesce(p_key, uuid7()::text)), 0));
    RETURN QUERY SELECT w.id, false, w.input = p_input FROM orchestrated_workflows w WHERE (w.tenant, w.workflow, w.start_key) = (p_tenant, p_workflow, p_key);
    IF NOT FOUND THEN
        v_id := start_workflow(p_workflow, p_version, p_tenant, p_input, NULL, NULL, p_traceparent);
        RETURN QUERY UPDATE orchestrated_workflows w SET version = p_version, start_key = p_key WHERE w.id = v_id RETURNING w.id, true, true;
    END IF;
END $$;

CREATE FUNCTION backbeat.start_tick(p_worker text) RETURNS uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$ INSERT INTO ticks (id, worker, started_at) VALUES (uuid7(), p_worker, clock()) RETURNING id $$;

CREATE FUNCTION backbeat.start_workflow(p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_origin uuid, p_parent_task uuid, p_traceparent text) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_id uuid := uuid7(); v_now timestamptz := clock();
BEGIN
    INSERT INTO orchestrated_workflows (
        id, workflow, version, tenant, input, parent_task, origin_id, traceparent, created_at, updated_at, checked_at)
    VALUES (v_id, p_workflow, greatest(p_version, (SELECT max(w.version) FROM workflows w WHERE w.name = p_workflow AND w.runtime = 'temporal')), p_tenant, p_input, p_parent_task, coalesce(p_origin, v_id), format('00-%s-%s-01',
        coalesce(substring(p_traceparent FROM '^00-([0-9a-f]{32})-'), trace_id('workflow', v_id::text)),
        span_id('escalate', v_id::text)), v_now, v_now, v_now);
    PERFORM push_outbox(v_id, 'start');
    RETURN v_id;
END $$;

CREATE TABLE backbeat.pauses (
    scope text NOT NULL,
    key text NOT NULL,
    reason text NOT NULL,
    paused_by text NOT NULL,
    paused_at timestamp with time zone NOT NULL,
    CONSTRAINT pauses_key_check CHECK ((key <> ''::text)),
    CONSTRAINT pauses_reason_check CHECK ((reason <> ''::text)),
    CONSTRAINT pauses_scope_check CHECK ((scope = ANY (ARRAY['tenant'::text, 'workflow'::text, 'route'::text])))
);

CREATE FUNCTION backbeat.startable(p_loaded text[]) RETURNS text[]
    LANGUAGE sql STABLE
    RETURN ARRAY(SELECT l.name FROM unnest(startable.p_loaded) l(name) WHERE (NOT (EXISTS (SELECT FROM backbeat.pauses p WHERE ((p.scope = 'workflow'::text) AND (p.key = split_part(l.name, '@'::text, 1)))))));

CREATE FUNCTION backbeat.step_ended() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_status text := CASE NEW.status WHEN 'succeeded' THEN NEW.result ->> 'agent' ELSE NEW.status END; v_number integer;
BEGIN
    UPDATE agents SET status = v_status, steps = steps + (NEW.result ? 'step' IS TRUE)::integer, task_id = NEW.id, result = NEW.result -> 'result',
        error = NEW.error_class || ': ' || NEW.error, finished_at = CASE WHEN v_status NOT IN ('thinking', 'waiting') THEN NEW.finished_at END
    WHERE id = NEW.agent_id RETURNING steps INTO v_number;
    INSERT INTO agent_steps SELECT s.* FROM jsonb_populate_record(NULL::agent_steps, NEW.result -> 'step' || (to_jsonb(NEW) - '{payload,result,history}'::text[])
        || jsonb_build_object('number', v_number, 'task_id', NEW.id, 'ended_at', NEW.finished_at)) s WHERE s.action IS NOT NULL;
    INSERT INTO joins (id, agent_id, step, children, children_left, tolerated, sealed)
    SELECT NEW.id, NEW.agent_id, v_number, array_agg(t.id ORDER BY t.id), count(*), (NEW.result ->> 'tolerated')::integer, true
    FROM simple_tasks t WHERE t.parent_id = NEW.id AND v_status = 'waiting' HAVING v_status = 'waiting';
    PERFORM next_step(NEW.agent_id) WHERE v_status = 'thinking';
    RETURN NULL;
END $$;

CREATE FUNCTION backbeat.sweep(p_limit integer DEFAULT 5000) RETURNS TABLE(due integer, expired integer, promoted integer, unloaded integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE v_expired uuid[]; v_homeless uuid[]; v_paused text[]; v_shut text[]; v_flows flows[];
BEGIN
    WITH picked AS (
        SELECT t.id FROM simple_tasks t
        WHERE t.status IN ('delayed', 'held') AND t.run_after <= backbeat.now()
        ORDER BY t.run_after LIMIT p_limit FOR UPDATE SKIP LOCKED
    )
    UPDATE simple_tasks t SET status = 'pending', rank = 0, run_after = NULL, hold_reason = NULL, hold_key = NULL
    FROM picked p WHERE t.id = p.id;
    GET DIAGNOSTICS due = ROW_COUNT;

    SELECT coalesce(array_agg(l.id), '{}') INTO v_expired FROM (
        SELECT t.id FROM simple_tasks t
        WHERE t.expires_at <= backbeat.now() AND t.status <> 'running'
        ORDER BY t.expires_at LIMIT p_limit FOR UPDATE SKIP LOCKED) l;
    -- Locked, so that a worker which comes just now, or who resumes, releases what this holds.
    v_paused := ARRAY(SELECT p.key FROM pauses p WHERE p.scope = 'workflow' ORDER BY p.key FOR SHARE);
    v_shut := ARRAY(
        SELECT w.name || '@' || w.version FROM workflows w
        WHERE w.runtime = 'cron' AND (coalesce(w.seen_at < backbeat.now() - interval '10 minutes', true) OR w.name = ANY (v_paused))
        ORDER BY w.name, w.version FOR SHARE);
    -- What nobody has loaded, or may start, leaves the windows. Where it would lie before all others, which in a lane of single rows is
    -- left to those of a paused workflow, many behind it go too.
    v_homeless := ARRAY(
        SELECT r.id FROM simple_tasks r WHERE v_shut <> '{}' AND r.status = 'ready' AND r.workflow || '@' || r.version = ANY (v_shut)
        UNION ALL
        SELECT h.id FROM flow_rooms f CROSS JOIN LATERAL (
            SELECT t.id, t.workflow, t.version FROM simple_tasks t
            WHERE t.status = 'pending' AND (t.tenant, t.tier, t.class) = (f.tenant, f.tier, f.class) ORDER BY t.rank, t.id LIMIT 1000) h
        WHERE f.room > 0 AND (v_paused <> '{}' OR f.tier LIKE 'bulk/%' AND v_shut <> '{}')
            AND (h.workflow = ANY (v_paused) OR f.tier LIKE 'bulk/%' AND h.workflow || '@' || h.version = ANY (v_shut)) AND EXISTS (
            SELECT FROM (
                SELECT t.workflow, t.version FROM simple_tasks t
                WHERE t.status = 'pending' AND (t.tenant, t.tier, t.class) = (f.tenant, f.tier, f.class) ORDER BY t.rank, t.id LIMIT 64) w
            WHERE w.workflow = ANY (v_paused) OR f.tier LIKE 'bulk/%' AND w.workflow || '@' || w.version = ANY (v_shut))
        LIMIT p_limit);
    v_homeless := ARRAY(
        SELECT t.id FROM simple_tasks t WHERE t.id = ANY (v_homeless) AND t.status IN ('pending', 'ready') AND t.id <> ALL (v_expired)
        ORDER BY t.id FOR UPDATE SKIP LOCKED);
    -- The flows of all that follows at once, or two sweeps would lock them in different orders; the least served first.
    -- ORDER BY and OFFSET 0: a look into the index a flow, never a join that reads all that waits.
    SELECT array_agg(w.flow) INTO v_flows FROM (
        SELECT f.flow FROM flow_rooms f
        WHERE f.tier NOT LIKE 'bulk/%' AND (f.room > 0 OR (f.tenant, f.tier, f.class) IN (
                SELECT t.tenant, t.tier, t.class FROM simple_tasks t WHERE t.id = ANY (v_expired || v_homeless)))
          AND EXISTS (
                SELECT FROM simple_tasks t WHERE t.status = 'pending' AND (t.tenant, t.tier, t.class) = (f.tenant, f.tier, f.class)
                ORDER BY t.rank, t.id LIMIT 1 OFFSET 0)
        ORDER BY f.last_v LIMIT greatest(p_limit / 64, 1)) w;
    PERFORM lock_flows(v_expired || v_homeless, p_flows => v_flows);
    SELECT count(*) INTO expired FROM finish(v_expired, 'expired', 'expired', 'not started before its expires_at');
    -- They wait visibly and cost no attempt.
    PERFORM leave_flows(v_homeless);
    UPDATE simple_tasks t
    SET status = 'held', run_after = NULL, vstart = NULL, estimate = NULL,
        hold_reason = CASE WHEN p.key IS NULL THEN 'version' ELSE 'paused' END, hold_key = coalesce(p.key, w.name || '@' || w.version)
    FROM workflows w LEFT JOIN pauses p ON (p.scope, p.key) = ('workflow', w.name)
    WHERE t.id = ANY (v_homeless) AND (w.name, w.version) = (t.workflow, t.version);
    unloaded := cardinality(v_homeless);
    promoted := promote(v_flows);
    PERFORM FROM virtual_time v ORDER BY v.tier FOR UPDATE;
    UPDATE virtual_time v SET floor = m.floor FROM (
        SELECT o.tier, coalesce((SELECT t.vstart * (1 - 1e-12) FROM simple_tasks t WHERE t.status = 'ready' AND t.tier = o.tier ORDER BY t.vstart, t.id LIMIT 1), o.v) AS floor
        FROM virtual_time o) m
    WHERE v.tier = m.tier AND v.floor <> m.floor;
    RETURN NEXT;
END $$;

CREATE FUNCTION backbeat.tell(p_request backbeat.approval_requests, p_event text, p_facts jsonb, p_at timestamp with time zone, p_users text[] DEFAULT NULL::text[]) RETURNS void
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    INSERT INTO notifications SELECT uuid7(p_at), p_event, p_request.id, p_request.tenant, coalesce(p_users, ARRAY(SELECT DISTINCT coalesce(h.to_user, u.name)
        FROM rules_at(p_request, p_at) AS r(rule), LATERAL jsonb_array_elements_text(r.rule -> 'approvers') AS u(name)
        LEFT JOIN handed_on(p_request.id, p_at) AS h ON h.user_name = u.name
        WHERE p_event <> 'reminded' OR NOT EXISTS (
            SELECT FROM approval_decisions d WHERE (d.request_id, d.revision, d.decision, d.for_user) = (p_request.id, p_request.revision, 'approve', u.name))
        ORDER BY 1)),
        CASE WHEN p_users IS NULL THEN ARRAY(
            SELECT DISTINCT g.name FROM rules_at(p_request, p_at) AS r(rule), LATERAL jsonb_array_elements_text(r.rule -> 'groups') AS g(name) ORDER BY 1) ELSE '{}' END,
        p_facts || jsonb_build_object('title', p_request.title, 'state', p_request.state, 'revision', p_request.revision,
            'hash', p_request.hash, 'deadline', p_request.deadline), p_at $$;

CREATE FUNCTION backbeat.tell_spool(p_host text, p_files integer, p_oldest double precision, p_quarantined integer, p_shed bigint) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    DELETE FROM telemetry_hosts h WHERE h.seen_at < clock() - interval '30 days';
    INSERT INTO telemetry_hosts AS h VALUES (p_host, p_files, clock() - make_interval(secs => p_oldest), p_quarantined, p_shed, clock()) ON CONFLICT (host) DO UPDATE
    SET files = excluded.files, oldest_at = excluded.oldest_at, quarantined = excluded.quarantined, shed = h.shed + excluded.shed, seen_at = excluded.seen_at $$;

CREATE FUNCTION backbeat.throw_switch(p_name text, p_reason text, p_by text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    INSERT INTO switches (name, reason, thrown_by) VALUES (p_name, p_reason, p_by)
    ON CONFLICT (name) DO UPDATE SET reason = excluded.reason, thrown_by = excluded.thrown_by, thrown_at = backbeat.now();
    SELECT FROM audit(session_user, 'switch.thrown', p_name, jsonb_build_object('reason', p_reason, 'by', p_by)) $$;

CREATE FUNCTION backbeat.trace_id(VARIADIC p_parts text[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN "left"(encode(sha256(convert_to(array_to_string(p_parts, ':'::text), 'UTF8'::name)), 'hex'::text), 32);

CREATE FUNCTION backbeat.turn(p_rows jsonb, p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision) RETURNS SETOF backbeat.simple_tasks
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    RETURN QUERY SELECT (jsonb_populate_record(NULL::simple_tasks, jsonb_build_object('id', s.id, 'status', 'refused'))).* FROM settle(p_rows) AS s(id);
    RETURN QUERY SELECT * FROM claim_bulk(p_worker, p_loaded, p_limit, p_lease_seconds, p_idle => false, p_patient => false);
END $$;

CREATE FUNCTION backbeat.turn_schedule(p_name text, p_from timestamp with time zone DEFAULT NULL::timestamp with time zone, p_next_at timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS bigint
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH turned AS (UPDATE schedules s SET paused = p_from IS NULL, watermark = coalesce(p_from, watermark), next_at = coalesce(p_next_at, next_at)
                    WHERE s.name = p_name AND s.paused = (p_from IS NOT NULL) RETURNING *)
    SELECT audit(session_user, CASE WHEN t.paused THEN 'schedule.paused' ELSE 'schedule.resumed' END, t.name, to_jsonb(t)) FROM turned t $$;

CREATE FUNCTION backbeat.unpause(p_scope text, p_key text, p_by text) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH gone AS (DELETE FROM pauses p WHERE (p.scope, p.key) = (p_scope, p_key) RETURNING CASE p_scope WHEN 'route' THEN 'route' ELSE 'paused' END AS reason)
    SELECT count(release_held(g.reason, p_key) + audit(session_user, 'queue.resumed', p_scope || '/' || p_key, jsonb_build_object('by', p_by))) > 0 FROM gone g $$;

CREATE FUNCTION backbeat.uses_patience(p_outcome text, p_reason text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((p_outcome = 'release'::text) AND COALESCE((p_reason <> ALL (ARRAY['out_of_time'::text, 'cut_off'::text, 'rate'::text])), true));

CREATE FUNCTION backbeat.utc_day(p_at timestamp with time zone) RETURNS date
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN ((p_at AT TIME ZONE 'UTC'::text))::date;

CREATE FUNCTION backbeat.uuid7_floor(p_at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((encode(SUBSTRING(int8send((floor((EXTRACT(epoch FROM p_at) * (1000)::numeric)))::bigint) FROM 3), 'hex'::text) || repeat('0'::text, 20)))::uuid;

CREATE FUNCTION backbeat.wake(p_workflow uuid) RETURNS void
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    UPDATE temporal_outbox SET delivered_at = NULL, dead_at = NULL, lease = NULL, attempts = 0, created_at = clock(), lease_until = clock() WHERE stream = p_workflow AND kind = 'wake' $$;

CREATE FUNCTION backbeat.workflow_moved() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    IF NEW.generation <> OLD.generation THEN
        DELETE FROM orchestrated_workflows_steps s WHERE s.workflow_id = NEW.id;
        RETURN NULL;
    END IF;
    PERFORM lose_calls(ARRAY[NEW.id]);
    UPDATE model_calls c SET response = NULL WHERE c.owner = NEW.id AND c.response IS NOT NULL AND NEW.status <> 'failed';
    PERFORM wake(NEW.parent_workflow);
    RETURN NULL;
END $$;

CREATE FUNCTION backbeat.workflows_to_check(p_limit integer, p_seconds double precision) RETURNS TABLE(id uuid, temporal_id text, status text, state_seq integer)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    WITH picked AS (
        SELECT w.id FROM orchestrated_workflows w
        WHERE w.finished_at IS NULL AND w.checked_at <= (SELECT clock()) - make_interval(secs => p_seconds)
        ORDER BY w.checked_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE orchestrated_workflows w SET checked_at = clock() FROM picked p WHERE w.id = p.id
    RETURNING w.id, w.temporal_id, w.status, w.state_seq $$;

CREATE TABLE backbeat.agent_steps (
    agent_id uuid NOT NULL,
    number integer NOT NULL,
    task_id uuid NOT NULL,
    action text NOT NULL,
    tool text,
    args jsonb,
    reasoning text,
    output jsonb,
    observation text,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost_usd numeric,
    ended_at timestamp with time zone NOT NULL,
    CONSTRAINT agent_steps_action_check CHECK ((action = ANY (ARRAY['tool_call'::text, 'respond'::text, 'done'::text, 'escalate'::text])))
);

CREATE TABLE backbeat.approval_decisions (
    id uuid NOT NULL,
    request_id uuid,
    revision integer NOT NULL,
    user_name text NOT NULL,
    for_user text NOT NULL,
    groups text[] NOT NULL,
    token_id text,
    decision text NOT NULL,
    hash text,
    body jsonb,
    to_user text,
    until timestamp with time zone,
    comment text NOT NULL,
    via text NOT NULL,
    state_after text,
    decided_at timestamp with time zone NOT NULL,
    CONSTRAINT approval_decisions_decision_check CHECK ((decision = ANY (ARRAY['approve'::text, 'reject'::text, 'request_changes'::text, 'edit'::text, 'revoke'::text, 'comment'::text, 'claim'::text, 'unclaim'::text, 'delegate'::text]))),
    CONSTRAINT approval_decisions_via_check CHECK ((via = ANY (ARRAY['cli'::text, 'web'::text, 'signal'::text, 'owner'::text]))),
    CONSTRAINT handed_on_to_somebody CHECK ((((decision = 'delegate'::text) = (to_user IS NOT NULL)) AND ((to_user IS NULL) OR (until IS NOT NULL)))),
    CONSTRAINT only_rights_are_of_no_request CHECK (((request_id IS NOT NULL) OR (decision = 'delegate'::text)))
);

CREATE TABLE backbeat.audit_head (
    one boolean DEFAULT true NOT NULL,
    id bigint NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_head_one_check CHECK (one)
)
WITH (fillfactor='50');

CREATE TABLE backbeat.audit_log (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    detail jsonb NOT NULL,
    prev_hash bytea NOT NULL,
    hash bytea NOT NULL
);

ALTER TABLE backbeat.budget_blocks ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME backbeat.budget_blocks_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE backbeat.budget_caps (
    scope text NOT NULL,
    key text NOT NULL,
    usd numeric,
    tokens bigint,
    soft boolean DEFAULT false NOT NULL,
    set_by text NOT NULL,
    set_at timestamp with time zone DEFAULT backbeat.now() NOT NULL,
    CONSTRAINT budget_caps_scope_check CHECK ((scope = ANY (ARRAY['task'::text, 'agent'::text, 'workflow'::text, 'tenant'::text]))),
    CONSTRAINT budget_caps_tokens_check CHECK ((tokens >= 0)),
    CONSTRAINT budget_caps_usd_check CHECK ((usd >= (0)::numeric))
);

ALTER TABLE backbeat.budgets ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME backbeat.budgets_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE backbeat.calendars (
    tenant text NOT NULL,
    name text NOT NULL,
    time_zone text NOT NULL,
    days integer[] NOT NULL,
    opens time without time zone NOT NULL,
    closes time without time zone NOT NULL,
    holidays date[] NOT NULL,
    CONSTRAINT calendars_check CHECK ((closes > opens)),
    CONSTRAINT calendars_days_check CHECK (((days <@ '{1,2,3,4,5,6,7}'::integer[]) AND (days <> '{}'::integer[]))),
    CONSTRAINT calendars_name_check CHECK ((name <> ''::text))
);

CREATE TABLE backbeat.dead_letters (
    id uuid NOT NULL,
    tenant text NOT NULL,
    workflow text NOT NULL,
    version integer NOT NULL,
    error_class text NOT NULL,
    error text NOT NULL,
    attempts smallint NOT NULL,
    payload jsonb,
    died_at timestamp with time zone NOT NULL,
    class text NOT NULL,
    origin_id uuid NOT NULL,
    idempotency_key bytea,
    traceparent text NOT NULL,
    source_at timestamp with time zone,
    first_id uuid,
    requeued_as uuid,
    resolved_at timestamp with time zone,
    resolved_by text,
    reason text,
    CONSTRAINT only_open_ones_have_a_payload CHECK (((payload IS NULL) = (resolved_at IS NOT NULL))),
    CONSTRAINT requeued_is_resolved CHECK (((requeued_as IS NULL) OR (resolved_at IS NOT NULL))),
    CONSTRAINT resolved_says_who_and_why CHECK ((num_nulls(resolved_at, resolved_by, reason) = ANY (ARRAY[0, 3])))
);

CREATE TABLE backbeat.estimates (
    workflow text NOT NULL,
    version integer NOT NULL,
    cost double precision NOT NULL,
    CONSTRAINT estimates_cost_check CHECK ((cost > (0)::double precision))
);

CREATE TABLE backbeat.feedback (
    id uuid DEFAULT backbeat.uuid7() NOT NULL,
    origin_id uuid NOT NULL,
    task_id uuid NOT NULL,
    finding text DEFAULT ''::text NOT NULL,
    label text NOT NULL,
    said_by text NOT NULL,
    said_at timestamp with time zone DEFAULT backbeat.now() NOT NULL,
    CONSTRAINT feedback_label_check CHECK ((label <> ''::text)),
    CONSTRAINT feedback_said_by_check CHECK ((said_by <> ''::text))
);

CREATE TABLE backbeat.finished_tasks (
    id uuid NOT NULL,
    tenant text NOT NULL,
    workflow text NOT NULL,
    version integer NOT NULL,
    tier text NOT NULL,
    class text NOT NULL,
    status text NOT NULL,
    payload jsonb NOT NULL,
    result jsonb,
    error_class text,
    error text,
    attempts smallint NOT NULL,
    history jsonb NOT NULL,
    calls integer DEFAULT 0 NOT NULL,
    input_tokens bigint DEFAULT 0 NOT NULL,
    output_tokens bigint DEFAULT 0 NOT NULL,
    cost_usd numeric,
    agent_id uuid,
    parent_id uuid,
    origin_id uuid NOT NULL,
    workflow_id uuid,
    idempotency_key bytea,
    traceparent text NOT NULL,
    source_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone NOT NULL,
    CONSTRAINT dead_says_why CHECK (((status <> 'dead'::text) OR (error_class IS NOT NULL))),
    CONSTRAINT escalated_names_its_workflow CHECK (((status = 'escalated'::text) = (workflow_id IS NOT NULL))),
    CONSTRAINT finished_tasks_status_check CHECK ((status = ANY (ARRAY['succeeded'::text, 'dead'::text, 'cancelled'::text, 'expired'::text, 'escalated'::text])))
)
PARTITION BY RANGE (id);

CREATE TABLE backbeat.tenants (
    id text NOT NULL,
    weight double precision DEFAULT 1 NOT NULL,
    max_running integer,
    CONSTRAINT tenants_id_check CHECK ((id <> ''::text)),
    CONSTRAINT tenants_max_running_check CHECK ((max_running > 0)),
    CONSTRAINT tenants_weight_check CHECK ((weight > (0)::double precision))
);

CREATE VIEW backbeat.flow_rooms AS
 SELECT f.tenant,
    f.tier,
    f.class,
    f.last_v,
    f.ready,
    f.running,
    f.*::backbeat.flows AS flow,
        CASE
            WHEN (p.key IS NULL) THEN (GREATEST((0)::bigint, LEAST((
            CASE
                WHEN (f.tier ~~ 'bulk/%'::text) THEN 10000
                ELSE (64 - f.ready)
            END)::bigint,
            CASE
                WHEN (n.max_running IS NOT NULL) THEN (n.max_running - ( SELECT sum((g.ready + g.running)) AS sum
                   FROM backbeat.flows g
                  WHERE (g.tenant = n.id)))
                ELSE NULL::bigint
            END)))::integer
            ELSE 0
        END AS room
   FROM ((backbeat.flows f
     JOIN backbeat.tenants n ON ((n.id = f.tenant)))
     LEFT JOIN backbeat.pauses p ON (((p.scope = 'tenant'::text) AND (p.key = f.tenant))));

CREATE TABLE backbeat.idempotency (
    tenant text NOT NULL,
    key bytea NOT NULL,
    task_id uuid NOT NULL,
    CONSTRAINT idempotency_key_check CHECK ((octet_length(key) = 32))
);

CREATE SEQUENCE backbeat.leases
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE backbeat.ledger (
    one boolean DEFAULT true NOT NULL,
    secret uuid DEFAULT gen_random_uuid() NOT NULL,
    restored_at timestamp with time zone DEFAULT '1970-01-01 00:00:00+00'::timestamp with time zone,
    CONSTRAINT ledger_one_check CHECK (one)
);

CREATE TABLE backbeat.llm_routes (
    scope text NOT NULL,
    key text NOT NULL,
    body jsonb NOT NULL,
    set_by text NOT NULL,
    set_at timestamp with time zone NOT NULL,
    CONSTRAINT llm_routes_body_check CHECK ((jsonb_typeof(body) = 'object'::text)),
    CONSTRAINT llm_routes_key_check CHECK ((key <> ''::text)),
    CONSTRAINT llm_routes_scope_check CHECK ((scope = ANY (ARRAY['tier'::text, 'route'::text])))
);

CREATE TABLE backbeat.notifications (
    id uuid NOT NULL,
    event text NOT NULL,
    request_id uuid,
    tenant text,
    users text[] NOT NULL,
    groups text[] NOT NULL,
    facts jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL,
    routed_at timestamp with time zone
);

CREATE TABLE backbeat.orchestrated_workflows_steps (
    workflow_id uuid NOT NULL,
    seq integer NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    waits_for text,
    started_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    detail jsonb,
    CONSTRAINT ended_says_when CHECK (((status = ANY (ARRAY['done'::text, 'failed'::text, 'cancelled'::text])) = (ended_at IS NOT NULL))),
    CONSTRAINT orchestrated_workflows_steps_seq_check CHECK ((seq > 0)),
    CONSTRAINT orchestrated_workflows_steps_status_check CHECK ((status = ANY (ARRAY['running'::text, 'waiting'::text, 'done'::text, 'failed'::text, 'cancelled'::text])))
);

CREATE TABLE backbeat.presence (
    since timestamp with time zone NOT NULL,
    until timestamp with time zone NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE backbeat.retention (
    policy text NOT NULL,
    days integer NOT NULL,
    set_by text DEFAULT '(default)'::text NOT NULL,
    cleared_to uuid,
    CONSTRAINT retention_days_check CHECK (((days >= 1) AND (days <= 36500))),
    CONSTRAINT retention_policy_check CHECK ((policy = ANY (ARRAY['finished'::text, 'outbox'::text, 'ticks'::text, 'workflows'::text])))
);

CREATE TABLE backbeat.schedules (
    name text NOT NULL,
    cron text NOT NULL,
    zone text NOT NULL,
    workflow text NOT NULL,
    version integer NOT NULL,
    payload jsonb,
    selector text,
    selector_seconds smallint NOT NULL,
    tenant text NOT NULL,
    class text NOT NULL,
    catch_up text NOT NULL,
    jitter_seconds integer NOT NULL,
    once boolean NOT NULL,
    paused boolean NOT NULL,
    watermark timestamp with time zone NOT NULL,
    next_at timestamp with time zone NOT NULL,
    note text,
    CONSTRAINT payload_or_selector CHECK (((payload IS NULL) <> (selector IS NULL))),
    CONSTRAINT schedules_catch_up_check CHECK ((catch_up = ANY (ARRAY['none'::text, 'last'::text, 'all'::text]))),
    CONSTRAINT schedules_check CHECK ((next_at > watermark)),
    CONSTRAINT schedules_class_check CHECK ((class = ANY (ARRAY['urgent'::text, 'high'::text, 'normal'::text, 'low'::text]))),
    CONSTRAINT schedules_jitter_seconds_check CHECK (((jitter_seconds >= 0) AND (jitter_seconds <= 86400))),
    CONSTRAINT schedules_name_check CHECK ((name ~ '^[a-z][a-z0-9_]{0,62}$'::text)),
    CONSTRAINT schedules_selector_seconds_check CHECK (((selector_seconds >= 1) AND (selector_seconds <= 60)))
);

CREATE TABLE backbeat.schema_migrations (
    version text NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone
);

CREATE TABLE backbeat.side_effects (
    key text NOT NULL,
    mark text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    owner_kind text NOT NULL,
    owner uuid NOT NULL,
    origin_id uuid NOT NULL,
    approval_id uuid,
    request jsonb NOT NULL,
    request_hash text NOT NULL,
    outcome jsonb,
    error text,
    token bigint NOT NULL,
    fires integer NOT NULL,
    fire_until timestamp with time zone,
    traceparent text NOT NULL,
    intended_at timestamp with time zone NOT NULL,
    done_at timestamp with time zone,
    resolved_by text,
    CONSTRAINT done_has_an_outcome CHECK (((status = 'done'::text) = ((outcome IS NOT NULL) AND (done_at IS NOT NULL)))),
    CONSTRAINT only_intended_is_given_back CHECK (((fire_until IS NOT NULL) OR (status = ANY (ARRAY['intended'::text, 'done'::text])))),
    CONSTRAINT side_effects_key_check CHECK ((key <> ''::text)),
    CONSTRAINT side_effects_owner_kind_check CHECK ((owner_kind = ANY (ARRAY['task'::text, 'workflow'::text]))),
    CONSTRAINT side_effects_status_check CHECK ((status = ANY (ARRAY['intended'::text, 'done'::text, 'unknown'::text])))
);

CREATE TABLE backbeat.switches (
    name text NOT NULL,
    reason text NOT NULL,
    thrown_by text NOT NULL,
    thrown_at timestamp with time zone DEFAULT backbeat.now() NOT NULL,
    CONSTRAINT switches_name_check CHECK ((name = ANY (ARRAY['all'::text, 'effects'::text]))),
    CONSTRAINT switches_reason_check CHECK ((reason <> ''::text))
);

CREATE VIEW backbeat.tasks AS
 SELECT simple_tasks.id,
    simple_tasks.tenant,
    simple_tasks.workflow,
    simple_tasks.version,
    simple_tasks.tier,
    simple_tasks.class,
    simple_tasks.status,
    simple_tasks.payload,
    NULL::jsonb AS result,
    simple_tasks.hold_reason,
    simple_tasks.hold_key,
    simple_tasks.run_after,
    NULL::text AS error_class,
    ((simple_tasks.history -> '-1'::integer) ->> 'error'::text) AS error,
    simple_tasks.attempts,
    simple_tasks.history,
    simple_tasks.origin_id,
    simple_tasks.parent_id,
    NULL::uuid AS workflow_id,
    simple_tasks.traceparent,
    simple_tasks.worker,
    simple_tasks.lease,
    simple_tasks.source_at,
    simple_tasks.created_at,
    NULL::timestamp with time zone AS finished_at,
    NULL::integer AS calls,
    NULL::numeric AS cost_usd
   FROM backbeat.simple_tasks
UNION ALL
 SELECT finished_tasks.id,
    finished_tasks.tenant,
    finished_tasks.workflow,
    finished_tasks.version,
    finished_tasks.tier,
    finished_tasks.class,
    finished_tasks.status,
    finished_tasks.payload,
    finished_tasks.result,
    NULL::text AS hold_reason,
    NULL::text AS hold_key,
    NULL::timestamp with time zone AS run_after,
    finished_tasks.error_class,
    finished_tasks.error,
    finished_tasks.attempts,
    finished_tasks.history,
    finished_tasks.origin_id,
    finished_tasks.parent_id,
    finished_tasks.workflow_id,
    finished_tasks.traceparent,
    NULL::text AS worker,
    NULL::bigint AS lease,
    finished_tasks.source_at,
    finished_tasks.created_at,
    finished_tasks.finished_at,
    finished_tasks.calls,
    finished_tasks.cost_usd
   FROM backbeat.finished_tasks;

CREATE TABLE backbeat.telemetry_hosts (
    host text NOT NULL,
    files integer NOT NULL,
    oldest_at timestamp with time zone,
    quarantined integer,
    shed bigint NOT NULL,
    seen_at timestamp with time zone
);

CREATE TABLE backbeat.temporal_outbox (
    stream uuid NOT NULL,
    seq integer NOT NULL,
    kind text NOT NULL,
    lease bigint,
    lease_until timestamp with time zone NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    delivered_at timestamp with time zone,
    dead_at timestamp with time zone,
    last_error text,
    CONSTRAINT begins_with_a_start CHECK (((seq > 1) OR (kind = 'start'::text))),
    CONSTRAINT dead_says_why CHECK (((dead_at IS NULL) OR (last_error IS NOT NULL))),
    CONSTRAINT ends_once CHECK (((delivered_at IS NULL) OR (dead_at IS NULL))),
    CONSTRAINT temporal_outbox_kind_check CHECK ((kind = ANY (ARRAY['start'::text, 'poke'::text, 'wake'::text, 'cancel'::text]))),
    CONSTRAINT temporal_outbox_seq_check CHECK ((seq > 0))
)
WITH (fillfactor='70');

CREATE TABLE backbeat.ticks (
    id uuid NOT NULL,
    worker text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    claimed integer DEFAULT 0 NOT NULL,
    settled integer DEFAULT 0 NOT NULL
);

CREATE TABLE backbeat.virtual_time (
    tier text NOT NULL,
    v double precision DEFAULT 0 NOT NULL,
    floor double precision DEFAULT 0 NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500', autovacuum_vacuum_cost_delay='0');

CREATE TABLE backbeat.workers (
    id text NOT NULL,
    kind text NOT NULL,
    loaded text[] NOT NULL,
    started_at timestamp with time zone NOT NULL,
    seen_at timestamp with time zone NOT NULL,
    CONSTRAINT workers_kind_check CHECK ((kind = ANY (ARRAY['cron'::text, 'temporal'::text])))
)
WITH (fillfactor='50');

CREATE TABLE backbeat.workflows (
    name text NOT NULL,
    version integer NOT NULL,
    runtime text NOT NULL,
    tier text NOT NULL,
    max_attempts smallint DEFAULT 3 NOT NULL,
    bulk integer,
    lane text GENERATED ALWAYS AS (
CASE
    WHEN (bulk IS NULL) THEN tier
    ELSE ('bulk/'::text || tier)
END) STORED NOT NULL,
    history text DEFAULT 'full'::text NOT NULL,
    trace text DEFAULT 'task'::text NOT NULL,
    idempotency boolean DEFAULT true NOT NULL,
    max_usd numeric,
    max_tokens bigint,
    registered_at timestamp with time zone DEFAULT backbeat.now() NOT NULL,
    seen_at timestamp with time zone,
    canary integer,
    stable integer,
    CONSTRAINT workflows_bulk_check CHECK (((bulk >= 1) AND (bulk <= 10000))),
    CONSTRAINT workflows_canary_check CHECK (((canary >= 0) AND (canary <= 100))),
    CONSTRAINT workflows_history_check CHECK ((history = ANY (ARRAY['full'::text, 'failures'::text, 'none'::text]))),
    CONSTRAINT workflows_max_attempts_check CHECK (((max_attempts >= 1) AND (max_attempts <= 100))),
    CONSTRAINT workflows_max_tokens_check CHECK ((max_tokens > 0)),
    CONSTRAINT workflows_max_usd_check CHECK ((max_usd > (0)::numeric)),
    CONSTRAINT workflows_name_check CHECK ((name ~ '^[a-z][a-z0-9_]{0,62}$'::text)),
    CONSTRAINT workflows_runtime_check CHECK ((runtime = ANY (ARRAY['cron'::text, 'temporal'::text]))),
    CONSTRAINT workflows_tier_check CHECK ((tier <> ''::text)),
    CONSTRAINT workflows_trace_check CHECK ((trace = ANY (ARRAY['task'::text, 'batch'::text]))),
    CONSTRAINT workflows_version_check CHECK ((version > 0))
);

ALTER TABLE ONLY backbeat.agent_steps
    ADD CONSTRAINT agent_steps_pkey PRIMARY KEY (agent_id, number);

ALTER TABLE ONLY backbeat.agents
    ADD CONSTRAINT agents_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.api_tokens
    ADD CONSTRAINT api_tokens_key_key UNIQUE (key);

ALTER TABLE ONLY backbeat.api_tokens
    ADD CONSTRAINT api_tokens_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.approval_decisions
    ADD CONSTRAINT approval_decisions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.approval_requests
    ADD CONSTRAINT approval_requests_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.approval_requests
    ADD CONSTRAINT approval_requests_workflow_id_step_key UNIQUE (workflow_id, step);

ALTER TABLE ONLY backbeat.audit_head
    ADD CONSTRAINT audit_head_pkey PRIMARY KEY (one);

ALTER TABLE ONLY backbeat.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.budget_blocks
    ADD CONSTRAINT budget_blocks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.budget_blocks
    ADD CONSTRAINT budget_blocks_worker_budgets_key UNIQUE (worker, budgets);

ALTER TABLE ONLY backbeat.budget_caps
    ADD CONSTRAINT budget_caps_pkey PRIMARY KEY (scope, key);

ALTER TABLE ONLY backbeat.budgets
    ADD CONSTRAINT budgets_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.budgets
    ADD CONSTRAINT budgets_scope_key_day_key UNIQUE (scope, key, day);

ALTER TABLE ONLY backbeat.calendars
    ADD CONSTRAINT calendars_pkey PRIMARY KEY (tenant, name);

ALTER TABLE ONLY backbeat.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.dead_letters
    ADD CONSTRAINT dead_letters_requeued_as_key UNIQUE (requeued_as);

ALTER TABLE ONLY backbeat.estimates
    ADD CONSTRAINT estimates_pkey PRIMARY KEY (workflow, version);

ALTER TABLE ONLY backbeat.feedback
    ADD CONSTRAINT feedback_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.finished_tasks
    ADD CONSTRAINT finished_tasks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.flows
    ADD CONSTRAINT flows_pkey PRIMARY KEY (tenant, tier, class);

ALTER TABLE ONLY backbeat.idempotency
    ADD CONSTRAINT idempotency_pkey PRIMARY KEY (tenant, key);

ALTER TABLE ONLY backbeat.joins
    ADD CONSTRAINT joins_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.joins
    ADD CONSTRAINT joins_workflow_id_step_key UNIQUE (workflow_id, step);

ALTER TABLE ONLY backbeat.ledger
    ADD CONSTRAINT ledger_pkey PRIMARY KEY (one);

ALTER TABLE ONLY backbeat.llm_batches
    ADD CONSTRAINT llm_batches_pkey PRIMARY KEY (tag);

ALTER TABLE ONLY backbeat.llm_rate
    ADD CONSTRAINT llm_rate_pkey PRIMARY KEY (route);

ALTER TABLE ONLY backbeat.llm_routes
    ADD CONSTRAINT llm_routes_pkey PRIMARY KEY (scope, key);

ALTER TABLE ONLY backbeat.messages
    ADD CONSTRAINT messages_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.model_calls
    ADD CONSTRAINT model_calls_pkey PRIMARY KEY (owner, call_key, seq);

ALTER TABLE ONLY backbeat.notifications
    ADD CONSTRAINT notifications_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.orchestrated_workflows
    ADD CONSTRAINT orchestrated_workflows_parent_task_key UNIQUE (parent_task);

ALTER TABLE ONLY backbeat.orchestrated_workflows
    ADD CONSTRAINT orchestrated_workflows_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.orchestrated_workflows_steps
    ADD CONSTRAINT orchestrated_workflows_steps_pkey PRIMARY KEY (workflow_id, seq);

ALTER TABLE ONLY backbeat.orchestrated_workflows
    ADD CONSTRAINT orchestrated_workflows_temporal_id_key UNIQUE (temporal_id);

ALTER TABLE ONLY backbeat.pauses
    ADD CONSTRAINT pauses_pkey PRIMARY KEY (scope, key);

ALTER TABLE ONLY backbeat.presence
    ADD CONSTRAINT presence_pkey PRIMARY KEY (since);

ALTER TABLE ONLY backbeat.retention
    ADD CONSTRAINT retention_pkey PRIMARY KEY (policy);

ALTER TABLE ONLY backbeat.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (name);

ALTER TABLE ONLY backbeat.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY backbeat.side_effects
    ADD CONSTRAINT side_effects_pkey PRIMARY KEY (key);

ALTER TABLE ONLY backbeat.simple_tasks
    ADD CONSTRAINT simple_tasks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.switches
    ADD CONSTRAINT switches_pkey PRIMARY KEY (name);

ALTER TABLE ONLY backbeat.telemetry_hosts
    ADD CONSTRAINT telemetry_hosts_pkey PRIMARY KEY (host);

ALTER TABLE ONLY backbeat.telemetry_outbox
    ADD CONSTRAINT telemetry_outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.temporal_outbox
    ADD CONSTRAINT temporal_outbox_pkey PRIMARY KEY (stream, seq);

ALTER TABLE ONLY backbeat.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.ticks
    ADD CONSTRAINT ticks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.virtual_time
    ADD CONSTRAINT virtual_time_pkey PRIMARY KEY (tier);

ALTER TABLE ONLY backbeat.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.workflows
    ADD CONSTRAINT workflows_pkey PRIMARY KEY (name, version);

CREATE INDEX approval_decisions_of ON backbeat.approval_decisions USING btree (request_id, decided_at);

CREATE INDEX approval_requests_pending ON backbeat.approval_requests USING btree (tenant, deadline) WHERE (state = ANY (ARRAY['pending'::text, 'changes'::text]));

CREATE INDEX approval_rights ON backbeat.approval_decisions USING btree (user_name) WHERE (decision = 'delegate'::text);

CREATE UNIQUE INDEX approval_votes_of_people ON backbeat.approval_decisions USING btree (request_id, revision, user_name) WHERE (decision = 'approve'::text);

CREATE UNIQUE INDEX approval_votes_of_rights ON backbeat.approval_decisions USING btree (request_id, revision, for_user) WHERE (decision = 'approve'::text);

CREATE INDEX audit_log_refusals ON backbeat.audit_log USING btree (actor, at) WHERE (action = 'approval.refused'::text);

CREATE INDEX audit_log_subject ON backbeat.audit_log USING btree (subject, id);

CREATE INDEX dead_letters_open ON backbeat.dead_letters USING btree (id) WHERE (resolved_at IS NULL);

CREATE INDEX feedback_origin ON backbeat.feedback USING btree (origin_id);

CREATE INDEX joins_open ON backbeat.joins USING btree (workflow_id) WHERE (children_left > 0);

CREATE INDEX llm_batches_due ON backbeat.llm_batches USING btree (next_at) WHERE (status <> ALL (ARRAY['ended'::text, 'lost'::text]));

CREATE INDEX messages_about ON backbeat.messages USING gin (notifications);

CREATE INDEX messages_due ON backbeat.messages USING btree (channel, due_at) WHERE (status = 'open'::text);

CREATE UNIQUE INDEX messages_gathering ON backbeat.messages USING btree (channel, recipient) WHERE ((status = 'open'::text) AND (attempts = 0));

CREATE INDEX model_calls_batch ON backbeat.model_calls USING btree (batch) WHERE (batch IS NOT NULL);

CREATE INDEX model_calls_block ON backbeat.model_calls USING btree (block) WHERE (block IS NOT NULL);

CREATE INDEX model_calls_lost ON backbeat.model_calls USING btree (day) WHERE (status = 'lost'::text);

CREATE UNIQUE INDEX model_calls_open ON backbeat.model_calls USING btree (owner, call_key) WHERE (status = 'open'::text);

CREATE INDEX model_calls_recent ON backbeat.model_calls USING btree (closed_at) WHERE (status = 'done'::text);

CREATE INDEX notifications_new ON backbeat.notifications USING btree (id) WHERE (routed_at IS NULL);

CREATE INDEX notifications_of ON backbeat.notifications USING btree (request_id);

CREATE INDEX orchestrated_workflows_open ON backbeat.orchestrated_workflows USING btree (checked_at) WHERE (finished_at IS NULL);

CREATE INDEX orchestrated_workflows_over ON backbeat.orchestrated_workflows USING btree (finished_at) WHERE (workflow <> 'approve_effect'::text);

CREATE UNIQUE INDEX orchestrated_workflows_start ON backbeat.orchestrated_workflows USING btree (tenant, workflow, start_key) WHERE (start_key IS NOT NULL);

CREATE UNIQUE INDEX orchestrated_workflows_step ON backbeat.orchestrated_workflows USING btree (parent_workflow, parent_step) WHERE (parent_workflow IS NOT NULL);

CREATE INDEX side_effects_approval ON backbeat.side_effects USING btree (approval_id) WHERE (approval_id IS NOT NULL);

CREATE INDEX side_effects_open ON backbeat.side_effects USING btree (intended_at) WHERE (status <> 'done'::text);

CREATE INDEX side_effects_origin ON backbeat.side_effects USING btree (origin_id);

CREATE UNIQUE INDEX simple_tasks_agent ON backbeat.simple_tasks USING btree (agent_id) WHERE (agent_id IS NOT NULL);

CREATE INDEX simple_tasks_alone ON backbeat.simple_tasks USING btree (tier, id) WHERE (alone AND (status = ANY (ARRAY['pending'::text, 'ready'::text])));

CREATE INDEX simple_tasks_children ON backbeat.simple_tasks USING btree (parent_id) WHERE (parent_id IS NOT NULL);

CREATE INDEX simple_tasks_delayed ON backbeat.simple_tasks USING btree (run_after) WHERE (status = ANY (ARRAY['delayed'::text, 'held'::text]));

CREATE INDEX simple_tasks_expiring ON backbeat.simple_tasks USING btree (expires_at) WHERE (expires_at IS NOT NULL);

CREATE INDEX simple_tasks_held ON backbeat.simple_tasks USING btree (hold_reason, hold_key) WHERE (status = 'held'::text);

CREATE INDEX simple_tasks_pending ON backbeat.simple_tasks USING btree (tenant, tier, class, rank, id) WHERE (status = 'pending'::text);

CREATE INDEX simple_tasks_ready ON backbeat.simple_tasks USING btree (tier, vstart, id) WHERE (status = 'ready'::text);

CREATE INDEX simple_tasks_running ON backbeat.simple_tasks USING btree (id) WHERE (status = 'running'::text);

CREATE INDEX simple_tasks_urgent ON backbeat.simple_tasks USING btree (vstart, id) WHERE ((status = 'ready'::text) AND (class = 'urgent'::text));

CREATE INDEX temporal_outbox_open ON backbeat.temporal_outbox USING btree (lease_until) WHERE ((delivered_at IS NULL) AND (dead_at IS NULL));

CREATE INDEX temporal_outbox_order ON backbeat.temporal_outbox USING btree (stream, seq) WHERE ((delivered_at IS NULL) AND (dead_at IS NULL));

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON backbeat.approval_decisions FOR EACH STATEMENT EXECUTE FUNCTION backbeat.append_only();

ALTER TABLE backbeat.approval_decisions ENABLE ALWAYS TRIGGER append_only;

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON backbeat.audit_log FOR EACH STATEMENT EXECUTE FUNCTION backbeat.append_only();

ALTER TABLE backbeat.audit_log ENABLE ALWAYS TRIGGER append_only;

CREATE TRIGGER children_ended AFTER UPDATE ON backbeat.joins FOR EACH ROW WHEN (((new.agent_id IS NOT NULL) AND ((new.children_left = 0) OR (new.failed > new.tolerated)))) EXECUTE FUNCTION backbeat.children_ended();

CREATE TRIGGER presence AFTER INSERT OR UPDATE OF seen_at ON backbeat.workers FOR EACH ROW WHEN ((new.kind = 'temporal'::text)) EXECUTE FUNCTION backbeat.note_presence();

CREATE TRIGGER step_ended AFTER INSERT ON backbeat.finished_tasks FOR EACH ROW WHEN ((new.agent_id IS NOT NULL)) EXECUTE FUNCTION backbeat.step_ended();

CREATE TRIGGER workflow_moved AFTER UPDATE ON backbeat.orchestrated_workflows FOR EACH ROW WHEN (((new.generation <> old.generation) OR ((new.finished_at IS NOT NULL) AND (old.finished_at IS NULL)))) EXECUTE FUNCTION backbeat.workflow_moved();

ALTER TABLE ONLY backbeat.agent_steps
    ADD CONSTRAINT agent_steps_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES backbeat.agents(id) ON DELETE CASCADE;

ALTER TABLE ONLY backbeat.approval_decisions
    ADD CONSTRAINT approval_decisions_request_id_fkey FOREIGN KEY (request_id) REFERENCES backbeat.approval_requests(id);

ALTER TABLE ONLY backbeat.approval_requests
    ADD CONSTRAINT approval_requests_workflow_id_fkey FOREIGN KEY (workflow_id) REFERENCES backbeat.orchestrated_workflows(id);

ALTER TABLE ONLY backbeat.joins
    ADD CONSTRAINT joins_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES backbeat.agents(id) ON DELETE CASCADE;

ALTER TABLE ONLY backbeat.joins
    ADD CONSTRAINT joins_workflow_id_fkey FOREIGN KEY (workflow_id) REFERENCES backbeat.orchestrated_workflows(id) ON DELETE CASCADE;

ALTER TABLE ONLY backbeat.notifications
    ADD CONSTRAINT notifications_request_id_fkey FOREIGN KEY (request_id) REFERENCES backbeat.approval_requests(id);

ALTER TABLE ONLY backbeat.orchestrated_workflows_steps
    ADD CONSTRAINT orchestrated_workflows_steps_workflow_id_fkey FOREIGN KEY (workflow_id) REFERENCES backbeat.orchestrated_workflows(id) ON DELETE CASCADE;

ALTER TABLE ONLY backbeat.schedules
    ADD CONSTRAINT schedules_workflow_version_fkey FOREIGN KEY (workflow, version) REFERENCES backbeat.workflows(name, version);

ALTER TABLE ONLY backbeat.temporal_outbox
    ADD CONSTRAINT temporal_outbox_stream_fkey FOREIGN KEY (stream) REFERENCES backbeat.orchestrated_workflows(id) ON DELETE CASCADE;
GRANT USAGE ON SCHEMA backbeat TO backbeat_worker;
GRANT USAGE ON SCHEMA backbeat TO backbeat_operator;
GRANT USAGE ON SCHEMA backbeat TO backbeat_producer;
GRANT USAGE ON SCHEMA backbeat TO backbeat_selector;
REVOKE ALL ON FUNCTION backbeat.now() FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.now() TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.now() TO backbeat_operator;
GRANT ALL ON FUNCTION backbeat.now() TO backbeat_selector;
REVOKE ALL ON FUNCTION backbeat.clock() FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.clock() TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.clock() TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.uuid7(p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.uuid7(p_at timestamp with time zone) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.uuid7(p_at timestamp with time zone) TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.joins TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.joins TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.add_children(p_workflow uuid, p_step text, p_from integer, p_name text, p_version integer, p_payloads jsonb[], p_tolerated integer, p_seal boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.add_children(p_workflow uuid, p_step text, p_from integer, p_name text, p_version integer, p_payloads jsonb[], p_tolerated integer, p_seal boolean) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.add_feedback(p_rows jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.add_feedback(p_rows jsonb) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.add_schedule(p_schedule jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.admit(p_worker text, p_route text, p_limits double precision[], p_most integer, p_news jsonb, p_asks jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.admit(p_worker text, p_route text, p_limits double precision[], p_most integer, p_news jsonb, p_asks jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.after_time(p_tenant text, p_policy jsonb, p_from timestamp with time zone, p_seconds double precision) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.append_only() FROM PUBLIC;
GRANT SELECT ON TABLE backbeat.model_calls TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.model_calls TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.asked(p_calls jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.audit(p_actor text, p_action text, p_subject text, p_detail jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.audit_hash(p_prev bytea, p_id bigint, p_at timestamp with time zone, p_actor text, p_action text, p_subject text, p_detail jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.audit_hash(p_prev bytea, p_id bigint, p_at timestamp with time zone, p_actor text, p_action text, p_subject text, p_detail jsonb) TO backbeat_operator;
GRANT ALL ON FUNCTION backbeat.audit_hash(p_prev bytea, p_id bigint, p_at timestamp with time zone, p_actor text, p_action text, p_subject text, p_detail jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.begin_effect(p_key text, p_owner_kind text, p_owner uuid, p_lease bigint, p_kind text, p_request jsonb, p_request_hash text, p_origin uuid, p_traceparent text, p_approval uuid, p_fire_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.begin_effect(p_key text, p_owner_kind text, p_owner uuid, p_lease bigint, p_kind text, p_request jsonb, p_request_hash text, p_origin uuid, p_traceparent text, p_approval uuid, p_fire_seconds double precision) TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.agents TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.agents TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.begin_step(p_task uuid, p_lease bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.begin_step(p_task uuid, p_lease bigint) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.block_route(p_route text, p_seconds double precision, p_why text, p_shrink boolean, OUT first boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.block_route(p_route text, p_seconds double precision, p_why text, p_shrink boolean, OUT first boolean) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.block_route(p_route text, p_seconds double precision, p_why text, p_shrink boolean, OUT first boolean) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.book(p_call backbeat.model_calls, p_status text, p_cost numeric, p_tokens bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.cancel_agent(p_agent uuid, p_reason text, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.cancel_agent(p_agent uuid, p_reason text, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.cancel_below(p_ids uuid[], p_error text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.cancel_orphans(p_workflow uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.cancel_orphans(p_workflow uuid, p_limit integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.cancel_task(p_task uuid, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.cancel_task(p_task uuid, p_reason text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.cancel_workflow(p_workflow uuid, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.cancel_workflow(p_workflow uuid, p_reason text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.canonical(p_value jsonb, p_depth integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.canonical(p_value jsonb, p_depth integer) TO backbeat_producer;
GRANT ALL ON FUNCTION backbeat.canonical(p_value jsonb, p_depth integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.cause_stands(p_reason text, p_key text, p_since timestamp with time zone) FROM PUBLIC;
GRANT SELECT ON TABLE backbeat.orchestrated_workflows TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.orchestrated_workflows TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.child_workflow(p_parent uuid, p_step text, p_workflow text, p_input jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.child_workflow(p_parent uuid, p_step text, p_workflow text, p_input jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.children_ended() FROM PUBLIC;
GRANT SELECT ON TABLE backbeat.simple_tasks TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.simple_tasks TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.claim(p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision, p_idle boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.claim(p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision, p_idle boolean) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.claim_bulk(p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision, p_idle boolean, p_patient boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.claim_bulk(p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision, p_idle boolean, p_patient boolean) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.class_weight(p_class text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.close_calls(p_ends jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.close_calls(p_ends jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.close_if_pending(p_request uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.close_if_pending(p_request uuid) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.rule_problem(p_rule jsonb, p_path text, p_keys text[], p_nobody_is_fine boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.rule_problem(p_rule jsonb, p_path text, p_keys text[], p_nobody_is_fine boolean) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.policy_problem(p_policy jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.policy_problem(p_policy jsonb) TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.approval_requests TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.approval_requests TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.create_approval(p_workflow uuid, p_step text, p_hash text, p_editable boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.create_approval(p_workflow uuid, p_step text, p_hash text, p_editable boolean) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.create_token(p_key bytea, p_user text, p_groups text[], p_seconds double precision) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.decide(p_proof text, p_request uuid, p_decision text, p_hash text, p_comment text, p_decision_id uuid, p_via text, p_body jsonb, p_problem text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.decide(p_proof text, p_request uuid, p_decision text, p_hash text, p_comment text, p_decision_id uuid, p_via text, p_body jsonb, p_problem text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.discard_dead(p_ids uuid[], p_by text, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.discard_dead(p_ids uuid[], p_by text, p_reason text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.drop_answers(p_owners uuid[]) FROM PUBLIC;
GRANT SELECT ON TABLE backbeat.llm_batches TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.llm_batches TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.due_batches(p_providers text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.due_batches(p_providers text[]) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.end_tasks(p_departures backbeat.departure[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.end_tick(p_id uuid, p_claimed integer, p_settled integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.end_tick(p_id uuid, p_claimed integer, p_settled integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.enough(p_request backbeat.approval_requests, p_right text, p_groups text[], p_at timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.enqueue(p_workflow text, p_version integer, p_payloads jsonb[], p_keys bytea[], p_tenant text, p_class text, p_run_after timestamp with time zone, p_expires_at timestamp with time zone, p_source_at timestamp with time zone[], p_traceparent text, p_origin uuid, p_parent uuid, p_salt text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.enqueue(p_workflow text, p_version integer, p_payloads jsonb[], p_keys bytea[], p_tenant text, p_class text, p_run_after timestamp with time zone, p_expires_at timestamp with time zone, p_source_at timestamp with time zone[], p_traceparent text, p_origin uuid, p_parent uuid, p_salt text) TO backbeat_producer;
GRANT ALL ON FUNCTION backbeat.enqueue(p_workflow text, p_version integer, p_payloads jsonb[], p_keys bytea[], p_tenant text, p_class text, p_run_after timestamp with time zone, p_expires_at timestamp with time zone, p_source_at timestamp with time zone[], p_traceparent text, p_origin uuid, p_parent uuid, p_salt text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.erase(p_ids uuid[], p_subject text, p_by text, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.erase(p_ids uuid[], p_subject text, p_by text, p_reason text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.expect_wake(p_workflow uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.extended(p_request backbeat.approval_requests, p_at timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.fan_out(p_end backbeat.ending) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.finish(p_ids uuid[], p_status text, p_error_class text, p_error text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.finish_effect(p_key text, p_outcome jsonb, p_read_back boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.finish_effect(p_key text, p_outcome jsonb, p_read_back boolean) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.fire_schedule(p_name text, p_watermark timestamp with time zone, p_slot timestamp with time zone, p_next_at timestamp with time zone, p_payloads jsonb[], p_keys bytea[], p_run_after timestamp with time zone, p_note text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.fire_schedule(p_name text, p_watermark timestamp with time zone, p_slot timestamp with time zone, p_next_at timestamp with time zone, p_payloads jsonb[], p_keys bytea[], p_run_after timestamp with time zone, p_note text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.fits(p_rule jsonb, p_user text, p_groups text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.fits(p_rule jsonb, p_user text, p_groups text[]) TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.budget_blocks TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.budget_blocks TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.fold(p_block backbeat.budget_blocks) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.fork_agent(p_agent uuid, p_steps integer, p_id uuid, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.fork_agent(p_agent uuid, p_steps integer, p_id uuid, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.handed_on(p_request uuid, p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.handed_on(p_request uuid, p_at timestamp with time zone) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.heartbeat(p_worker text, p_ids uuid[], p_leases bigint[], p_lease_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.heartbeat(p_worker text, p_ids uuid[], p_leases bigint[], p_lease_seconds double precision) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.history_entry(p_task backbeat.simple_tasks, p_outcome text, p_error_class text, p_error text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.idempotency_key(p_workflow text, p_version integer, p_payload jsonb, p_salt text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.idempotency_key(p_workflow text, p_version integer, p_payload jsonb, p_salt text) TO backbeat_producer;
GRANT ALL ON FUNCTION backbeat.idempotency_key(p_workflow text, p_version integer, p_payload jsonb, p_salt text) TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.messages TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.messages TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.lease_message(p_channel text, p_for double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.lease_message(p_channel text, p_for double precision) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.lease_outbox(p_kinds text[], p_limit integer, p_seconds double precision, p_loaded text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.lease_outbox(p_kinds text[], p_limit integer, p_seconds double precision, p_loaded text[]) TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.telemetry_outbox TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.telemetry_outbox TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.lease_spans(p_for double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.lease_spans(p_for double precision) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.leave_flows(p_ids uuid[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.lock_budgets(p_calls backbeat.model_calls[]) FROM PUBLIC;
GRANT SELECT ON TABLE backbeat.flows TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.flows TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.lock_flows(p_ids uuid[], p_children text[], p_flows backbeat.flows[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.lose(p_calls backbeat.model_calls[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.lose_calls(p_owners uuid[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.maintain_partitions(p_days_ahead integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.maintain_partitions(p_days_ahead integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.mark_batch(p_tag text, p_lease bigint, p_status text, p_vendor_id text, p_note text, p_seconds double precision, p_cancel boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.mark_batch(p_tag text, p_lease bigint, p_status text, p_vendor_id text, p_note text, p_seconds double precision, p_cancel boolean) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.may_be_lost(p_key text, p_owner uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.may_be_lost(p_key text, p_owner uuid) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.need_tenant(p_id text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.next_reminder(p_tenant text, p_policy jsonb, p_deadline timestamp with time zone, p_at timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.next_step(p_agent uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.nobody_can(p_request backbeat.approval_requests, p_at timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.note_effect(p_key text, p_error text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.note_effect(p_key text, p_error text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.note_presence() FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.note_restore(p_proof uuid, p_by text, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.note_restore(p_proof uuid, p_by text, p_reason text) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.note_restore(p_proof uuid, p_by text, p_reason text) TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.budgets TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.budgets TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.objection(p_row backbeat.budgets, p_usd numeric, p_tokens bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.open_calls(p_worker text, p_calls jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.open_calls(p_worker text, p_calls jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.pause(p_scope text, p_key text, p_reason text, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.pause(p_scope text, p_key text, p_reason text, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.payers(p_owner uuid) FROM PUBLIC;
REVOKE ALL ON PROCEDURE backbeat.pin_functions() FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.project_run(p_workflow uuid, p_seq integer, p_status text, p_run_id text, p_waiting_for text, p_result jsonb, p_error text, p_steps jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.project_run(p_workflow uuid, p_seq integer, p_status text, p_run_id text, p_waiting_for text, p_result jsonb, p_error text, p_steps jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.project_state(p_workflow uuid, p_seq integer, p_status text, p_run_id text, p_waiting_for text, p_result jsonb, p_error text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.project_state(p_workflow uuid, p_seq integer, p_status text, p_run_id text, p_waiting_for text, p_result jsonb, p_error text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.promote(p_flows backbeat.flows[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.push_outbox(p_stream uuid, p_kind text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.put_spans(p_id uuid, p_spans integer, p_body bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.put_spans(p_id uuid, p_spans integer, p_body bytea) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.reap(p_limit integer, p_leases bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.reap(p_limit integer, p_leases bigint[]) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.reassign(p_from text, p_to text, p_reason text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.recheck_workflow(p_workflow uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.recheck_workflow(p_workflow uuid) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.reconcile_call(p_owner uuid, p_key text, p_seq smallint, p_cost numeric, p_tokens integer, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.reconcile_call(p_owner uuid, p_key text, p_seq smallint, p_cost numeric, p_tokens integer, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.refire_effect(p_key text, p_token bigint, p_fire_seconds double precision, p_error text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.refire_effect(p_key text, p_token bigint, p_fire_seconds double precision, p_error text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.refuse_start(p_workflow text, p_by text, p_error text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.refuse_start(p_workflow text, p_by text, p_error text) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.refuse_start(p_workflow text, p_by text, p_error text) TO backbeat_producer;
REVOKE ALL ON FUNCTION backbeat.refuse_unknown_tenants(p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.refuse_unknown_tenants(p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.register_definitions(p_runtime text, p_definitions jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.register_definitions(p_runtime text, p_definitions jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.register_worker(p_worker text, p_kind text, p_definitions jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.register_worker(p_worker text, p_kind text, p_definitions jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.release_held(p_reason text, p_key text, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.release_held(p_reason text, p_key text, p_limit integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.release_switch(p_name text, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.release_switch(p_name text, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.remove_schedule(p_name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.requeue_dead(p_ids uuid[], p_newest boolean, p_start timestamp with time zone, p_seconds double precision, p_by text, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.requeue_dead(p_ids uuid[], p_newest boolean, p_start timestamp with time zone, p_seconds double precision, p_by text, p_reason text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.require_approved(p_approval uuid, p_hash text, p_workflow uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.resolve_batch(p_tag text, p_status text, p_vendor_id text, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.resolve_batch(p_tag text, p_status text, p_vendor_id text, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.resolve_effect(p_key text, p_outcome jsonb, p_reason text, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.resolve_effect(p_key text, p_outcome jsonb, p_reason text, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.restart_workflow(p_workflow uuid, p_temporal_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.restart_workflow(p_workflow uuid, p_temporal_id text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.resume_agent(p_agent uuid, p_tokens bigint, p_usd numeric, p_steps integer, p_by text, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.resume_agent(p_agent uuid, p_tokens bigint, p_usd numeric, p_steps integer, p_by text, p_reason text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.retain(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.retain(p_limit integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.retain_agents(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.retain_agents(p_limit integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.retry_workflow(p_workflow uuid, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.retry_workflow(p_workflow uuid, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.return_blocks(p_worker text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.return_blocks(p_worker text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.revise(p_request uuid, p_revision integer, p_body jsonb, p_by text, p_at timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.revise_approval(p_request uuid, p_revision integer, p_body jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.revise_approval(p_request uuid, p_revision integer, p_body jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.revoke_token(p_id text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.rights(p_request backbeat.approval_requests, p_user text, p_groups text[], p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.rights(p_request backbeat.approval_requests, p_user text, p_groups text[], p_at timestamp with time zone) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.route_notification(p_id uuid, p_to jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.route_notification(p_id uuid, p_to jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.rules_at(p_request backbeat.approval_requests, p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.rules_at(p_request backbeat.approval_requests, p_at timestamp with time zone) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.run_selector(p_name text, p_watermark timestamp with time zone, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.run_selector(p_name text, p_watermark timestamp with time zone, p_limit integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.set_budget(p_scope text, p_key text, p_usd numeric, p_tokens bigint, p_by text, p_soft boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.set_budget(p_scope text, p_key text, p_usd numeric, p_tokens bigint, p_by text, p_soft boolean) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.set_calendar(p_tenant text, p_name text, p_time_zone text, p_days integer[], p_opens time without time zone, p_closes time without time zone, p_holidays date[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.set_calendar(p_tenant text, p_name text, p_time_zone text, p_days integer[], p_opens time without time zone, p_closes time without time zone, p_holidays date[]) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.set_canary(p_name text, p_version integer, p_percent integer, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.set_canary(p_name text, p_version integer, p_percent integer, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.set_retention(p_policy text, p_days integer, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.set_retention(p_policy text, p_days integer, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.set_route(p_scope text, p_key text, p_body jsonb, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.set_route(p_scope text, p_key text, p_body jsonb, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.set_tenant(p_id text, p_weight double precision, p_max_running integer, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.set_tenant(p_id text, p_weight double precision, p_max_running integer, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.settle(p_rows jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.settle(p_rows jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.settle_joins(p_departures backbeat.departure[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.settle_message(p_id uuid, p_lease bigint, p_status text, p_error text, p_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.settle_message(p_id uuid, p_lease bigint, p_status text, p_error text, p_seconds double precision) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.settle_outbox(p_stream uuid, p_seq integer, p_lease bigint, p_outcome text, p_error text, p_delay double precision, p_run_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.settle_outbox(p_stream uuid, p_seq integer, p_lease bigint, p_outcome text, p_error text, p_delay double precision, p_run_id text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.settle_spans(p_id uuid, p_refused text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.settle_spans(p_id uuid, p_refused text) TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.llm_rate TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.llm_rate TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.shrunk(p_rate backbeat.llm_rate) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.shrunk(p_rate backbeat.llm_rate) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.shrunk(p_rate backbeat.llm_rate) TO backbeat_operator;
GRANT SELECT(id) ON TABLE backbeat.api_tokens TO backbeat_worker;
GRANT SELECT(id) ON TABLE backbeat.api_tokens TO backbeat_operator;
GRANT SELECT(user_name) ON TABLE backbeat.api_tokens TO backbeat_worker;
GRANT SELECT(user_name) ON TABLE backbeat.api_tokens TO backbeat_operator;
GRANT SELECT(groups) ON TABLE backbeat.api_tokens TO backbeat_worker;
GRANT SELECT(groups) ON TABLE backbeat.api_tokens TO backbeat_operator;
GRANT SELECT(created_at) ON TABLE backbeat.api_tokens TO backbeat_worker;
GRANT SELECT(created_at) ON TABLE backbeat.api_tokens TO backbeat_operator;
GRANT SELECT(created_by) ON TABLE backbeat.api_tokens TO backbeat_worker;
GRANT SELECT(created_by) ON TABLE backbeat.api_tokens TO backbeat_operator;
GRANT SELECT(expires_at) ON TABLE backbeat.api_tokens TO backbeat_worker;
GRANT SELECT(expires_at) ON TABLE backbeat.api_tokens TO backbeat_operator;
GRANT SELECT(revoked_at) ON TABLE backbeat.api_tokens TO backbeat_worker;
GRANT SELECT(revoked_at) ON TABLE backbeat.api_tokens TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.signer(p_proof text, p_message text, p_at timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.span_id(VARIADIC p_parts text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.span_id(VARIADIC p_parts text[]) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.span_id(VARIADIC p_parts text[]) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.start_orchestration(p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_key text, p_traceparent text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.start_orchestration(p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_key text, p_traceparent text) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.start_orchestration(p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_key text, p_traceparent text) TO backbeat_producer;
REVOKE ALL ON FUNCTION backbeat.start_tick(p_worker text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.start_tick(p_worker text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.start_workflow(p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_origin uuid, p_parent_task uuid, p_traceparent text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.start_workflow(p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_origin uuid, p_parent_task uuid, p_traceparent text) TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.pauses TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.pauses TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.startable(p_loaded text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.step_ended() FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.sweep(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.sweep(p_limit integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.tell(p_request backbeat.approval_requests, p_event text, p_facts jsonb, p_at timestamp with time zone, p_users text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.tell_spool(p_host text, p_files integer, p_oldest double precision, p_quarantined integer, p_shed bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.tell_spool(p_host text, p_files integer, p_oldest double precision, p_quarantined integer, p_shed bigint) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.throw_switch(p_name text, p_reason text, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.throw_switch(p_name text, p_reason text, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.trace_id(VARIADIC p_parts text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.trace_id(VARIADIC p_parts text[]) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.trace_id(VARIADIC p_parts text[]) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.turn(p_rows jsonb, p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.turn(p_rows jsonb, p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.turn_schedule(p_name text, p_from timestamp with time zone, p_next_at timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.unpause(p_scope text, p_key text, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.unpause(p_scope text, p_key text, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.uses_patience(p_outcome text, p_reason text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.utc_day(p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.utc_day(p_at timestamp with time zone) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.utc_day(p_at timestamp with time zone) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.uuid7_floor(p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.uuid7_floor(p_at timestamp with time zone) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.uuid7_floor(p_at timestamp with time zone) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.wake(p_workflow uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.workflow_moved() FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.workflows_to_check(p_limit integer, p_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.workflows_to_check(p_limit integer, p_seconds double precision) TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.agent_steps TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.agent_steps TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.approval_decisions TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.approval_decisions TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.audit_head TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.audit_head TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.audit_log TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.audit_log TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.budget_caps TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.budget_caps TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.calendars TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.calendars TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.dead_letters TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.dead_letters TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.estimates TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.estimates TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.feedback TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.feedback TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.finished_tasks TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.finished_tasks TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.tenants TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.tenants TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.flow_rooms TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.flow_rooms TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.idempotency TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.idempotency TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.llm_routes TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.llm_routes TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.notifications TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.notifications TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.orchestrated_workflows_steps TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.orchestrated_workflows_steps TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.presence TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.presence TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.retention TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.retention TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.schedules TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.schedules TO backbeat_operator;
GRANT SELECT(name) ON TABLE backbeat.schedules TO backbeat_selector;
GRANT SELECT(selector) ON TABLE backbeat.schedules TO backbeat_selector;
GRANT SELECT(watermark) ON TABLE backbeat.schedules TO backbeat_selector;
GRANT SELECT ON TABLE backbeat.schema_migrations TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.schema_migrations TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.side_effects TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.side_effects TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.switches TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.switches TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.tasks TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.tasks TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.telemetry_hosts TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.telemetry_hosts TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.temporal_outbox TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.temporal_outbox TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.ticks TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.ticks TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.virtual_time TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.virtual_time TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.workers TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.workers TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.workflows TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.workflows TO backbeat_operator;
ALTER DEFAULT PRIVILEGES FOR ROLE backbeat_owner IN SCHEMA backbeat GRANT SELECT ON TABLES TO backbeat_worker;
ALTER DEFAULT PRIVILEGES FOR ROLE backbeat_owner IN SCHEMA backbeat GRANT SELECT ON TABLES TO backbeat_operator;
