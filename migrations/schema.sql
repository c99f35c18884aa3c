-- Made by `make schema` from migrations/postgres; compared in tests/integration/test_schema_dump.py.

CREATE SCHEMA backbeat;

CREATE FUNCTION backbeat.append_only() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END
$$;

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
    price_version text NOT NULL,
    cost_usd numeric,
    uncached integer,
    cache_read integer,
    cache_write integer,
    output integer,
    reasoning integer,
    response jsonb,
    valid boolean,
    stop text,
    model_answered text,
    response_id text,
    error_class text,
    error text,
    opened_at timestamp with time zone NOT NULL,
    closed_at timestamp with time zone,
    CONSTRAINT closed_says_when CHECK (((status = 'open'::text) = (closed_at IS NULL))),
    CONSTRAINT done_says_usage CHECK (((status <> 'done'::text) OR ((uncached IS NOT NULL) AND (output IS NOT NULL)))),
    CONSTRAINT model_calls_call_key_check CHECK ((call_key <> ''::text)),
    CONSTRAINT model_calls_cost_usd_check CHECK ((cost_usd >= (0)::numeric)),
    CONSTRAINT model_calls_owner_kind_check CHECK ((owner_kind = ANY (ARRAY['task'::text, 'workflow'::text]))),
    CONSTRAINT model_calls_reserved_tokens_check CHECK ((reserved_tokens >= 0)),
    CONSTRAINT model_calls_reserved_usd_check CHECK ((reserved_usd >= (0)::numeric)),
    CONSTRAINT model_calls_seq_check CHECK ((seq > 0)),
    CONSTRAINT model_calls_status_check CHECK ((status = ANY (ARRAY['open'::text, 'done'::text, 'lost'::text, 'refused'::text])))
);

CREATE FUNCTION backbeat.attempt_cost(p_owner uuid, p_lease bigint) RETURNS double precision
    LANGUAGE sql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    RETURN (SELECT ((1)::numeric + ((COALESCE(sum((((c.uncached + c.cache_read) + c.cache_write) + c.output)), (0)::bigint))::numeric / 1000.0)) FROM backbeat.model_calls c WHERE ((c.owner = attempt_cost.p_owner) AND (c.lease = attempt_cost.p_lease)));

CREATE FUNCTION backbeat.audit(p_actor text, p_action text, p_subject text, p_detail jsonb) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_prev audit_head;
    v_at timestamptz;
    v_hash bytea;
BEGIN
    SELECT * INTO v_prev FROM audit_head FOR UPDATE;
    v_at := clock();
    v_hash := audit_hash(v_prev.hash, v_prev.id + 1, v_at, p_actor, p_action, p_subject, p_detail);
    INSERT INTO audit_log VALUES (v_prev.id + 1, v_at, p_actor, p_action, p_subject, p_detail, v_prev.hash, v_hash);
    UPDATE audit_head SET id = v_prev.id + 1, hash = v_hash;
    RETURN v_prev.id + 1;
END
$$;

CREATE FUNCTION backbeat.audit_hash(p_prev bytea, p_id bigint, p_at timestamp with time zone, p_actor text, p_action text, p_subject text, p_detail jsonb) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    RETURN sha256((p_prev || convert_to((jsonb_build_array(p_id, (floor((EXTRACT(epoch FROM p_at) * (1000000)::numeric)))::bigint, p_actor, p_action, p_subject, p_detail))::text, 'UTF8'::name)));

CREATE FUNCTION backbeat.begin_effect(p_key text, p_owner_kind text, p_owner uuid, p_lease bigint, p_kind text, p_request jsonb, p_request_hash text, p_origin uuid, p_traceparent text, p_approval uuid, p_fire_seconds double precision) RETURNS TABLE(verdict text, token bigint, outcome jsonb, wait_seconds double precision, detail text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    v_token bigint := nextval('leases');
    v_effect side_effects;
    v_mark text;
BEGIN
    IF p_owner_kind = 'task' THEN
        PERFORM FROM simple_tasks t WHERE t.id = p_owner AND t.lease = p_lease AND t.status = 'running' FOR KEY SHARE;
        IF NOT FOUND THEN
            RETURN QUERY SELECT 'fenced', NULL::bigint, NULL::jsonb, NULL::double precision, NULL::text;
            RETURN;
        END IF;
    END IF;
    SELECT * INTO v_effect FROM side_effects e WHERE e.key = p_key FOR UPDATE;
    IF NOT FOUND OR v_effect.status = 'intended' AND v_effect.fire_until IS NULL AND v_effect.request_hash = p_request_hash THEN
        RETURN QUERY SELECT 'stopped', NULL::bigint, NULL::jsonb, NULL::double precision, s.reason FROM switches s ORDER BY s.name LIMIT 1;
        IF FOUND THEN
            RETURN;
        END IF;
        IF p_owner_kind = 'workflow' AND p_approval IS NULL OR p_approval IS NOT NULL AND NOT require_approved(p_approval, p_request_hash, p_owner) THEN
            RETURN QUERY SELECT 'refused', NULL::bigint, NULL::jsonb, NULL::double precision, NULL::text;
            RETURN;
        END IF;
        INSERT INTO side_effects AS e (key, kind, status, owner_kind, owner, origin_id, approval_id, request, request_hash, token, fires, fire_until, traceparent, intended_at)
        VALUES (p_key, p_kind, 'intended', p_owner_kind, p_owner, p_origin, p_approval, p_request, p_request_hash, v_token,
                (p_fire_seconds IS NOT NULL)::integer, clock() + make_interval(secs => p_fire_seconds), p_traceparent, clock())
        ON CONFLICT (key) DO UPDATE SET token = v_token, fire_until = excluded.fire_until, fires = e.fires + excluded.fires, error = NULL
        WHERE e.status = 'intended' AND e.fire_until IS NULL AND e.request_hash = excluded.request_hash
        RETURNING e.mark INTO v_mark;
        IF FOUND THEN
            RETURN QUERY SELECT CASE WHEN p_fire_seconds IS NULL THEN 'noted' ELSE 'fire' END, v_token, NULL::jsonb, NULL::double precision, v_mark;
            RETURN;
        END IF;
        SELECT * INTO v_effect FROM side_effects e WHERE e.key = p_key FOR UPDATE;
    END IF;

    IF v_effect.request_hash <> p_request_hash THEN
        RETURN QUERY SELECT 'conflict', NULL::bigint, NULL::jsonb, NULL::double precision, v_effect.request_hash;
    ELSIF v_effect.status = 'done' THEN
        RETURN QUERY SELECT 'done', NULL::bigint, v_effect.outcome, NULL::double precision, NULL::text;
    ELSIF v_effect.fire_until > clock() THEN
        RETURN QUERY SELECT 'wait', NULL::bigint, NULL::jsonb, extract(epoch FROM v_effect.fire_until - clock())::double precision, NULL::text;
    ELSIF p_fire_seconds IS NULL THEN
        RETURN QUERY SELECT 'noted', NULL::bigint, NULL::jsonb, NULL::double precision, v_effect.mark;
    ELSE
        -- A short window for the look itself, so that two who look do not both fire.
        UPDATE side_effects e SET status = 'unknown', token = v_token, fire_until = clock() + make_interval(secs => p_fire_seconds) WHERE e.key = p_key;
        RETURN QUERY SELECT 'look', v_token, NULL::jsonb, NULL::double precision, v_effect.mark;
    END IF;
END
$$;

CREATE FUNCTION backbeat.book(p_calls backbeat.model_calls[], p_status text, p_cost numeric, p_tokens bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    PERFORM FROM budgets b WHERE (b.scope, b.key, b.day) IN (
        SELECT s.scope, s.key, c.day FROM unnest(p_calls) c CROSS JOIN LATERAL (VALUES ('workflow', c.workflow), ('tenant', c.tenant)) AS s(scope, key))
    ORDER BY b.scope DESC, b.key, b.day FOR UPDATE;
    UPDATE budgets b
    SET reserved_usd = b.reserved_usd - d.open_usd, reserved_tokens = b.reserved_tokens - d.open_tokens,
        presumed_usd = b.presumed_usd - d.lost_usd + CASE p_status WHEN 'lost' THEN d.all_usd ELSE 0 END,
        presumed_tokens = b.presumed_tokens - d.lost_tokens + CASE p_status WHEN 'lost' THEN d.all_tokens ELSE 0 END,
        spent_usd = b.spent_usd + CASE p_status WHEN 'done' THEN coalesce(p_cost, 0) ELSE 0 END,
        spent_tokens = b.spent_tokens + CASE p_status WHEN 'done' THEN p_tokens ELSE 0 END,
        overrun_usd = b.overrun_usd + CASE p_status WHEN 'done' THEN greatest(p_cost - d.all_usd, 0) ELSE 0 END,
        calls = b.calls + CASE p_status WHEN 'done' THEN 1 ELSE 0 END,
        unpriced_calls = b.unpriced_calls + CASE WHEN p_status = 'done' AND p_cost IS NULL THEN 1 ELSE 0 END
    FROM (
        SELECT s.scope, s.key, c.day, sum(coalesce(c.reserved_usd, 0)) AS all_usd, sum(c.reserved_tokens) AS all_tokens,
               coalesce(sum(c.reserved_usd) FILTER (WHERE c.status = 'open'), 0) AS open_usd,
               coalesce(sum(c.reserved_tokens) FILTER (WHERE c.status = 'open'), 0) AS open_tokens,
               coalesce(sum(c.reserved_usd) FILTER (WHERE c.status = 'lost'), 0) AS lost_usd,
               coalesce(sum(c.reserved_tokens) FILTER (WHERE c.status = 'lost'), 0) AS lost_tokens
        FROM unnest(p_calls) c CROSS JOIN LATERAL (VALUES ('workflow', c.workflow), ('tenant', c.tenant)) AS s(scope, key)
        GROUP BY 1, 2, 3) d
    WHERE (b.scope, b.key, b.day) = (d.scope, d.key, d.day);
END
$$;

CREATE FUNCTION backbeat.cancel_task(p_task uuid, p_reason text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    PERFORM finish(ARRAY[p_task], 'cancelled', 'cancelled', p_reason);
    RETURN CASE WHEN FOUND THEN audit(session_user, 'task.cancelled', p_task::text, jsonb_build_object('reason', p_reason)) > 0 ELSE false END;
END
$$;

CREATE FUNCTION backbeat.cause_stands(p_reason text, p_key text, p_since timestamp with time zone) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_stands boolean;
BEGIN
    IF p_reason IN ('budget', 'price') THEN
        SELECT c.set_at <= p_since INTO v_stands FROM budget_caps c
        WHERE c.scope || '/' || c.key = regexp_replace(p_key, '^.* under ', '') FOR SHARE;
    ELSIF p_reason = 'effect' THEN
        SELECT e.status = 'unknown' INTO v_stands FROM side_effects e WHERE e.key = p_key FOR SHARE;
    END IF;
    RETURN coalesce(v_stands, true);
END
$$;

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
    idempotency_key bytea,
    traceparent text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT delayed_says_when CHECK (((status <> 'delayed'::text) OR (run_after IS NOT NULL))),
    CONSTRAINT held_says_why CHECK (((status = 'held'::text) = ((hold_reason IS NOT NULL) AND (hold_key IS NOT NULL)))),
    CONSTRAINT ready_has_a_place CHECK (((status = ANY (ARRAY['ready'::text, 'running'::text])) = ((vstart IS NOT NULL) AND (estimate IS NOT NULL)))),
    CONSTRAINT running_has_a_lease CHECK ((((status = 'running'::text) = ((lease_until IS NOT NULL) AND (worker IS NOT NULL) AND (started_at IS NOT NULL))) AND ((status <> 'running'::text) OR (lease IS NOT NULL)))),
    CONSTRAINT simple_tasks_attempts_check CHECK ((attempts >= 0)),
    CONSTRAINT simple_tasks_class_check CHECK ((class = ANY (ARRAY['high'::text, 'normal'::text, 'low'::text]))),
    CONSTRAINT simple_tasks_hold_reason_check CHECK ((hold_reason = ANY (ARRAY['budget'::text, 'version'::text, 'route'::text, 'effect'::text, 'price'::text]))),
    CONSTRAINT simple_tasks_rank_check CHECK ((rank = ANY (ARRAY[0, 1]))),
    CONSTRAINT simple_tasks_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'ready'::text, 'running'::text, 'delayed'::text, 'held'::text]))),
    CONSTRAINT simple_tasks_traceparent_check CHECK ((traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-01$'::text))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_cost_delay='0');

CREATE FUNCTION backbeat.claim(p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision, p_idle boolean DEFAULT true) RETURNS SETOF backbeat.simple_tasks
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
DECLARE
    v_tiers text[];
    v_candidates uuid[];
    v_seen uuid[] := '{}';
    v_taken uuid[] := '{}';
    v_alone boolean;
BEGIN
    IF p_limit <= 0 OR EXISTS (SELECT FROM switches s WHERE s.name = 'all') THEN
        RETURN;
    END IF;
    SELECT array_agg(DISTINCT f.tier) INTO v_tiers FROM flows f WHERE f.ready > 0;
    IF p_idle THEN
        SELECT coalesce(array_agg(l.id), '{}') INTO v_taken FROM (
            SELECT t.id FROM simple_tasks t
            WHERE t.status = 'ready' AND t.alone AND t.workflow || '@' || t.version = ANY (p_loaded)
            ORDER BY t.vstart, t.id LIMIT 1 FOR UPDATE SKIP LOCKED) l;
    END IF;
    v_alone := v_taken <> '{}';
    -- Racing claimers see the same candidates; the one that gets too few of them looks behind those.
    FOR v_try IN 1..4 LOOP
        EXIT WHEN v_alone OR cardinality(v_taken) >= p_limit;
        SELECT array_agg(c.id) INTO v_candidates FROM (
            SELECT walk.id FROM (
                SELECT r.id, r.tier, row_number() OVER (PARTITION BY r.tier ORDER BY r.vstart, r.id) AS place
                FROM unnest(v_tiers) AS wanted(tier) CROSS JOIN LATERAL (
                    SELECT t.id, t.tier, t.vstart FROM simple_tasks t
                    WHERE t.status = 'ready' AND t.tier = wanted.tier AND NOT t.alone AND t.id <> ALL (v_seen)
                        AND t.workflow || '@' || t.version = ANY (p_loaded)
                    ORDER BY t.vstart, t.id LIMIT p_limit) r) walk
            ORDER BY walk.place, walk.tier LIMIT p_limit - cardinality(v_taken)) c;
        EXIT WHEN v_candidates IS NULL;
        v_seen := v_seen || v_candidates;

        SELECT v_taken || array_agg(l.id) INTO v_taken FROM (
            SELECT t.id FROM simple_tasks t WHERE t.id = ANY (v_candidates) AND t.status = 'ready'
            ORDER BY t.id FOR UPDATE SKIP LOCKED) l;
    END LOOP;
    IF cardinality(v_taken) = 0 THEN
        RETURN;
    END IF;
    UPDATE simple_tasks t
    SET status = 'running', lease = nextval('leases'), lease_until = clock() + make_interval(secs => p_lease_seconds),
        worker = p_worker, started_at = clock(), attempts = t.attempts + 1
    WHERE t.id = ANY (v_taken);

    PERFORM FROM flows f WHERE (f.tenant, f.tier, f.class) IN (SELECT t.tenant, t.tier, t.class FROM simple_tasks t WHERE t.id = ANY (v_taken))
    ORDER BY f.tenant, f.tier, f.class FOR UPDATE;
    UPDATE flows f SET ready = f.ready - c.n, running = f.running + c.n
    FROM (SELECT t.tenant, t.tier, t.class, count(*) AS n FROM simple_tasks t WHERE t.id = ANY (v_taken) GROUP BY 1, 2, 3) c
    WHERE (f.tenant, f.tier, f.class) = (c.tenant, c.tier, c.class);
    PERFORM FROM virtual_time v WHERE v.tier = ANY (v_tiers) ORDER BY v.tier FOR UPDATE;
    UPDATE virtual_time v SET v = greatest(v.v, c.v)
    FROM (SELECT t.tier, max(t.vstart - t.estimate) AS v FROM simple_tasks t WHERE t.id = ANY (v_taken) GROUP BY 1) c
    WHERE v.tier = c.tier AND v.v < c.v;

    RETURN QUERY SELECT t.* FROM simple_tasks t WHERE t.id = ANY (v_taken) ORDER BY t.vstart, t.id;
END
$$;

CREATE FUNCTION backbeat.class_weight(p_class text) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    RETURN CASE p_class WHEN 'high'::text THEN 4 WHEN 'normal'::text THEN 2 ELSE 1 END;

CREATE FUNCTION backbeat.now() RETURNS timestamp with time zone
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    RETURN now();

CREATE FUNCTION backbeat.clock() RETURNS timestamp with time zone
    LANGUAGE sql PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    RETURN (backbeat.now() + (clock_timestamp() - now()));

CREATE FUNCTION backbeat.close_call(p_owner uuid, p_key text, p_seq smallint, p_status text, p_usage jsonb DEFAULT NULL::jsonb, p_cost numeric DEFAULT NULL::numeric, p_response jsonb DEFAULT NULL::jsonb, p_valid boolean DEFAULT NULL::boolean, p_stop text DEFAULT NULL::text, p_model_answered text DEFAULT NULL::text, p_response_id text DEFAULT NULL::text, p_error_class text DEFAULT NULL::text, p_error text DEFAULT NULL::text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_call model_calls;
BEGIN
    SELECT * INTO v_call FROM model_calls c WHERE (c.owner, c.call_key, c.seq) = (p_owner, p_key, p_seq) FOR UPDATE;
    IF NOT FOUND OR v_call.status NOT IN ('open', 'lost') OR v_call.status = p_status THEN
        RETURN false;
    END IF;
    PERFORM book(ARRAY[v_call], p_status, p_cost,
        coalesce((p_usage ->> 'uncached')::bigint + (p_usage ->> 'cache_read')::bigint + (p_usage ->> 'cache_write')::bigint + (p_usage ->> 'output')::bigint, 0));
    UPDATE model_calls c
    SET status = p_status, closed_at = clock(), cost_usd = p_cost, valid = p_valid, stop = p_stop, model_answered = p_model_answered,
        response = CASE WHEN EXISTS (SELECT FROM simple_tasks t WHERE t.id = p_owner) THEN p_response END,
        response_id = p_response_id, error_class = p_error_class, error = left(p_error, 2000),
        uncached = (p_usage ->> 'uncached')::integer, cache_read = (p_usage ->> 'cache_read')::integer,
        cache_write = (p_usage ->> 'cache_write')::integer, output = (p_usage ->> 'output')::integer,
        reasoning = (p_usage ->> 'reasoning')::integer
    WHERE (c.owner, c.call_key, c.seq) = (p_owner, p_key, p_seq);
    RETURN true;
END
$$;

CREATE FUNCTION backbeat.close_if_pending(p_request uuid) RETURNS TABLE(state text, seconds_left double precision, closed_by text, closed_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    v_request approval_requests;
    v_now timestamptz;
BEGIN
    SELECT * INTO v_request FROM approval_requests r WHERE r.id = p_request FOR UPDATE;
    v_now := clock();
    IF v_request.state = 'pending' AND v_now >= v_request.deadline THEN
        UPDATE approval_requests r SET state = 'expired', closed_at = v_now, closed_by = '(deadline)' WHERE r.id = p_request
        RETURNING * INTO v_request;
        PERFORM audit('(deadline)', 'approval.expired', p_request::text, jsonb_build_object('deadline', v_request.deadline));
    END IF;
    RETURN QUERY SELECT v_request.state, extract(epoch FROM v_request.deadline - v_now)::double precision,
        v_request.closed_by, v_request.closed_at WHERE v_request.id IS NOT NULL;
END
$$;

CREATE FUNCTION backbeat.policy_problem(p_policy jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    RETURN CASE WHEN (jsonb_typeof(p_policy) IS DISTINCT FROM 'object'::text) THEN 'the policy is not an object'::text WHEN ((p_policy - '{approvers,groups,needed,allow_unsigned_signal}'::text[]) <> '{}'::jsonb) THEN ('unknown policy key '::text || (SELECT string_agg(k.k, ', '::text ORDER BY k.k) AS string_agg FROM jsonb_object_keys((policy_problem.p_policy - '{approvers,groups,needed,allow_unsigned_signal}'::text[])) k(k))) WHEN ((jsonb_typeof(COALESCE((p_policy -> 'approvers'::text), '[]'::jsonb)) <> 'array'::text) OR jsonb_path_exists(p_policy, '$."approvers"[*]?(@.type() != "string" || @ == "")'::jsonpath)) THEN 'approvers is not a list of user names'::text WHEN ((jsonb_typeof(COALESCE((p_policy -> 'groups'::text), '[]'::jsonb)) <> 'array'::text) OR jsonb_path_exists(p_policy, '$."groups"[*]?(@.type() != "string" || @ == "")'::jsonpath)) THEN 'groups is not a list of group names'::text WHEN (jsonb_typeof(COALESCE((p_policy -> 'allow_unsigned_signal'::text), 'false'::jsonb)) <> 'boolean'::text) THEN 'allow_unsigned_signal is not true or false'::text WHEN (COALESCE((p_policy ->> 'needed'::text), '1'::text) !~ '^[1-9][0-9]?$'::text) THEN 'needed is not a number from 1 to 99'::text WHEN ((p_policy @> '{"allow_unsigned_signal": true}'::jsonb) AND (COALESCE((p_policy ->> 'needed'::text), '1'::text) <> '1'::text)) THEN 'allow_unsigned_signal cannot go with a quorum'::text WHEN ((p_policy @> '{"allow_unsigned_signal": true}'::jsonb) OR (jsonb_array_length(COALESCE((p_policy -> 'groups'::text), '[]'::jsonb)) > 0)) THEN NULL::text WHEN ((COALESCE((p_policy ->> 'needed'::text), '1'::text))::integer > (SELECT count(DISTINCT a.value) AS count FROM jsonb_array_elements_text(COALESCE((policy_problem.p_policy -> 'approvers'::text), '[]'::jsonb)) a(value))) THEN 'nobody can satisfy the policy: it needs more approvers than it names'::text ELSE NULL::text END;

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
    CONSTRAINT approval_requests_hash_check CHECK ((hash ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT approval_requests_payload_check CHECK ((((payload - '{effect,request}'::text[]) = '{}'::jsonb) AND (jsonb_typeof((payload -> 'effect'::text)) = 'string'::text) AND (payload ? 'request'::text))),
    CONSTRAINT approval_requests_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'approved'::text, 'rejected'::text, 'expired'::text, 'cancelled'::text]))),
    CONSTRAINT approval_requests_step_check CHECK ((step <> ''::text)),
    CONSTRAINT approval_requests_title_check CHECK (((length(title) >= 1) AND (length(title) <= 300))),
    CONSTRAINT closed_says_when_and_by_whom CHECK ((((state = 'pending'::text) = (closed_at IS NULL)) AND ((state = 'pending'::text) = (closed_by IS NULL)))),
    CONSTRAINT deadline_lies_ahead CHECK ((deadline > requested_at)),
    CONSTRAINT decided_in_time CHECK (((state <> ALL (ARRAY['approved'::text, 'rejected'::text])) OR (closed_at < deadline))),
    CONSTRAINT policy_is_sound CHECK ((backbeat.policy_problem(policy) IS NULL))
);

CREATE FUNCTION backbeat.create_approval(p_workflow uuid, p_step text, p_hash text) RETURNS SETOF backbeat.approval_requests
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_workflow orchestrated_workflows;
    v_request approval_requests;
    v_now timestamptz;
BEGIN
    SELECT * INTO v_workflow FROM orchestrated_workflows WHERE id = p_workflow AND finished_at IS NULL FOR NO KEY UPDATE;
    IF FOUND AND NOT EXISTS (SELECT FROM approval_requests r WHERE (r.workflow_id, r.step) = (p_workflow, p_step)) THEN
        v_now := clock();
        INSERT INTO approval_requests (id, workflow_id, step, tenant, title, payload, hash, policy, requested_at, deadline)
        SELECT uuid7(), p_workflow, p_step, v_workflow.tenant, i.title, jsonb_build_object('effect', i.effect, 'request', i.request),
               p_hash, i.policy, v_now, v_now + make_interval(secs => i.deadline_seconds)
        FROM jsonb_to_record(v_workflow.input) AS i(title text, effect jsonb, request jsonb, policy jsonb, deadline_seconds double precision)
        RETURNING * INTO v_request;
        UPDATE orchestrated_workflows SET deadline = v_request.deadline, updated_at = v_now WHERE id = p_workflow;
        PERFORM audit('(workflow)', 'approval.requested', v_request.id::text, jsonb_build_object(
            'workflow', p_workflow, 'step', p_step, 'title', v_request.title, 'hash', p_hash, 'policy', v_request.policy));
    END IF;
    RETURN QUERY SELECT * FROM approval_requests r WHERE (r.workflow_id, r.step) = (p_workflow, p_step);
END
$$;

CREATE FUNCTION backbeat.create_token(p_key bytea, p_user text, p_groups text[], p_seconds double precision) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_id text := left(encode(sha256(p_key), 'hex'), 16);
BEGIN
    INSERT INTO api_tokens (id, key, user_name, groups, created_at, created_by, expires_at)
    VALUES (v_id, p_key, p_user, p_groups, backbeat.now(), session_user, backbeat.now() + make_interval(secs => p_seconds));
    PERFORM audit(session_user, 'token.created', v_id, jsonb_build_object('user', p_user, 'groups', p_groups));
    RETURN v_id;
END
$$;

CREATE FUNCTION backbeat.decide(p_proof text, p_request uuid, p_decision text, p_hash text, p_comment text, p_decision_id uuid, p_via text) RETURNS TABLE(verdict text, user_name text, state text, closed_by text, closed_at timestamp with time zone, deadline timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $_$
#variable_conflict use_column
DECLARE
    c_refusals_a_minute CONSTANT integer := 30;
    v_comment text := coalesce(p_comment, '');
    v_workflow uuid;
    v_request approval_requests;
    v_prior approval_decisions;
    v_token api_tokens;
    v_unsigned boolean;
    v_user text;
    v_now timestamptz;
    v_verdict text;
    v_state text;
BEGIN
    SELECT r.workflow_id INTO v_workflow FROM approval_requests r WHERE r.id = p_request;
    PERFORM FROM orchestrated_workflows w WHERE w.id = v_workflow FOR NO KEY UPDATE;
    SELECT * INTO v_request FROM approval_requests r WHERE r.id = p_request FOR UPDATE;
    v_now := clock();
    v_token := signer(p_proof, concat_ws(':', p_request, p_decision, p_hash, v_comment), v_now);
    v_unsigned := p_proof IS NULL AND p_via = 'signal' AND coalesce(v_request.policy @> '{"allow_unsigned_signal": true}', false);
    v_user := CASE WHEN v_unsigned THEN '(unsigned signal)' ELSE coalesce(v_token.user_name, '(unauthenticated)') END;
    SELECT * INTO v_prior FROM approval_decisions d WHERE d.id = p_decision_id;

    v_verdict := CASE
        WHEN p_request IS NULL OR p_decision_id IS NULL OR coalesce(p_decision NOT IN ('approve', 'reject'), true)
            OR coalesce(p_hash !~ '^[0-9a-f]{64}$', true) OR length(v_comment) > 4000 OR p_via NOT IN ('cli', 'web', 'signal') THEN 'malformed'
        WHEN v_token.id IS NULL AND NOT v_unsigned THEN 'unauthenticated'
        WHEN v_request.id IS NULL THEN 'not_found'
        WHEN v_prior.id IS NOT NULL THEN CASE
            WHEN (v_prior.request_id, v_prior.user_name, v_prior.decision) = (p_request, v_user, p_decision) THEN 'repeated' ELSE 'malformed' END
        WHEN NOT v_unsigned AND NOT coalesce(v_request.policy -> 'approvers' ? v_user, false)
            AND NOT coalesce(v_request.policy -> 'groups' ?| v_token.groups, false) THEN 'not_eligible'
        WHEN v_request.state <> 'pending' THEN 'closed'
        WHEN v_now >= v_request.deadline THEN 'expired'
        WHEN v_request.hash <> p_hash THEN 'stale'
        WHEN EXISTS (SELECT FROM approval_decisions d WHERE (d.request_id, d.user_name) = (p_request, v_user)) THEN 'voted'
        ELSE 'accepted' END;

    v_state := v_request.state;
    IF v_verdict = 'accepted' THEN
        v_state := CASE
            WHEN p_decision = 'reject' THEN 'rejected'
            WHEN (SELECT count(*) FROM approval_decisions d WHERE d.request_id = p_request) + 1
                >= coalesce(v_request.policy ->> 'needed', '1')::integer THEN 'approved'
            ELSE 'pending' END;
        INSERT INTO approval_decisions VALUES (
            p_decision_id, p_request, v_user, v_token.id, p_decision, p_hash, v_comment, p_via, v_state, v_now);
        IF v_state <> 'pending' THEN
            PERFORM push_outbox(v_workflow, 'poke');
            UPDATE approval_requests r SET state = v_state, closed_at = v_now, closed_by = v_user WHERE r.id = p_request
            RETURNING * INTO v_request;
        END IF;
        PERFORM audit(v_user, 'approval.' || p_decision, p_request::text, jsonb_build_object(
            'decision_id', p_decision_id, 'hash', p_hash, 'comment', v_comment, 'via', p_via, 'token', v_token.id, 'state', v_state));
    ELSIF (SELECT count(*) FROM audit_log a
           WHERE a.action = 'approval.refused' AND a.actor = v_user AND a.at > v_now - interval '1 minute') < c_refusals_a_minute THEN
        PERFORM audit(v_user, 'approval.refused', coalesce(p_request::text, '(none)'), jsonb_build_object(
            'verdict', v_verdict, 'decision', left(p_decision, 100), 'hash', left(p_hash, 100), 'via', p_via, 'token', v_token.id));
    END IF;
    RETURN QUERY SELECT v_verdict, v_user, CASE v_verdict WHEN 'repeated' THEN v_prior.state_after ELSE v_state END,
        v_request.closed_by, v_request.closed_at, v_request.deadline;
END
$_$;

CREATE FUNCTION backbeat.end_tasks(p_ends jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    WITH ends AS (
        SELECT * FROM jsonb_to_recordset(p_ends) AS e(id uuid, status text, result jsonb, error_class text, error text, workflow_id uuid, entry jsonb)
    ), gone AS (
        DELETE FROM simple_tasks t WHERE t.id IN (SELECT e.id FROM ends e) RETURNING t.*
    ), written AS (
        INSERT INTO finished_tasks (
            id, tenant, workflow, version, tier, class, status, payload, result, error_class, error, attempts, history,
            calls, input_tokens, output_tokens, cost_usd, agent_id, parent_id, origin_id, workflow_id, idempotency_key,
            traceparent, source_at, created_at, finished_at)
        SELECT g.id, g.tenant, g.workflow, g.version, g.tier, g.class, e.status, g.payload, e.result, e.error_class, e.error, g.attempts,
               g.history || coalesce(e.entry, '[]'), b.calls, b.input_tokens, b.output_tokens, b.cost_usd, g.agent_id, g.parent_id, g.origin_id,
               e.workflow_id, g.idempotency_key, g.traceparent, g.source_at, g.created_at, clock()
        FROM gone g JOIN ends e ON e.id = g.id CROSS JOIN LATERAL owner_bill(g.id) b
        RETURNING *
    )
    INSERT INTO dead_letters (id, tenant, workflow, version, error_class, error, attempts, payload, died_at)
    SELECT w.id, w.tenant, w.workflow, w.version, w.error_class, coalesce(w.error, ''), w.attempts, w.payload, w.finished_at
    FROM written w WHERE w.status = 'dead';

    UPDATE model_calls c SET response = NULL
    WHERE c.owner IN (SELECT e.id FROM jsonb_to_recordset(p_ends) AS e(id uuid)) AND c.response IS NOT NULL;
END
$$;

CREATE FUNCTION backbeat.end_tick(p_id uuid, p_claimed integer, p_settled integer) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$ UPDATE ticks SET ended_at = clock(), claimed = p_claimed, settled = p_settled WHERE id = p_id $$;

CREATE FUNCTION backbeat.enqueue(p_workflow text, p_version integer, p_payloads jsonb[], p_keys bytea[] DEFAULT NULL::bytea[], p_tenant text DEFAULT 'default'::text, p_class text DEFAULT 'normal'::text, p_run_after timestamp with time zone DEFAULT NULL::timestamp with time zone, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_source_at timestamp with time zone[] DEFAULT NULL::timestamp with time zone[], p_traceparent text DEFAULT NULL::text, p_origin uuid DEFAULT NULL::uuid, p_parent uuid DEFAULT NULL::uuid) RETURNS TABLE(ord bigint, task_id uuid, created boolean, status text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    c_payload_cap CONSTANT integer := 1048576;
    v_workflow workflows;
    v_ids uuid[];
    v_new uuid[];
    v_at timestamptz := clock();
BEGIN
    SELECT * INTO v_workflow FROM workflows w WHERE w.name = p_workflow AND w.version = p_version AND w.runtime = 'cron';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no task % version % is registered', p_workflow, p_version USING ERRCODE = 'BB001';
    END IF;
    IF NOT EXISTS (SELECT FROM tenants t WHERE t.id = p_tenant) THEN
        RAISE EXCEPTION 'tenant % does not exist', p_tenant USING ERRCODE = 'BB001';
    END IF;
    IF EXISTS (SELECT FROM unnest(p_payloads) AS p(body) WHERE octet_length(p.body::text) > c_payload_cap) THEN
        RAISE EXCEPTION 'a payload of % is larger than % bytes', p_workflow, c_payload_cap USING ERRCODE = 'BB002';
    END IF;

    SELECT array_agg(uuid7(v_at) ORDER BY n) INTO v_ids FROM generate_series(1, cardinality(p_payloads)) AS n;
    -- Ids of one batch must sort as they were given.
    SELECT array_agg(u.id ORDER BY u.id) INTO v_ids FROM unnest(v_ids) AS u(id);

    IF p_keys IS NOT NULL THEN
        INSERT INTO idempotency AS i (tenant, key, task_id)
        SELECT DISTINCT ON (k.key) p_tenant, k.key, v_ids[k.n] FROM unnest(p_keys) WITH ORDINALITY AS k(key, n)
        WHERE k.key IS NOT NULL ORDER BY k.key, k.n
        ON CONFLICT (tenant, key) DO UPDATE SET task_id = excluded.task_id
        WHERE EXISTS (SELECT FROM finished_tasks f WHERE f.id = i.task_id AND f.status IN ('dead', 'cancelled', 'expired'));
        SELECT array_agg(coalesce(i.task_id, u.id) ORDER BY u.n) INTO v_ids
        FROM unnest(v_ids) WITH ORDINALITY AS u(id, n)
        LEFT JOIN idempotency i ON i.tenant = p_tenant AND i.key = p_keys[u.n];
    END IF;

    WITH fresh AS (
        SELECT DISTINCT ON (u.id) u.id, u.n FROM unnest(v_ids) WITH ORDINALITY AS u(id, n)
        WHERE NOT EXISTS (SELECT FROM simple_tasks t WHERE t.id = u.id) AND NOT EXISTS (SELECT FROM finished_tasks f WHERE f.id = u.id)
        ORDER BY u.id, u.n
    ), added AS (
        INSERT INTO simple_tasks (id, tenant, workflow, version, tier, class, payload, status, run_after, expires_at, source_at,
                                  max_attempts, parent_id, origin_id, idempotency_key, traceparent, created_at)
        SELECT f.id, p_tenant, p_workflow, p_version, v_workflow.tier, p_class, p_payloads[f.n],
               CASE WHEN p_run_after > backbeat.now() THEN 'delayed' ELSE 'pending' END, CASE WHEN p_run_after > backbeat.now() THEN p_run_after END,
               p_expires_at, p_source_at[f.n], v_workflow.max_attempts, p_parent, coalesce(p_origin, f.id), p_keys[f.n],
               '00-' || coalesce(substring(p_traceparent FROM '^00-([0-9a-f]{32})-[0-9a-f]{16}-'), trace_id('task', f.id::text)) || '-' || span_id('enqueue', f.id::text) || '-01', v_at
        FROM fresh f ORDER BY f.id
        RETURNING id
    )
    SELECT array_agg(a.id) INTO v_new FROM added a;

    INSERT INTO flows (tenant, tier, class) VALUES (p_tenant, v_workflow.tier, p_class) ON CONFLICT DO NOTHING;
    INSERT INTO virtual_time (tier) VALUES (v_workflow.tier) ON CONFLICT DO NOTHING;
    PERFORM promote(p_tenant, v_workflow.tier, p_class);

    RETURN QUERY
    SELECT u.n, u.id, coalesce(u.id = ANY (v_new), false) AND u.n = min(u.n) OVER (PARTITION BY u.id), coalesce(t.status, f.status)
    FROM unnest(v_ids) WITH ORDINALITY AS u(id, n)
    LEFT JOIN simple_tasks t ON t.id = u.id LEFT JOIN finished_tasks f ON f.id = u.id
    ORDER BY u.n;
END
$$;

CREATE FUNCTION backbeat.finish(p_ids uuid[], p_status text, p_error_class text, p_error text) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_ids uuid[];
    v_ends jsonb;
BEGIN
    SELECT array_agg(l.id) INTO v_ids FROM (SELECT t.id FROM simple_tasks t WHERE t.id = ANY (p_ids) ORDER BY t.id FOR UPDATE) l;
    IF v_ids IS NULL THEN
        RETURN;
    END IF;
    PERFORM leave_flows(v_ids);
    PERFORM lose_calls(v_ids);
    SELECT jsonb_agg(jsonb_build_object('id', t.id, 'status', p_status, 'error_class', p_error_class, 'error', p_error,
        'entry', CASE WHEN t.status = 'running' THEN history_entry(t, p_status, p_error_class, p_error) END)) INTO v_ends
    FROM simple_tasks t WHERE t.id = ANY (v_ids);
    PERFORM end_tasks(v_ends);
    RETURN QUERY SELECT unnest(v_ids);
END
$$;

CREATE FUNCTION backbeat.finish_effect(p_key text, p_outcome jsonb, p_read_back boolean DEFAULT false) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    UPDATE side_effects SET status = 'done', outcome = coalesce(p_outcome, '{}'), done_at = clock(), error = NULL,
        resolved_by = CASE WHEN p_read_back THEN 'read-back' END WHERE key = p_key AND status <> 'done';
    IF FOUND THEN
        PERFORM release_held('effect', p_key);
        RETURN true;
    END IF;
    RETURN false;
END
$$;

CREATE TABLE backbeat.flows (
    tenant text NOT NULL,
    tier text NOT NULL,
    class text NOT NULL,
    last_v double precision DEFAULT 0 NOT NULL,
    ready integer DEFAULT 0 NOT NULL,
    running integer DEFAULT 0 NOT NULL,
    CONSTRAINT flows_class_check CHECK ((class = ANY (ARRAY['high'::text, 'normal'::text, 'low'::text]))),
    CONSTRAINT flows_ready_check CHECK ((ready >= 0)),
    CONSTRAINT flows_running_check CHECK ((running >= 0))
)
WITH (fillfactor='50');

CREATE TABLE backbeat.tenants (
    id text NOT NULL,
    weight double precision DEFAULT 1 NOT NULL,
    max_running integer,
    CONSTRAINT tenants_id_check CHECK ((id <> ''::text)),
    CONSTRAINT tenants_max_running_check CHECK ((max_running > 0)),
    CONSTRAINT tenants_weight_check CHECK ((weight > (0)::double precision))
);

CREATE FUNCTION backbeat.flow_room(p_flow backbeat.flows) RETURNS integer
    LANGUAGE sql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    RETURN (SELECT LEAST(((64 - (flow_room.p_flow).ready))::bigint, (n.max_running - (SELECT sum((f.ready + f.running)) AS sum FROM backbeat.flows f WHERE (f.tenant = n.id)))) AS "least" FROM backbeat.tenants n WHERE (n.id = (flow_room.p_flow).tenant));

CREATE FUNCTION backbeat.heartbeat(p_worker text, p_ids uuid[], p_leases bigint[], p_lease_seconds double precision) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    UPDATE workers SET seen_at = backbeat.now() WHERE id = p_worker;
    RETURN QUERY
    WITH mine AS (
        SELECT t.id FROM simple_tasks t JOIN unnest(p_ids, p_leases) AS m(id, lease) ON t.id = m.id AND t.lease = m.lease
        WHERE t.status = 'running' ORDER BY t.id FOR NO KEY UPDATE OF t
    ), kept AS (
        UPDATE simple_tasks t SET lease_until = clock() + make_interval(secs => p_lease_seconds)
        FROM mine WHERE t.id = mine.id RETURNING t.id
    )
    SELECT m.id FROM unnest(p_ids) AS m(id) WHERE m.id NOT IN (SELECT k.id FROM kept k);
END
$$;

CREATE FUNCTION backbeat.history_entry(p_task backbeat.simple_tasks, p_outcome text, p_error_class text, p_error text) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    RETURN jsonb_strip_nulls(jsonb_build_object('lease', (p_task).lease, 'worker', (p_task).worker, 'started_at', (p_task).started_at, 'ended_at', backbeat.clock(), 'outcome', p_outcome, 'error_class', p_error_class, 'error', "left"(p_error, 2000)));

CREATE FUNCTION backbeat.lease_outbox(p_kinds text[], p_limit integer, p_seconds double precision) RETURNS TABLE(stream uuid, seq integer, kind text, lease bigint, attempts integer, workflow text, version integer, temporal_id text, status text, state_seq integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock();
BEGIN
    RETURN QUERY
    WITH picked AS (
        SELECT o.stream, o.seq FROM temporal_outbox o
        WHERE o.kind = ANY (p_kinds) AND o.delivered_at IS NULL AND o.dead_at IS NULL AND o.lease_until <= v_now
          AND NOT EXISTS (SELECT FROM temporal_outbox e
                          WHERE e.stream = o.stream AND e.seq < o.seq AND e.delivered_at IS NULL AND e.dead_at IS NULL)
        ORDER BY o.lease_until LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), leased AS (
        UPDATE temporal_outbox o
        SET lease = nextval('leases'), lease_until = v_now + make_interval(secs => p_seconds), attempts = o.attempts + 1
        FROM picked p WHERE (o.stream, o.seq) = (p.stream, p.seq) RETURNING o.*
    )
    SELECT l.stream, l.seq, l.kind, l.lease, l.attempts, w.workflow, w.version, w.temporal_id, w.status, w.state_seq
    FROM leased l JOIN orchestrated_workflows w ON w.id = l.stream;
END
$$;

CREATE FUNCTION backbeat.leave_flows(p_ids uuid[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    PERFORM FROM flows f
    WHERE (f.tenant, f.tier, f.class) IN (SELECT t.tenant, t.tier, t.class FROM simple_tasks t WHERE t.id = ANY (p_ids))
    ORDER BY f.tenant, f.tier, f.class FOR UPDATE;

    UPDATE flows f
    SET ready = f.ready - l.ready, running = f.running - l.running,
        last_v = f.last_v + l.excess / (coalesce(n.weight, 1) * class_weight(f.class))
    FROM (
        SELECT t.tenant, t.tier, t.class, count(*) FILTER (WHERE t.status = 'ready') AS ready, count(*) FILTER (WHERE t.status = 'running') AS running,
               coalesce(sum(attempt_cost(t.id, t.lease) - t.estimate) FILTER (WHERE t.status = 'running'), 0) AS excess
        FROM simple_tasks t WHERE t.id = ANY (p_ids) AND t.status IN ('ready', 'running') GROUP BY 1, 2, 3) l
    LEFT JOIN tenants n ON n.id = l.tenant
    WHERE (f.tenant, f.tier, f.class) = (l.tenant, l.tier, l.class);

    INSERT INTO estimates AS e (workflow, version, cost)
    SELECT t.workflow, t.version, avg(attempt_cost(t.id, t.lease)) FROM simple_tasks t
    WHERE t.id = ANY (p_ids) AND t.status = 'running' GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (workflow, version) DO UPDATE SET cost = 0.9 * e.cost + 0.1 * excluded.cost;
END
$$;

CREATE TABLE backbeat.budgets (
    scope text NOT NULL,
    key text NOT NULL,
    day date NOT NULL,
    cap_usd numeric,
    cap_tokens bigint,
    reserved_usd numeric DEFAULT 0 NOT NULL,
    spent_usd numeric DEFAULT 0 NOT NULL,
    presumed_usd numeric DEFAULT 0 NOT NULL,
    overrun_usd numeric DEFAULT 0 NOT NULL,
    reserved_tokens bigint DEFAULT 0 NOT NULL,
    spent_tokens bigint DEFAULT 0 NOT NULL,
    presumed_tokens bigint DEFAULT 0 NOT NULL,
    calls bigint DEFAULT 0 NOT NULL,
    unpriced_calls bigint DEFAULT 0 NOT NULL,
    raised_by text,
    CONSTRAINT budgets_overrun_usd_check CHECK ((overrun_usd >= (0)::numeric)),
    CONSTRAINT budgets_presumed_tokens_check CHECK ((presumed_tokens >= 0)),
    CONSTRAINT budgets_presumed_usd_check CHECK ((presumed_usd >= (0)::numeric)),
    CONSTRAINT budgets_reserved_tokens_check CHECK ((reserved_tokens >= 0)),
    CONSTRAINT budgets_reserved_usd_check CHECK ((reserved_usd >= (0)::numeric)),
    CONSTRAINT budgets_scope_check CHECK ((scope = ANY (ARRAY['workflow'::text, 'tenant'::text]))),
    CONSTRAINT budgets_spent_tokens_check CHECK ((spent_tokens >= 0)),
    CONSTRAINT budgets_spent_usd_check CHECK ((spent_usd >= (0)::numeric))
)
WITH (fillfactor='50');

CREATE FUNCTION backbeat.lock_budgets(p_workflow text, p_tenant text, p_day date) RETURNS SETOF backbeat.budgets
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO budgets (scope, key, day, cap_usd, cap_tokens)
    SELECT s.scope, s.key, p_day, c.usd, c.tokens
    FROM (VALUES ('workflow', p_workflow), ('tenant', p_tenant)) AS s(scope, key)
    LEFT JOIN budget_caps c ON (c.scope, c.key) = (s.scope, s.key)
    WHERE NOT EXISTS (SELECT FROM budgets b WHERE (b.scope, b.key, b.day) = (s.scope, s.key, p_day))
    ORDER BY s.scope DESC
    ON CONFLICT DO NOTHING;
    RETURN QUERY
    SELECT b.* FROM budgets b
    WHERE b.day = p_day AND ((b.scope = 'workflow' AND b.key = p_workflow) OR (b.scope = 'tenant' AND b.key = p_tenant))
    ORDER BY b.scope DESC FOR UPDATE;
END
$$;

CREATE FUNCTION backbeat.lose_calls(p_owners uuid[], p_key text DEFAULT NULL::text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_calls model_calls[];
BEGIN
    SELECT array_agg(l.c) INTO v_calls FROM (
        SELECT c FROM model_calls c WHERE c.owner = ANY (p_owners) AND c.status = 'open' AND (p_key IS NULL OR c.call_key = p_key)
        ORDER BY c.owner, c.call_key FOR UPDATE) l;
    IF v_calls IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM book(v_calls, 'lost', NULL, 0);
    UPDATE model_calls c SET status = 'lost', closed_at = clock(), error_class = 'worker_lost'
    WHERE c.owner = ANY (p_owners) AND c.status = 'open' AND (p_key IS NULL OR c.call_key = p_key);
    RETURN cardinality(v_calls);
END
$$;

CREATE FUNCTION backbeat.maintain_partitions(p_days_ahead integer DEFAULT 14) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    SET lock_timeout TO '2s'
    AS $$
DECLARE
    v_made integer := 0;
    v_today date := utc_day(backbeat.now());
    v_oldest date;
    v_day date;
    v_name text;
BEGIN
    SELECT utc_day(to_timestamp((('x' || translate(left(t.id::text, 13), '-', ''))::bit(48)::bigint) / 1000.0)) INTO v_oldest
    FROM simple_tasks t ORDER BY t.id LIMIT 1;
    FOR v_day IN SELECT d::date FROM generate_series(
        least(v_today - 1, greatest(v_oldest, v_today - 400)), v_today + least(greatest(p_days_ahead, 1), 31), interval '1 day') AS d LOOP
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
END
$$;

CREATE FUNCTION backbeat.note_effect(p_key text, p_error text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$ UPDATE side_effects SET error = left(p_error, 2000) WHERE key = p_key AND status <> 'done' $$;

CREATE FUNCTION backbeat.open_call(p_owner uuid, p_lease bigint, p_key text, p_request_hash text, p_route text, p_tier text, p_provider text, p_model text, p_reserve_usd numeric, p_reserve_tokens bigint, p_price_version text) RETURNS TABLE(verdict text, seq smallint, response jsonb, detail text, until timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    v_task simple_tasks;
    v_budget budgets;
    v_day date := utc_day(backbeat.now());
    v_tight text;
BEGIN
    -- KEY SHARE blocks a reaper and a settlement, not a heartbeat: no call opens under a lease that is being taken away.
    SELECT * INTO v_task FROM simple_tasks t WHERE t.id = p_owner AND t.lease = p_lease AND t.status = 'running' FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'fenced', NULL::smallint, NULL::jsonb, NULL::text, NULL::timestamptz;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 'memo', c.seq, c.response, NULL::text, NULL::timestamptz FROM model_calls c
    WHERE c.owner = p_owner AND c.call_key = p_key AND c.status = 'done' AND c.request_hash = p_request_hash AND c.response IS NOT NULL
    ORDER BY c.seq DESC LIMIT 1;
    IF FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT 'stopped', NULL::smallint, NULL::jsonb, s.reason, NULL::timestamptz FROM switches s WHERE s.name = 'all';
    IF FOUND THEN
        RETURN;
    END IF;
    -- Asked a second time, when the first answer was lost on its way: what that one reserved may have been used.
    PERFORM lose_calls(ARRAY[p_owner], p_key);

    FOR v_budget IN SELECT * FROM lock_budgets(v_task.workflow, v_task.tenant, v_day) LOOP
        IF v_budget.cap_usd IS NOT NULL AND p_reserve_usd IS NULL THEN
            RETURN QUERY SELECT 'unpriced', NULL::smallint, NULL::jsonb, v_budget.scope || '/' || v_budget.key, NULL::timestamptz;
            RETURN;
        ELSIF v_budget.spent_usd + v_budget.presumed_usd + p_reserve_usd > v_budget.cap_usd
            OR v_budget.spent_tokens + v_budget.presumed_tokens + p_reserve_tokens > v_budget.cap_tokens THEN
            RETURN QUERY SELECT 'held', NULL::smallint, NULL::jsonb, v_budget.scope || '/' || v_budget.key,
                (v_day + 1)::timestamp AT TIME ZONE 'UTC' + random() * interval '5 minutes';
            RETURN;
        ELSIF v_budget.spent_usd + v_budget.presumed_usd + v_budget.reserved_usd + p_reserve_usd > v_budget.cap_usd
            OR v_budget.spent_tokens + v_budget.presumed_tokens + v_budget.reserved_tokens + p_reserve_tokens > v_budget.cap_tokens THEN
            v_tight := v_budget.scope || '/' || v_budget.key;
        END IF;
    END LOOP;
    IF v_tight IS NOT NULL THEN
        RETURN QUERY SELECT 'snooze', NULL::smallint, NULL::jsonb, v_tight, NULL::timestamptz;
        RETURN;
    END IF;

    UPDATE budgets b SET reserved_usd = b.reserved_usd + coalesce(p_reserve_usd, 0), reserved_tokens = b.reserved_tokens + p_reserve_tokens
    WHERE b.day = v_day AND ((b.scope = 'workflow' AND b.key = v_task.workflow) OR (b.scope = 'tenant' AND b.key = v_task.tenant));
    RETURN QUERY
    INSERT INTO model_calls (owner, call_key, seq, owner_kind, status, request_hash, lease, tenant, workflow, version, day, route, tier,
                             provider, model, reserved_usd, reserved_tokens, price_version, opened_at)
    SELECT p_owner, p_key, coalesce(max(c.seq), 0) + 1, 'task', 'open', p_request_hash, p_lease, v_task.tenant, v_task.workflow, v_task.version,
           v_day, p_route, p_tier, p_provider, p_model, p_reserve_usd, p_reserve_tokens, p_price_version, clock()
    FROM model_calls c WHERE c.owner = p_owner AND c.call_key = p_key
    RETURNING 'open', seq, NULL::jsonb, NULL::text, NULL::timestamptz;
END
$$;

CREATE FUNCTION backbeat.owner_bill(p_owner uuid, OUT calls integer, OUT input_tokens bigint, OUT output_tokens bigint, OUT cost_usd numeric) RETURNS record
    LANGUAGE sql STABLE
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT count(*)::integer, coalesce(sum(c.uncached + c.cache_read + c.cache_write), 0), coalesce(sum(c.output), 0),
           CASE WHEN bool_or(c.cost_usd IS NULL) THEN NULL ELSE coalesce(sum(c.cost_usd), 0) END
    FROM model_calls c WHERE c.owner = p_owner AND c.status = 'done'
$$;

CREATE FUNCTION backbeat.project_state(p_workflow uuid, p_seq integer, p_status text, p_run_id text, p_waiting_for text DEFAULT NULL::text, p_result jsonb DEFAULT NULL::jsonb, p_error text DEFAULT NULL::text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_now timestamptz;
    v_ended boolean := p_status IN ('completed', 'failed', 'cancelled');
    v_request uuid;
BEGIN
    PERFORM FROM orchestrated_workflows WHERE id = p_workflow FOR NO KEY UPDATE;
    v_now := clock();
    UPDATE orchestrated_workflows
    SET status = p_status, state_seq = p_seq, run_id = p_run_id, waiting_for = p_waiting_for, result = p_result, error = p_error,
        updated_at = v_now, checked_at = v_now, finished_at = CASE WHEN v_ended THEN v_now END
    WHERE id = p_workflow AND state_seq < p_seq AND finished_at IS NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF v_ended THEN
        FOR v_request IN
            UPDATE approval_requests SET state = 'cancelled', closed_at = v_now, closed_by = '(workflow)'
            WHERE workflow_id = p_workflow AND state = 'pending' RETURNING id
        LOOP
            PERFORM audit('(workflow)', 'approval.cancelled', v_request::text, jsonb_build_object('workflow', p_status));
        END LOOP;
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION backbeat.promote(p_tenant text, p_tier text, p_class text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
DECLARE
    v_ids uuid[];
    v_room integer;
    v_flow flows;
    v_weight double precision;
    v_base double precision;
    v_end double precision;
BEGIN
    SELECT flow_room(f) INTO v_room FROM flows f WHERE (f.tenant, f.tier, f.class) = (p_tenant, p_tier, p_class);
    IF v_room IS NULL OR v_room <= 0 THEN
        RETURN 0;
    END IF;

    SELECT array_agg(s.id) INTO v_ids FROM (
        SELECT t.id FROM simple_tasks t
        WHERE t.status = 'pending' AND (t.tenant, t.tier, t.class) = (p_tenant, p_tier, p_class)
        ORDER BY t.rank, t.id LIMIT v_room FOR UPDATE SKIP LOCKED) s;
    IF v_ids IS NULL THEN
        RETURN 0;
    END IF;

    SELECT * INTO v_flow FROM flows WHERE (tenant, tier, class) = (p_tenant, p_tier, p_class) FOR UPDATE;
    v_ids := v_ids[1:greatest(flow_room(v_flow), 0)];
    IF cardinality(v_ids) = 0 THEN
        RETURN 0;
    END IF;

    SELECT n.weight * class_weight(p_class) INTO v_weight FROM tenants n WHERE n.id = p_tenant;
    SELECT greatest(v_flow.last_v, coalesce(max(v), 0)) INTO v_base FROM virtual_time WHERE tier = p_tier;
    WITH placed AS (
        SELECT t.id, coalesce(e.cost, 1) AS cost,
               v_base + sum(coalesce(e.cost, 1)) OVER (ORDER BY t.rank, t.id) / v_weight AS vstart
        FROM simple_tasks t LEFT JOIN estimates e ON (e.workflow, e.version) = (t.workflow, t.version)
        WHERE t.id = ANY (v_ids)
    ), moved AS (
        UPDATE simple_tasks t SET status = 'ready', vstart = p.vstart, estimate = p.cost
        FROM placed p WHERE t.id = p.id RETURNING p.vstart
    )
    SELECT max(m.vstart) INTO v_end FROM moved m;
    UPDATE flows SET ready = ready + cardinality(v_ids), last_v = v_end
    WHERE (tenant, tier, class) = (p_tenant, p_tier, p_class);
    RETURN cardinality(v_ids);
END
$$;

CREATE FUNCTION backbeat.push_outbox(p_stream uuid, p_kind text) RETURNS integer
    LANGUAGE sql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    INSERT INTO temporal_outbox (stream, seq, kind, lease_until, created_at)
    SELECT p_stream, coalesce(max(seq), 0) + 1, p_kind, clock(), clock() FROM temporal_outbox WHERE stream = p_stream
    RETURNING seq
$$;

CREATE FUNCTION backbeat.reap(p_limit integer DEFAULT 100, p_leases bigint[] DEFAULT NULL::bigint[]) RETURNS TABLE(task_id uuid, lease bigint, status text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    v_ids uuid[];
    v_leases bigint[];
    v_ends jsonb;
BEGIN
    SELECT array_agg(l.id ORDER BY l.id), array_agg(l.lease ORDER BY l.id) INTO v_ids, v_leases FROM (
        SELECT t.id, t.lease FROM simple_tasks t
        WHERE t.status = 'running' AND t.lease_until < clock() AND (p_leases IS NULL OR t.lease = ANY (p_leases))
        ORDER BY t.id LIMIT p_limit FOR UPDATE SKIP LOCKED) l;
    IF v_ids IS NULL THEN
        RETURN;
    END IF;
    PERFORM leave_flows(v_ids);
    PERFORM lose_calls(v_ids);
    SELECT jsonb_agg(jsonb_build_object('id', t.id, 'status', 'dead', 'error_class', 'worker_lost',
        'error', format('worker %s stopped renewing its lease; %s of %s attempts', t.worker, t.attempts, t.max_attempts),
        'entry', history_entry(t, 'lost', 'worker_lost', NULL))) INTO v_ends
    FROM simple_tasks t WHERE t.id = ANY (v_ids) AND t.attempts >= t.max_attempts;
    IF v_ends IS NOT NULL THEN
        PERFORM end_tasks(v_ends);
    END IF;
    UPDATE simple_tasks t
    SET status = 'pending', rank = 0, vstart = NULL, estimate = NULL, lease_until = NULL, worker = NULL, started_at = NULL,
        alone = t.attempts + 1 >= t.max_attempts, history = t.history || history_entry(t, 'lost', 'worker_lost', NULL)
    WHERE t.id = ANY (v_ids);
    RETURN QUERY
    SELECT l.id, l.lease, coalesce(t.status, 'dead') FROM unnest(v_ids, v_leases) AS l(id, lease) LEFT JOIN simple_tasks t ON t.id = l.id;
END
$$;

CREATE FUNCTION backbeat.refire_effect(p_key text, p_token bigint, p_fire_seconds double precision, p_error text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    IF p_fire_seconds > 0 AND EXISTS (SELECT FROM switches) THEN
        RETURN false;
    END IF;
    UPDATE side_effects
    SET status = 'intended', error = p_error, resolved_by = NULL,
        fire_until = CASE WHEN p_fire_seconds > 0 THEN clock() + make_interval(secs => p_fire_seconds) END,
        fires = fires + CASE WHEN p_fire_seconds > 0 THEN 1 ELSE 0 END
    WHERE key = p_key AND status <> 'done' AND token = p_token;
    RETURN FOUND;
END
$$;

CREATE FUNCTION backbeat.register_definitions(p_runtime text, p_definitions jsonb) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    INSERT INTO workflows AS w (name, version, runtime, tier, max_attempts)
    SELECT d.name, d.version, p_runtime, d.tier, d.max_attempts
    FROM jsonb_to_recordset(p_definitions) AS d(name text, version integer, tier text, max_attempts smallint)
    ORDER BY d.name, d.version
    ON CONFLICT (name, version) DO UPDATE SET tier = excluded.tier, max_attempts = excluded.max_attempts
    WHERE (w.tier, w.max_attempts) IS DISTINCT FROM (excluded.tier, excluded.max_attempts)
$$;

CREATE FUNCTION backbeat.register_worker(p_worker text, p_kind text, p_definitions jsonb) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_loaded text[];
    v_released integer;
BEGIN
    PERFORM register_definitions(p_kind, p_definitions);
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
END
$$;

CREATE FUNCTION backbeat.release_held(p_reason text, p_key text, p_limit integer DEFAULT 5000) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_moved integer;
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
END
$$;

CREATE FUNCTION backbeat.release_switch(p_name text, p_by text DEFAULT NULL::text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    DELETE FROM switches WHERE name = p_name;
    RETURN CASE WHEN FOUND THEN audit(session_user, 'switch.released', p_name, jsonb_build_object('by', p_by)) > 0 ELSE false END;
END
$$;

CREATE FUNCTION backbeat.require_approved(p_approval uuid, p_hash text, p_workflow uuid) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    PERFORM FROM approval_requests WHERE id = p_approval AND state = 'approved' AND hash = p_hash AND workflow_id = p_workflow FOR SHARE;
    RETURN FOUND;
END
$$;

CREATE FUNCTION backbeat.resolve_effect(p_key text, p_outcome jsonb, p_reason text, p_by text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    UPDATE side_effects SET status = CASE WHEN p_outcome IS NULL THEN 'intended' ELSE 'done' END, outcome = p_outcome, resolved_by = p_by,
        error = CASE WHEN p_outcome IS NULL THEN p_reason END, done_at = CASE WHEN p_outcome IS NOT NULL THEN clock() END, fire_until = NULL
    WHERE key = p_key AND status <> 'done' AND (fire_until > clock()) IS NOT TRUE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM release_held('effect', p_key);
    PERFORM audit(session_user, 'effect.resolved', p_key, jsonb_build_object('outcome', p_outcome, 'reason', p_reason, 'by', p_by));
    RETURN true;
END
$$;

CREATE FUNCTION backbeat.restart_workflow(p_workflow uuid, p_temporal_id text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    PERFORM FROM orchestrated_workflows WHERE id = p_workflow AND temporal_id = p_temporal_id AND finished_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND OR EXISTS (
        SELECT FROM temporal_outbox WHERE stream = p_workflow AND kind = 'start' AND delivered_at IS NULL AND dead_at IS NULL) THEN
        RETURN false;
    END IF;
    UPDATE orchestrated_workflows
    SET generation = generation + CASE WHEN status = 'starting' THEN 0 ELSE 1 END,
        status = 'starting', run_id = NULL, waiting_for = NULL, updated_at = clock()
    WHERE id = p_workflow;
    PERFORM push_outbox(p_workflow, 'start');
    RETURN true;
END
$$;

CREATE FUNCTION backbeat.revoke_token(p_id text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    UPDATE api_tokens SET revoked_at = clock() WHERE id = p_id AND revoked_at IS NULL;
    IF FOUND THEN
        PERFORM audit(session_user, 'token.revoked', p_id, '{}');
    END IF;
    RETURN FOUND;
END
$$;

CREATE FUNCTION backbeat.set_budget(p_scope text, p_key text, p_usd numeric, p_tokens bigint, p_by text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_name text := p_scope || '/' || p_key;
    v_released integer;
BEGIN
    INSERT INTO budget_caps AS c (scope, key, usd, tokens, set_by, set_at) VALUES (p_scope, p_key, p_usd, p_tokens, p_by, clock())
    ON CONFLICT (scope, key) DO UPDATE SET usd = excluded.usd, tokens = excluded.tokens, set_by = excluded.set_by, set_at = clock();
    -- Even before the day's first call, which may be copying the old cap at this moment.
    INSERT INTO budgets AS b (scope, key, day, cap_usd, cap_tokens, raised_by)
    VALUES (p_scope, p_key, utc_day(backbeat.now()), p_usd, p_tokens, p_by)
    ON CONFLICT (scope, key, day) DO UPDATE SET cap_usd = p_usd, cap_tokens = p_tokens, raised_by = p_by;
    v_released := release_held('budget', v_name) + (
        SELECT coalesce(sum(release_held('price', h.hold_key)), 0) FROM (
            SELECT DISTINCT t.hold_key FROM simple_tasks t
            WHERE t.status = 'held' AND t.hold_reason = 'price' AND right(t.hold_key, length(v_name) + 7) = ' under ' || v_name) h);
    PERFORM audit(session_user, 'budget.set', v_name, jsonb_build_object('usd', p_usd, 'tokens', p_tokens, 'by', p_by));
    RETURN v_released;
END
$$;

CREATE FUNCTION backbeat.settle(p_rows jsonb) RETURNS TABLE(task_id uuid, accepted boolean, status text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
#variable_conflict use_column
DECLARE
    c_free_releases CONSTANT integer := 20;
    v_ids uuid[];
    v_flows jsonb;
    v_ends jsonb;
BEGIN
    SELECT array_agg(l.id) INTO v_ids FROM (
        SELECT t.id FROM simple_tasks t JOIN jsonb_to_recordset(p_rows) AS r(id uuid, lease bigint) ON r.id = t.id AND r.lease = t.lease
        WHERE t.status = 'running' ORDER BY t.id FOR UPDATE OF t) l;
    v_ids := coalesce(v_ids, '{}');
    IF p_rows @> '[{"outcome": "hold"}]' THEN
        SELECT jsonb_agg(CASE WHEN NOT cause_stands(r.body ->> 'reason', r.body ->> 'key', t.started_at)
            THEN r.body || '{"outcome": "snooze", "until": null}' ELSE r.body END ORDER BY r.n) INTO p_rows
        FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS r(body, n)
        LEFT JOIN simple_tasks t ON t.id = (r.body ->> 'id')::uuid AND r.body ->> 'outcome' = 'hold' AND t.id = ANY (v_ids);
    END IF;
    SELECT jsonb_agg(DISTINCT jsonb_build_object('tenant', t.tenant, 'tier', t.tier, 'class', t.class)) INTO v_flows
    FROM simple_tasks t WHERE t.id = ANY (v_ids);
    PERFORM leave_flows(v_ids);
    PERFORM lose_calls(v_ids);

    WITH outcomes AS (
        SELECT r.*, t.attempts >= t.max_attempts AS last_attempt, t.releases >= c_free_releases AS patience_gone, t AS task
        FROM jsonb_to_recordset(p_rows) AS r(id uuid, outcome text, result jsonb, error_class text, error text, reason text, workflow text, input jsonb)
        JOIN simple_tasks t ON t.id = r.id WHERE t.id = ANY (v_ids)
    )
    SELECT jsonb_agg(jsonb_build_object(
        'id', o.id, 'result', o.result, 'error', o.error,
        'error_class', CASE WHEN o.outcome = 'release' THEN 'released_too_often' ELSE o.error_class END,
        'status', CASE o.outcome WHEN 'succeed' THEN 'succeeded' WHEN 'escalate' THEN 'escalated' ELSE 'dead' END,
        'entry', history_entry(o.task, o.outcome, o.error_class, o.error),
        'workflow_id', CASE WHEN o.outcome = 'escalate' THEN start_workflow(
            o.workflow, 1, (o.task).tenant, o.input, (o.task).origin_id, o.id, (o.task).traceparent) END)) INTO v_ends
    FROM outcomes o
    WHERE o.outcome IN ('succeed', 'dead', 'escalate') OR (o.outcome = 'retry' AND o.last_attempt) OR (uses_patience(o.outcome, o.reason) AND o.patience_gone);
    IF v_ends IS NOT NULL THEN
        PERFORM end_tasks(v_ends);
    END IF;

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
        history = CASE WHEN r.outcome = 'snooze' THEN t.history
            ELSE t.history || history_entry(t, r.outcome, coalesce(r.error_class, r.reason), coalesce(r.error, r.key)) END
    FROM jsonb_to_recordset(p_rows) AS r(id uuid, outcome text, error_class text, error text, after double precision, until timestamptz, reason text, key text)
    WHERE t.id = r.id AND t.id = ANY (v_ids);

    PERFORM promote(f.tenant, f.tier, f.class) FROM jsonb_to_recordset(v_flows) AS f(tenant text, tier text, class text) ORDER BY f.tenant, f.tier, f.class;

    RETURN QUERY
    SELECT r.id, r.id = ANY (v_ids), coalesce(t.status, f.status)
    FROM jsonb_to_recordset(p_rows) AS r(id uuid)
    LEFT JOIN simple_tasks t ON t.id = r.id LEFT JOIN finished_tasks f ON f.id = r.id;
END
$$;

CREATE FUNCTION backbeat.settle_outbox(p_stream uuid, p_seq integer, p_lease bigint, p_outcome text, p_error text DEFAULT NULL::text, p_delay double precision DEFAULT 0, p_run_id text DEFAULT NULL::text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_now timestamptz;
    v_kind text;
BEGIN
    PERFORM FROM orchestrated_workflows WHERE id = p_stream FOR NO KEY UPDATE;
    v_now := clock();
    UPDATE temporal_outbox
    SET delivered_at = CASE p_outcome WHEN 'delivered' THEN v_now END, dead_at = CASE p_outcome WHEN 'dead' THEN v_now END,
        last_error = p_error, lease_until = v_now + make_interval(secs => p_delay)
    WHERE (stream, seq, lease) = (p_stream, p_seq, p_lease) AND delivered_at IS NULL AND dead_at IS NULL
    RETURNING kind INTO v_kind;
    IF v_kind = 'start' AND p_outcome = 'delivered' THEN
        UPDATE orchestrated_workflows SET status = 'running', run_id = p_run_id, updated_at = v_now, checked_at = v_now
        WHERE id = p_stream AND status = 'starting';
    ELSIF v_kind = 'start' AND p_outcome = 'dead' THEN
        UPDATE orchestrated_workflows SET status = 'failed', error = p_error, updated_at = v_now, finished_at = v_now
        WHERE id = p_stream AND status = 'starting';
    END IF;
    RETURN v_kind IS NOT NULL;
END
$$;

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
          'bbd_%s_%s', t.id, encode(sha256(t.key || sha256(convert_to(p_message, 'UTF8'))), 'hex')), 'UTF8'))
$$;

CREATE FUNCTION backbeat.span_id(VARIADIC p_parts text[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    RETURN "left"(encode(sha256(convert_to(array_to_string(p_parts, ':'::text), 'UTF8'::name)), 'hex'::text), 16);

CREATE FUNCTION backbeat.start_tick(p_worker text) RETURNS uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$ INSERT INTO ticks (id, worker, started_at) VALUES (uuid7(), p_worker, clock()) RETURNING id $$;

CREATE FUNCTION backbeat.start_workflow(p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_origin uuid, p_parent_task uuid, p_traceparent text) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_id uuid := uuid7();
    v_now timestamptz := clock();
BEGIN
    INSERT INTO orchestrated_workflows (
        id, workflow, version, tenant, input, parent_task, origin_id, traceparent, created_at, updated_at, checked_at)
    VALUES (v_id, p_workflow, p_version, p_tenant, p_input, p_parent_task, coalesce(p_origin, v_id), format('00-%s-%s-01',
        coalesce(substring(p_traceparent FROM '^00-([0-9a-f]{32})-'), trace_id('workflow', v_id::text)),
        span_id('escalate', v_id::text)), v_now, v_now, v_now);
    PERFORM push_outbox(v_id, 'start');
    RETURN v_id;
END
$$;

CREATE FUNCTION backbeat.sweep(p_limit integer DEFAULT 5000) RETURNS TABLE(due integer, expired integer, promoted integer, unloaded integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
DECLARE
    v_expired uuid[];
    v_homeless uuid[];
    v_flows flows[];
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
        ORDER BY t.id LIMIT p_limit FOR UPDATE SKIP LOCKED) l;
    SELECT coalesce(array_agg(l.id), '{}') INTO v_homeless FROM (
        SELECT t.id FROM simple_tasks t
        WHERE t.status = 'ready' AND t.id <> ALL (v_expired) AND NOT EXISTS (
            SELECT FROM workers w
            WHERE w.kind = 'cron' AND w.seen_at > backbeat.now() - interval '10 minutes' AND t.workflow || '@' || t.version = ANY (w.loaded))
        ORDER BY t.id LIMIT p_limit FOR UPDATE SKIP LOCKED) l;
    -- The flows of all that follows at once, or two sweeps would lock them in different orders.
    SELECT array_agg(l.f) INTO v_flows FROM (
        SELECT f FROM flows f
        WHERE (f.tenant, f.tier, f.class) IN (SELECT t.tenant, t.tier, t.class FROM simple_tasks t WHERE t.id = ANY (v_expired || v_homeless))
            OR flow_room(f) > 0
            AND EXISTS (SELECT FROM simple_tasks t WHERE t.status = 'pending' AND (t.tenant, t.tier, t.class) = (f.tenant, f.tier, f.class))
        ORDER BY f.tenant, f.tier, f.class FOR UPDATE) l;

    SELECT count(*) INTO expired FROM finish(v_expired, 'expired', 'expired', 'not started before its expires_at');
    -- A row whose version nobody has loaded waits visibly and costs no attempt.
    PERFORM leave_flows(v_homeless);
    UPDATE simple_tasks t SET status = 'held', hold_reason = 'version', hold_key = t.workflow || '@' || t.version, vstart = NULL, estimate = NULL
    WHERE t.id = ANY (v_homeless);
    unloaded := cardinality(v_homeless);
    SELECT coalesce(sum(promote(f.tenant, f.tier, f.class)), 0) INTO promoted FROM unnest(v_flows) f;
    RETURN NEXT;
END
$$;

CREATE FUNCTION backbeat.throw_switch(p_name text, p_reason text, p_by text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO switches (name, reason, thrown_by) VALUES (p_name, p_reason, p_by)
    ON CONFLICT (name) DO UPDATE SET reason = excluded.reason, thrown_by = excluded.thrown_by, thrown_at = backbeat.now();
    PERFORM audit(session_user, 'switch.thrown', p_name, jsonb_build_object('reason', p_reason, 'by', p_by));
END
$$;

CREATE FUNCTION backbeat.trace_id(VARIADIC p_parts text[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    RETURN "left"(encode(sha256(convert_to(array_to_string(p_parts, ':'::text), 'UTF8'::name)), 'hex'::text), 32);

CREATE FUNCTION backbeat.uses_patience(p_outcome text, p_reason text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog'
    RETURN ((p_outcome = 'release'::text) AND COALESCE((p_reason <> ALL (ARRAY['out_of_time'::text, 'cut_off'::text])), true));

CREATE FUNCTION backbeat.utc_day(p_at timestamp with time zone) RETURNS date
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    RETURN ((p_at AT TIME ZONE 'UTC'::text))::date;

CREATE FUNCTION backbeat.uuid7(p_at timestamp with time zone DEFAULT backbeat.clock()) RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    RETURN (encode(OVERLAY(OVERLAY(uuid_send(gen_random_uuid()) PLACING SUBSTRING(int8send((floor((EXTRACT(epoch FROM p_at) * (1000)::numeric)))::bigint) FROM 3) FROM 1 FOR 6) PLACING set_byte('\x00'::bytea, 0, ((get_byte(uuid_send(gen_random_uuid()), 0) & 15) | 112)) FROM 7 FOR 1), 'hex'::text))::uuid;

CREATE FUNCTION backbeat.uuid7_floor(p_at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    RETURN ((encode(SUBSTRING(int8send((floor((EXTRACT(epoch FROM p_at) * (1000)::numeric)))::bigint) FROM 3), 'hex'::text) || repeat('0'::text, 20)))::uuid;

CREATE FUNCTION backbeat.verify_audit() RETURNS TABLE(id bigint, problem text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
    SELECT * FROM (
        SELECT a.id, CASE
            WHEN a.id <> row_number() OVER chain THEN 'a row before it is missing'
            WHEN a.prev_hash <> lag(a.hash, 1, sha256('backbeat audit log')) OVER chain THEN 'it does not follow the row before it'
            WHEN a.hash <> audit_hash(a.prev_hash, a.id, a.at, a.actor, a.action, a.subject, a.detail) THEN 'it was changed'
        END AS problem
        FROM audit_log a WINDOW chain AS (ORDER BY a.id)
        UNION ALL
        SELECT h.id, 'the newest rows are missing' FROM audit_head h
        WHERE h.id > 0 AND NOT EXISTS (SELECT FROM audit_log a WHERE (a.id, a.hash) = (h.id, h.hash))
    ) c WHERE c.problem IS NOT NULL ORDER BY c.id LIMIT 1
$$;

CREATE FUNCTION backbeat.workflows_to_check(p_limit integer, p_seconds double precision) RETURNS TABLE(id uuid, temporal_id text, status text, state_seq integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'backbeat', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock();
BEGIN
    RETURN QUERY
    WITH picked AS (
        SELECT w.id FROM orchestrated_workflows w
        WHERE w.finished_at IS NULL AND w.checked_at <= v_now - make_interval(secs => p_seconds)
        ORDER BY w.checked_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE orchestrated_workflows w SET checked_at = v_now FROM picked p WHERE w.id = p.id
    RETURNING w.id, w.temporal_id, w.status, w.state_seq;
END
$$;

CREATE TABLE backbeat.approval_decisions (
    id uuid NOT NULL,
    request_id uuid NOT NULL,
    user_name text NOT NULL,
    token_id text,
    decision text NOT NULL,
    hash text NOT NULL,
    comment text NOT NULL,
    via text NOT NULL,
    state_after text NOT NULL,
    decided_at timestamp with time zone NOT NULL,
    CONSTRAINT approval_decisions_decision_check CHECK ((decision = ANY (ARRAY['approve'::text, 'reject'::text]))),
    CONSTRAINT approval_decisions_state_after_check CHECK ((state_after = ANY (ARRAY['pending'::text, 'approved'::text, 'rejected'::text]))),
    CONSTRAINT approval_decisions_via_check CHECK ((via = ANY (ARRAY['cli'::text, 'web'::text, 'signal'::text])))
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

CREATE TABLE backbeat.budget_caps (
    scope text NOT NULL,
    key text NOT NULL,
    usd numeric,
    tokens bigint,
    set_by text NOT NULL,
    set_at timestamp with time zone DEFAULT backbeat.now() NOT NULL,
    CONSTRAINT budget_caps_scope_check CHECK ((scope = ANY (ARRAY['workflow'::text, 'tenant'::text]))),
    CONSTRAINT budget_caps_tokens_check CHECK ((tokens >= 0)),
    CONSTRAINT budget_caps_usd_check CHECK ((usd >= (0)::numeric))
);

CREATE TABLE backbeat.dead_letters (
    id uuid NOT NULL,
    tenant text NOT NULL,
    workflow text NOT NULL,
    version integer NOT NULL,
    error_class text NOT NULL,
    error text NOT NULL,
    attempts smallint NOT NULL,
    payload jsonb NOT NULL,
    died_at timestamp with time zone NOT NULL
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

CREATE TABLE backbeat.schema_migrations (
    version text NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone
);

CREATE TABLE backbeat.side_effects (
    key text NOT NULL,
    mark text DEFAULT encode(uuid_send(gen_random_uuid()), 'hex'::text) NOT NULL,
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
    v double precision DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');

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
    registered_at timestamp with time zone DEFAULT backbeat.now() NOT NULL,
    CONSTRAINT workflows_max_attempts_check CHECK (((max_attempts >= 1) AND (max_attempts <= 100))),
    CONSTRAINT workflows_name_check CHECK ((name ~ '^[a-z][a-z0-9_]{0,62}$'::text)),
    CONSTRAINT workflows_runtime_check CHECK ((runtime = ANY (ARRAY['cron'::text, 'temporal'::text]))),
    CONSTRAINT workflows_tier_check CHECK ((tier <> ''::text)),
    CONSTRAINT workflows_version_check CHECK ((version > 0))
);

ALTER TABLE ONLY backbeat.api_tokens
    ADD CONSTRAINT api_tokens_key_key UNIQUE (key);

ALTER TABLE ONLY backbeat.api_tokens
    ADD CONSTRAINT api_tokens_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.approval_decisions
    ADD CONSTRAINT approval_decisions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.approval_decisions
    ADD CONSTRAINT approval_decisions_request_id_user_name_key UNIQUE (request_id, user_name);

ALTER TABLE ONLY backbeat.approval_requests
    ADD CONSTRAINT approval_requests_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.approval_requests
    ADD CONSTRAINT approval_requests_workflow_id_step_key UNIQUE (workflow_id, step);

ALTER TABLE ONLY backbeat.audit_head
    ADD CONSTRAINT audit_head_pkey PRIMARY KEY (one);

ALTER TABLE ONLY backbeat.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.budget_caps
    ADD CONSTRAINT budget_caps_pkey PRIMARY KEY (scope, key);

ALTER TABLE ONLY backbeat.budgets
    ADD CONSTRAINT budgets_pkey PRIMARY KEY (scope, key, day);

ALTER TABLE ONLY backbeat.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);

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

ALTER TABLE ONLY backbeat.model_calls
    ADD CONSTRAINT model_calls_pkey PRIMARY KEY (owner, call_key, seq);

ALTER TABLE ONLY backbeat.orchestrated_workflows
    ADD CONSTRAINT orchestrated_workflows_parent_task_key UNIQUE (parent_task);

ALTER TABLE ONLY backbeat.orchestrated_workflows
    ADD CONSTRAINT orchestrated_workflows_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.orchestrated_workflows
    ADD CONSTRAINT orchestrated_workflows_temporal_id_key UNIQUE (temporal_id);

ALTER TABLE ONLY backbeat.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY backbeat.side_effects
    ADD CONSTRAINT side_effects_pkey PRIMARY KEY (key);

ALTER TABLE ONLY backbeat.simple_tasks
    ADD CONSTRAINT simple_tasks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backbeat.switches
    ADD CONSTRAINT switches_pkey PRIMARY KEY (name);

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

CREATE INDEX approval_requests_pending ON backbeat.approval_requests USING btree (tenant, deadline) WHERE (state = 'pending'::text);

CREATE INDEX audit_log_refusals ON backbeat.audit_log USING btree (actor, at) WHERE (action = 'approval.refused'::text);

CREATE INDEX audit_log_subject ON backbeat.audit_log USING btree (subject, id);

CREATE INDEX feedback_origin ON backbeat.feedback USING btree (origin_id);

CREATE INDEX model_calls_lost ON backbeat.model_calls USING btree (day) WHERE (status = 'lost'::text);

CREATE UNIQUE INDEX model_calls_open ON backbeat.model_calls USING btree (owner, call_key) WHERE (status = 'open'::text);

CREATE INDEX model_calls_recent ON backbeat.model_calls USING btree (closed_at) WHERE (status = 'done'::text);

CREATE INDEX orchestrated_workflows_open ON backbeat.orchestrated_workflows USING btree (checked_at) WHERE (finished_at IS NULL);

CREATE INDEX side_effects_open ON backbeat.side_effects USING btree (intended_at) WHERE (status <> 'done'::text);

CREATE INDEX side_effects_origin ON backbeat.side_effects USING btree (origin_id);

CREATE INDEX simple_tasks_alone ON backbeat.simple_tasks USING btree (vstart, id) WHERE ((status = 'ready'::text) AND alone);

CREATE INDEX simple_tasks_delayed ON backbeat.simple_tasks USING btree (run_after) WHERE (status = ANY (ARRAY['delayed'::text, 'held'::text]));

CREATE INDEX simple_tasks_expiring ON backbeat.simple_tasks USING btree (expires_at) WHERE (expires_at IS NOT NULL);

CREATE INDEX simple_tasks_held ON backbeat.simple_tasks USING btree (hold_reason, hold_key) WHERE (status = 'held'::text);

CREATE INDEX simple_tasks_pending ON backbeat.simple_tasks USING btree (tenant, tier, class, rank, id) WHERE (status = 'pending'::text);

CREATE INDEX simple_tasks_ready ON backbeat.simple_tasks USING btree (tier, vstart, id) WHERE (status = 'ready'::text);

CREATE INDEX simple_tasks_running ON backbeat.simple_tasks USING btree (id) WHERE (status = 'running'::text);

CREATE INDEX temporal_outbox_open ON backbeat.temporal_outbox USING btree (lease_until) WHERE ((delivered_at IS NULL) AND (dead_at IS NULL));

CREATE INDEX temporal_outbox_order ON backbeat.temporal_outbox USING btree (stream, seq) WHERE ((delivered_at IS NULL) AND (dead_at IS NULL));

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON backbeat.approval_decisions FOR EACH STATEMENT EXECUTE FUNCTION backbeat.append_only();

ALTER TABLE backbeat.approval_decisions ENABLE ALWAYS TRIGGER append_only;

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON backbeat.audit_log FOR EACH STATEMENT EXECUTE FUNCTION backbeat.append_only();

ALTER TABLE backbeat.audit_log ENABLE ALWAYS TRIGGER append_only;

ALTER TABLE ONLY backbeat.approval_decisions
    ADD CONSTRAINT approval_decisions_request_id_fkey FOREIGN KEY (request_id) REFERENCES backbeat.approval_requests(id);

ALTER TABLE ONLY backbeat.approval_requests
    ADD CONSTRAINT approval_requests_workflow_id_fkey FOREIGN KEY (workflow_id) REFERENCES backbeat.orchestrated_workflows(id);

ALTER TABLE ONLY backbeat.temporal_outbox
    ADD CONSTRAINT temporal_outbox_stream_fkey FOREIGN KEY (stream) REFERENCES backbeat.orchestrated_workflows(id);
GRANT USAGE ON SCHEMA backbeat TO backbeat_worker;
GRANT USAGE ON SCHEMA backbeat TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.append_only() FROM PUBLIC;
GRANT SELECT ON TABLE backbeat.model_calls TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.model_calls TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.attempt_cost(p_owner uuid, p_lease bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.audit(p_actor text, p_action text, p_subject text, p_detail jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.audit_hash(p_prev bytea, p_id bigint, p_at timestamp with time zone, p_actor text, p_action text, p_subject text, p_detail jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.begin_effect(p_key text, p_owner_kind text, p_owner uuid, p_lease bigint, p_kind text, p_request jsonb, p_request_hash text, p_origin uuid, p_traceparent text, p_approval uuid, p_fire_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.begin_effect(p_key text, p_owner_kind text, p_owner uuid, p_lease bigint, p_kind text, p_request jsonb, p_request_hash text, p_origin uuid, p_traceparent text, p_approval uuid, p_fire_seconds double precision) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.book(p_calls backbeat.model_calls[], p_status text, p_cost numeric, p_tokens bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.cancel_task(p_task uuid, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.cancel_task(p_task uuid, p_reason text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.cause_stands(p_reason text, p_key text, p_since timestamp with time zone) FROM PUBLIC;
GRANT SELECT ON TABLE backbeat.simple_tasks TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.simple_tasks TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.claim(p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision, p_idle boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.claim(p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision, p_idle boolean) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.class_weight(p_class text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.now() FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.now() TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.now() TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.clock() FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.clock() TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.clock() TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.close_call(p_owner uuid, p_key text, p_seq smallint, p_status text, p_usage jsonb, p_cost numeric, p_response jsonb, p_valid boolean, p_stop text, p_model_answered text, p_response_id text, p_error_class text, p_error text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.close_call(p_owner uuid, p_key text, p_seq smallint, p_status text, p_usage jsonb, p_cost numeric, p_response jsonb, p_valid boolean, p_stop text, p_model_answered text, p_response_id text, p_error_class text, p_error text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.close_if_pending(p_request uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.close_if_pending(p_request uuid) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.policy_problem(p_policy jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.policy_problem(p_policy jsonb) TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.approval_requests TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.approval_requests TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.create_approval(p_workflow uuid, p_step text, p_hash text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.create_approval(p_workflow uuid, p_step text, p_hash text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.create_token(p_key bytea, p_user text, p_groups text[], p_seconds double precision) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.decide(p_proof text, p_request uuid, p_decision text, p_hash text, p_comment text, p_decision_id uuid, p_via text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.decide(p_proof text, p_request uuid, p_decision text, p_hash text, p_comment text, p_decision_id uuid, p_via text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.end_tasks(p_ends jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.end_tick(p_id uuid, p_claimed integer, p_settled integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.end_tick(p_id uuid, p_claimed integer, p_settled integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.enqueue(p_workflow text, p_version integer, p_payloads jsonb[], p_keys bytea[], p_tenant text, p_class text, p_run_after timestamp with time zone, p_expires_at timestamp with time zone, p_source_at timestamp with time zone[], p_traceparent text, p_origin uuid, p_parent uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.enqueue(p_workflow text, p_version integer, p_payloads jsonb[], p_keys bytea[], p_tenant text, p_class text, p_run_after timestamp with time zone, p_expires_at timestamp with time zone, p_source_at timestamp with time zone[], p_traceparent text, p_origin uuid, p_parent uuid) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.finish(p_ids uuid[], p_status text, p_error_class text, p_error text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.finish_effect(p_key text, p_outcome jsonb, p_read_back boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.finish_effect(p_key text, p_outcome jsonb, p_read_back boolean) TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.flows TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.flows TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.tenants TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.tenants TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.flow_room(p_flow backbeat.flows) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.heartbeat(p_worker text, p_ids uuid[], p_leases bigint[], p_lease_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.heartbeat(p_worker text, p_ids uuid[], p_leases bigint[], p_lease_seconds double precision) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.history_entry(p_task backbeat.simple_tasks, p_outcome text, p_error_class text, p_error text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.lease_outbox(p_kinds text[], p_limit integer, p_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.lease_outbox(p_kinds text[], p_limit integer, p_seconds double precision) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.leave_flows(p_ids uuid[]) FROM PUBLIC;
GRANT SELECT ON TABLE backbeat.budgets TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.budgets TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.lock_budgets(p_workflow text, p_tenant text, p_day date) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.lose_calls(p_owners uuid[], p_key text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.maintain_partitions(p_days_ahead integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.maintain_partitions(p_days_ahead integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.note_effect(p_key text, p_error text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.note_effect(p_key text, p_error text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.open_call(p_owner uuid, p_lease bigint, p_key text, p_request_hash text, p_route text, p_tier text, p_provider text, p_model text, p_reserve_usd numeric, p_reserve_tokens bigint, p_price_version text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.open_call(p_owner uuid, p_lease bigint, p_key text, p_request_hash text, p_route text, p_tier text, p_provider text, p_model text, p_reserve_usd numeric, p_reserve_tokens bigint, p_price_version text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.owner_bill(p_owner uuid, OUT calls integer, OUT input_tokens bigint, OUT output_tokens bigint, OUT cost_usd numeric) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.owner_bill(p_owner uuid, OUT calls integer, OUT input_tokens bigint, OUT output_tokens bigint, OUT cost_usd numeric) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.project_state(p_workflow uuid, p_seq integer, p_status text, p_run_id text, p_waiting_for text, p_result jsonb, p_error text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.project_state(p_workflow uuid, p_seq integer, p_status text, p_run_id text, p_waiting_for text, p_result jsonb, p_error text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.promote(p_tenant text, p_tier text, p_class text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.push_outbox(p_stream uuid, p_kind text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.reap(p_limit integer, p_leases bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.reap(p_limit integer, p_leases bigint[]) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.refire_effect(p_key text, p_token bigint, p_fire_seconds double precision, p_error text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.refire_effect(p_key text, p_token bigint, p_fire_seconds double precision, p_error text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.register_definitions(p_runtime text, p_definitions jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.register_definitions(p_runtime text, p_definitions jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.register_worker(p_worker text, p_kind text, p_definitions jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.register_worker(p_worker text, p_kind text, p_definitions jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.release_held(p_reason text, p_key text, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.release_held(p_reason text, p_key text, p_limit integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.release_switch(p_name text, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.release_switch(p_name text, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.require_approved(p_approval uuid, p_hash text, p_workflow uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.resolve_effect(p_key text, p_outcome jsonb, p_reason text, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.resolve_effect(p_key text, p_outcome jsonb, p_reason text, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.restart_workflow(p_workflow uuid, p_temporal_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.restart_workflow(p_workflow uuid, p_temporal_id text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.revoke_token(p_id text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.set_budget(p_scope text, p_key text, p_usd numeric, p_tokens bigint, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.set_budget(p_scope text, p_key text, p_usd numeric, p_tokens bigint, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.settle(p_rows jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.settle(p_rows jsonb) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.settle_outbox(p_stream uuid, p_seq integer, p_lease bigint, p_outcome text, p_error text, p_delay double precision, p_run_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.settle_outbox(p_stream uuid, p_seq integer, p_lease bigint, p_outcome text, p_error text, p_delay double precision, p_run_id text) TO backbeat_worker;
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
REVOKE ALL ON FUNCTION backbeat.start_tick(p_worker text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.start_tick(p_worker text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.start_workflow(p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_origin uuid, p_parent_task uuid, p_traceparent text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.start_workflow(p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_origin uuid, p_parent_task uuid, p_traceparent text) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.sweep(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.sweep(p_limit integer) TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.throw_switch(p_name text, p_reason text, p_by text) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.throw_switch(p_name text, p_reason text, p_by text) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.trace_id(VARIADIC p_parts text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.trace_id(VARIADIC p_parts text[]) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.trace_id(VARIADIC p_parts text[]) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.uses_patience(p_outcome text, p_reason text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backbeat.utc_day(p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.utc_day(p_at timestamp with time zone) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.utc_day(p_at timestamp with time zone) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.uuid7(p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.uuid7(p_at timestamp with time zone) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.uuid7(p_at timestamp with time zone) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.uuid7_floor(p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.uuid7_floor(p_at timestamp with time zone) TO backbeat_worker;
GRANT ALL ON FUNCTION backbeat.uuid7_floor(p_at timestamp with time zone) TO backbeat_operator;
REVOKE ALL ON FUNCTION backbeat.verify_audit() FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.verify_audit() TO backbeat_operator;
GRANT ALL ON FUNCTION backbeat.verify_audit() TO backbeat_worker;
REVOKE ALL ON FUNCTION backbeat.workflows_to_check(p_limit integer, p_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION backbeat.workflows_to_check(p_limit integer, p_seconds double precision) TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.approval_decisions TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.approval_decisions TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.audit_head TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.audit_head TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.audit_log TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.audit_log TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.budget_caps TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.budget_caps TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.dead_letters TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.dead_letters TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.estimates TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.estimates TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.feedback TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.feedback TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.finished_tasks TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.finished_tasks TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.idempotency TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.idempotency TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.orchestrated_workflows TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.orchestrated_workflows TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.schema_migrations TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.schema_migrations TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.side_effects TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.side_effects TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.switches TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.switches TO backbeat_operator;
GRANT SELECT ON TABLE backbeat.tasks TO backbeat_worker;
GRANT SELECT ON TABLE backbeat.tasks TO backbeat_operator;
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
