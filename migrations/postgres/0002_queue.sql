-- migrate:up

-- The queue.
--
-- A task lives in simple_tasks and moves  pending -> ready -> running,  with  delayed  (due later) and
-- held  (waiting for something to be lifted) on the side. When it ends, its row leaves for finished_tasks
-- in the same transaction, so live rows stay few and a claim costs the same on day 1 and on day 1000.
--
-- Fairness. Rows of one (tenant, tier, class) are a flow. A flow keeps at most a window of rows `ready`;
-- each gets a virtual start time when it is promoted: max(V, the flow's clock) + estimated cost / weight.
-- A claim walks (tier, vstart, id). Settling adds (actual - estimated cost) / weight to the flow's clock,
-- so a flow that turns out dear waits longer next time. V of a tier only rises. The unit of cost is one
-- thousand tokens, plus one for the task itself.
--
-- Fences. Every claim takes a new lease from one sequence; whoever writes later must name it.
--
-- Lock order, everywhere: tasks (by id) -> flows (by key) -> estimates -> model_calls -> budgets (by key) -> virtual_time.

CREATE SEQUENCE backbeat.leases;

CREATE TABLE backbeat.tenants (
    id text PRIMARY KEY CHECK (id <> ''),
    weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
    max_running integer CHECK (max_running > 0)
);
INSERT INTO backbeat.tenants (id) VALUES ('default');

CREATE TABLE backbeat.workflows (
    name text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    version integer NOT NULL CHECK (version > 0),
    runtime text NOT NULL CHECK (runtime IN ('cron', 'temporal')),
    tier text NOT NULL CHECK (tier <> ''),
    max_attempts smallint NOT NULL DEFAULT 3 CHECK (max_attempts BETWEEN 1 AND 100),
    registered_at timestamptz NOT NULL DEFAULT backbeat.now(),
    PRIMARY KEY (name, version)
);

-- What a task of a definition has cost lately; learned at settlement.
CREATE TABLE backbeat.estimates (
    workflow text NOT NULL,
    version integer NOT NULL,
    cost double precision NOT NULL CHECK (cost > 0),
    PRIMARY KEY (workflow, version)
);

CREATE TABLE backbeat.flows (
    tenant text NOT NULL,
    tier text NOT NULL,
    class text NOT NULL CHECK (class IN ('high', 'normal', 'low')),
    last_v double precision NOT NULL DEFAULT 0,
    ready integer NOT NULL DEFAULT 0 CHECK (ready >= 0),
    running integer NOT NULL DEFAULT 0 CHECK (running >= 0),
    PRIMARY KEY (tenant, tier, class)
) WITH (fillfactor = 50);

CREATE TABLE backbeat.virtual_time (
    tier text PRIMARY KEY,
    v double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE backbeat.simple_tasks (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    workflow text NOT NULL,
    version integer NOT NULL,
    tier text NOT NULL,
    class text NOT NULL CHECK (class IN ('high', 'normal', 'low')),
    payload jsonb NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'ready', 'running', 'delayed', 'held')),
    -- 0: to the front of its own flow (retries, due rows, released holds); 1: in order of arrival.
    rank smallint NOT NULL DEFAULT 1 CHECK (rank IN (0, 1)),
    hold_reason text CHECK (hold_reason IN ('budget', 'version', 'route', 'effect', 'price')),
    hold_key text,
    run_after timestamptz,
    expires_at timestamptz,
    source_at timestamptz,
    vstart double precision,
    estimate double precision,
    attempts smallint NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    max_attempts smallint NOT NULL,
    -- Runs given back unbilled; bounded, or a vendor that is away for ever would be asked for ever.
    releases smallint NOT NULL DEFAULT 0,
    history jsonb NOT NULL DEFAULT '[]',
    -- Its worker was lost and one attempt is left: that runs with no other task in its process, lest it kill those too.
    alone boolean NOT NULL DEFAULT false,
    lease bigint,
    lease_until timestamptz,
    worker text,
    started_at timestamptz,
    agent_id uuid,
    parent_id uuid,
    origin_id uuid NOT NULL,
    idempotency_key bytea,
    traceparent text NOT NULL CHECK (traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-01$'),
    created_at timestamptz NOT NULL,
    CONSTRAINT held_says_why CHECK ((status = 'held') = (hold_reason IS NOT NULL AND hold_key IS NOT NULL)),
    CONSTRAINT delayed_says_when CHECK (status <> 'delayed' OR run_after IS NOT NULL),
    CONSTRAINT ready_has_a_place CHECK ((status IN ('ready', 'running')) = (vstart IS NOT NULL AND estimate IS NOT NULL)),
    CONSTRAINT running_has_a_lease CHECK (
        (status = 'running') = (lease_until IS NOT NULL AND worker IS NOT NULL AND started_at IS NOT NULL)
        AND (status <> 'running' OR lease IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX simple_tasks_ready ON backbeat.simple_tasks (tier, vstart, id) WHERE status = 'ready';
CREATE INDEX simple_tasks_alone ON backbeat.simple_tasks (vstart, id) WHERE status = 'ready' AND alone;
CREATE INDEX simple_tasks_pending ON backbeat.simple_tasks (tenant, tier, class, rank, id) WHERE status = 'pending';
CREATE INDEX simple_tasks_delayed ON backbeat.simple_tasks (run_after) WHERE status IN ('delayed', 'held');
CREATE INDEX simple_tasks_held ON backbeat.simple_tasks (hold_reason, hold_key) WHERE status = 'held';
-- lease_until is in no index, so that a heartbeat is a HOT update; running rows are few.
CREATE INDEX simple_tasks_running ON backbeat.simple_tasks (id) WHERE status = 'running';
CREATE INDEX simple_tasks_expiring ON backbeat.simple_tasks (expires_at) WHERE expires_at IS NOT NULL;

-- Partitioned by the day a task was created, which its version 7 id carries: PRIMARY KEY (id) alone means
-- a task ends once, and retention drops whole days.
CREATE TABLE backbeat.finished_tasks (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    workflow text NOT NULL,
    version integer NOT NULL,
    tier text NOT NULL,
    class text NOT NULL,
    status text NOT NULL CHECK (status IN ('succeeded', 'dead', 'cancelled', 'expired', 'escalated')),
    payload jsonb NOT NULL,
    result jsonb,
    error_class text,
    error text,
    attempts smallint NOT NULL,
    history jsonb NOT NULL,
    calls integer NOT NULL DEFAULT 0,
    input_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    cost_usd numeric,
    agent_id uuid,
    parent_id uuid,
    origin_id uuid NOT NULL,
    workflow_id uuid,
    idempotency_key bytea,
    traceparent text NOT NULL,
    source_at timestamptz,
    created_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    CONSTRAINT dead_says_why CHECK (status <> 'dead' OR error_class IS NOT NULL),
    CONSTRAINT escalated_names_its_workflow CHECK ((status = 'escalated') = (workflow_id IS NOT NULL))
) PARTITION BY RANGE (id);

CREATE VIEW backbeat.tasks AS
SELECT id, tenant, workflow, version, tier, class, status, payload, NULL::jsonb AS result, hold_reason, hold_key, run_after,
       NULL::text AS error_class, history -> -1 ->> 'error' AS error, attempts, history, origin_id, parent_id,
       NULL::uuid AS workflow_id, traceparent, worker, lease, source_at, created_at, NULL::timestamptz AS finished_at,
       NULL::integer AS calls, NULL::numeric AS cost_usd
FROM backbeat.simple_tasks
UNION ALL
SELECT id, tenant, workflow, version, tier, class, status, payload, result, NULL, NULL, NULL,
       error_class, error, attempts, history, origin_id, parent_id,
       workflow_id, traceparent, NULL, NULL, source_at, created_at, finished_at, calls, cost_usd
FROM backbeat.finished_tasks;

CREATE TABLE backbeat.dead_letters (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    workflow text NOT NULL,
    version integer NOT NULL,
    error_class text NOT NULL,
    error text NOT NULL,
    attempts smallint NOT NULL,
    payload jsonb NOT NULL,
    died_at timestamptz NOT NULL
);

CREATE TABLE backbeat.idempotency (
    tenant text NOT NULL,
    key bytea NOT NULL CHECK (octet_length(key) = 32),
    task_id uuid NOT NULL,
    PRIMARY KEY (tenant, key)
);

-- A process that runs tasks or workflows, and the definitions it has loaded ("name@version").
CREATE TABLE backbeat.workers (
    id text PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('cron', 'temporal')),
    loaded text[] NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE backbeat.ticks (
    id uuid PRIMARY KEY,
    worker text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    claimed integer NOT NULL DEFAULT 0,
    settled integer NOT NULL DEFAULT 0
);

CREATE TABLE backbeat.switches (
    name text PRIMARY KEY CHECK (name IN ('all', 'effects')),
    reason text NOT NULL CHECK (reason <> ''),
    thrown_by text NOT NULL,
    thrown_at timestamptz NOT NULL DEFAULT backbeat.now()
);

CREATE FUNCTION backbeat.class_weight(p_class text) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog
RETURN CASE p_class WHEN 'high' THEN 4 WHEN 'normal' THEN 2 ELSE 1 END;

-- Opens days ahead of time, and the days of tasks that still live: a settlement never waits for DDL. A day is made beside
-- the history and attached, which no reader and no settlement blocks. The only way a worker reaches DDL.
CREATE FUNCTION backbeat.maintain_partitions(p_days_ahead integer DEFAULT 14) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
SET lock_timeout = '2s'
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
SELECT backbeat.maintain_partitions();

-- Tells Postgres what some code declares. Idempotent; a changed tier or attempt limit holds for new tasks.
CREATE FUNCTION backbeat.register_definitions(p_runtime text, p_definitions jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = backbeat, pg_temp
AS $$
    INSERT INTO workflows AS w (name, version, runtime, tier, max_attempts)
    SELECT d.name, d.version, p_runtime, d.tier, d.max_attempts
    FROM jsonb_to_recordset(p_definitions) AS d(name text, version integer, tier text, max_attempts smallint)
    ORDER BY d.name, d.version
    ON CONFLICT (name, version) DO UPDATE SET tier = excluded.tier, max_attempts = excluded.max_attempts
    WHERE (w.tier, w.max_attempts) IS DISTINCT FROM (excluded.tier, excluded.max_attempts)
$$;

-- Says that a worker is there and what it has loaded; rows that waited for one of its versions go on.
CREATE FUNCTION backbeat.register_worker(p_worker text, p_kind text, p_definitions jsonb) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- How many more rows of a flow may be ready: what is left of its window, or of its tenant's cap over all flows.
CREATE FUNCTION backbeat.flow_room(p_flow backbeat.flows) RETURNS integer
LANGUAGE sql STABLE
SET search_path = backbeat, pg_temp
RETURN (
    SELECT least(64 - (p_flow).ready, n.max_running - (SELECT sum(f.ready + f.running) FROM backbeat.flows f WHERE f.tenant = n.id))
    FROM backbeat.tenants n WHERE n.id = (p_flow).tenant);

-- Puts rows of one flow into its window, in order. Locks tasks before the flow, so it may find less room than it saw.
CREATE FUNCTION backbeat.promote(p_tenant text, p_tier text, p_class text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
SET plan_cache_mode = force_custom_plan
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

-- Everything that time alone moves, bounded: due rows, expired rows, windows with room, versions nobody has loaded.
CREATE FUNCTION backbeat.sweep(p_limit integer DEFAULT 5000) RETURNS TABLE (due integer, expired integer, promoted integer, unloaded integer)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- Lifts a hold: the rows go to the front of their own flow.
CREATE FUNCTION backbeat.release_held(p_reason text, p_key text, p_limit integer DEFAULT 5000) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- Adds tasks in the caller's own transaction, which should be short: it holds the flow until it commits. One row of answer a payload, in order: the task's id, whether it is new, its status.
-- p_keys are idempotency keys (NULL: none). The same key answers the same task while it lives and after it succeeded or
-- escalated; after it died, was cancelled or expired, a new task takes the key over.
CREATE FUNCTION backbeat.enqueue(
    p_workflow text, p_version integer, p_payloads jsonb[], p_keys bytea[] DEFAULT NULL,
    p_tenant text DEFAULT 'default', p_class text DEFAULT 'normal',
    p_run_after timestamptz DEFAULT NULL, p_expires_at timestamptz DEFAULT NULL, p_source_at timestamptz[] DEFAULT NULL,
    p_traceparent text DEFAULT NULL, p_origin uuid DEFAULT NULL, p_parent uuid DEFAULT NULL
) RETURNS TABLE (ord bigint, task_id uuid, created boolean, status text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- Gives up to p_limit ready rows to a worker, only of definitions it has loaded ("name@version"), tiers in turn. A worker
-- that runs nothing (p_idle) gets a row that must run alone first, and then that one only.
CREATE FUNCTION backbeat.claim(
    p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision, p_idle boolean DEFAULT true
) RETURNS SETOF backbeat.simple_tasks
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
SET plan_cache_mode = force_custom_plan
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

-- Prolongs leases; answers the ids whose lease is no longer the caller's.
CREATE FUNCTION backbeat.heartbeat(p_worker text, p_ids uuid[], p_leases bigint[], p_lease_seconds double precision) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- Takes rows that are ready or running out of their flows, before anything else is done to them, and tells the
-- flow and the estimate what a run really cost. The rows are locked by the caller.
CREATE FUNCTION backbeat.leave_flows(p_ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- Ends locked rows: history, dead letters, and the stored answers of their calls dropped.
-- p_ends: [{id, status, result, error_class, error, workflow_id, entry}].
CREATE FUNCTION backbeat.end_tasks(p_ends jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- What an attempt leaves in its task's history.
CREATE FUNCTION backbeat.history_entry(p_task backbeat.simple_tasks, p_outcome text, p_error_class text, p_error text) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = backbeat, pg_temp
RETURN jsonb_strip_nulls(jsonb_build_object(
    'lease', p_task.lease, 'worker', p_task.worker, 'started_at', p_task.started_at, 'ended_at', backbeat.clock(),
    'outcome', p_outcome, 'error_class', p_error_class, 'error', left(p_error, 2000)));

-- Ends tasks from outside an attempt: expiry, or a cancel, which takes even a running one (the fence then stops its worker).
CREATE FUNCTION backbeat.finish(p_ids uuid[], p_status text, p_error_class text, p_error text) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- Whether what a task of an attempt since p_since is to be held for still stands. If so, nobody lifts it before the caller
-- commits; or the hold would be written just after the one moment that looks for it.
CREATE FUNCTION backbeat.cause_stands(p_reason text, p_key text, p_since timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- Whether an outcome is one of the free releases that are counted: a vendor was asked in vain. Running out of time is not.
CREATE FUNCTION backbeat.uses_patience(p_outcome text, p_reason text) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog
RETURN p_outcome = 'release' AND coalesce(p_reason NOT IN ('out_of_time', 'cut_off'), true);

-- Records how attempts ended. Each row names the lease it holds; a row whose lease is gone changes nothing and is reported back.
-- p_rows: [{id, lease, outcome, result, error_class, error, after, until, reason, key, workflow, input}]
--   outcome  succeed | retry | release | snooze | hold | dead | escalate     after  seconds     until  timestamp
CREATE FUNCTION backbeat.settle(p_rows jsonb) RETURNS TABLE (task_id uuid, accepted boolean, status text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
SET plan_cache_mode = force_custom_plan
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

-- Takes back runs whose lease ran out. The run counts as an attempt, so a task that kills its worker ends in the dead
-- letters; its open calls are presumed spent. p_leases: only these runs.
CREATE FUNCTION backbeat.reap(p_limit integer DEFAULT 100, p_leases bigint[] DEFAULT NULL) RETURNS TABLE (task_id uuid, lease bigint, status text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

CREATE FUNCTION backbeat.start_tick(p_worker text) RETURNS uuid
LANGUAGE sql SECURITY DEFINER
SET search_path = backbeat, pg_temp
AS $$ INSERT INTO ticks (id, worker, started_at) VALUES (uuid7(), p_worker, clock()) RETURNING id $$;

CREATE FUNCTION backbeat.end_tick(p_id uuid, p_claimed integer, p_settled integer) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = backbeat, pg_temp
AS $$ UPDATE ticks SET ended_at = clock(), claimed = p_claimed, settled = p_settled WHERE id = p_id $$;

-- The kill switch: 'all' lets no model call start, 'effects' no effect, anywhere.
CREATE FUNCTION backbeat.throw_switch(p_name text, p_reason text, p_by text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
AS $$
BEGIN
    INSERT INTO switches (name, reason, thrown_by) VALUES (p_name, p_reason, p_by)
    ON CONFLICT (name) DO UPDATE SET reason = excluded.reason, thrown_by = excluded.thrown_by, thrown_at = backbeat.now();
    PERFORM audit(session_user, 'switch.thrown', p_name, jsonb_build_object('reason', p_reason, 'by', p_by));
END
$$;

CREATE FUNCTION backbeat.release_switch(p_name text, p_by text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
AS $$
BEGIN
    DELETE FROM switches WHERE name = p_name;
    RETURN CASE WHEN FOUND THEN audit(session_user, 'switch.released', p_name, jsonb_build_object('by', p_by)) > 0 ELSE false END;
END
$$;

-- Only the doors; what they call inside stays closed.
GRANT EXECUTE ON FUNCTION
    backbeat.register_definitions, backbeat.register_worker, backbeat.enqueue, backbeat.claim, backbeat.heartbeat, backbeat.settle, backbeat.reap, backbeat.sweep,
    backbeat.release_held, backbeat.start_tick, backbeat.end_tick, backbeat.maintain_partitions
TO backbeat_worker;
GRANT EXECUTE ON FUNCTION backbeat.throw_switch, backbeat.release_switch TO backbeat_operator;
