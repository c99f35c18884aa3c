-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- The queue.
--
-- A task lives in simple_tasks and moves  pending -> ready -> running,  with  delayed  (due later) and
-- held  (waiting for something to be lifted) on the side. When it ends, its row leaves for finished_tasks
-- in the same transaction, so live rows stay few and a claim costs the same on day 1 and on day 1000.
--
-- Fairness. Rows of one (tenant, tier, class) are a flow. A flow keeps at most a window of rows `ready`;
-- each gets a virtual start time when it is promoted: max(V, the flow's clock) + estimated cost / weight.
-- A claim walks (tier, vstart, id). Settling adds (actual - estimated cost) / weight to the flow's clock,
-- so a flow that turns out dear waits longer next time. V of a tier only rises: to the start of what was claimed last, and with
-- a sweep to its floor, the first that is ready. The unit of cost is one thousand tokens, plus one for the task itself.
--
-- Fences. Every claim takes a new lease from one sequence; whoever writes later must name it.
--
-- Lock order, everywhere: tasks (by id) -> tenants with a cap (by id) -> flows (by key) -> estimates -> model_calls -> budgets (by key) -> virtual_time.

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
    -- How many rows one call of its handler takes; NULL: a row an attempt.
    bulk integer CHECK (bulk BETWEEN 1 AND 10000),
    -- Rows that are handled by the batch wait in a lane of their own: nobody who wants single rows walks over them.
    lane text NOT NULL GENERATED ALWAYS AS (CASE WHEN bulk IS NULL THEN tier ELSE 'bulk/' || tier END) STORED,
    history text NOT NULL DEFAULT 'full' CHECK (history IN ('full', 'failures', 'none')),
    trace text NOT NULL DEFAULT 'task' CHECK (trace IN ('task', 'batch')),
    idempotency boolean NOT NULL DEFAULT true,
    max_usd numeric CHECK (max_usd > 0),
    max_tokens bigint CHECK (max_tokens > 0),
    registered_at timestamptz NOT NULL DEFAULT backbeat.now(),
    -- When a worker last said that it has it loaded.
    seen_at timestamptz,
    PRIMARY KEY (name, version)
);

-- What nobody may start: the rows of a tenant wait in its flows, those of a workflow are parked as they come up, those whose
-- call would take a route as they ask for it.
CREATE TABLE backbeat.pauses (
    scope text NOT NULL CHECK (scope IN ('tenant', 'workflow', 'route')),
    key text NOT NULL CHECK (key <> ''),
    reason text NOT NULL CHECK (reason <> ''),
    paused_by text NOT NULL, paused_at timestamptz NOT NULL,
    PRIMARY KEY (scope, key)
);

-- What a task of a definition has cost lately; learned at settlement.
CREATE TABLE backbeat.estimates (
    workflow text NOT NULL, version integer NOT NULL,
    cost double precision NOT NULL CHECK (cost > 0),
    PRIMARY KEY (workflow, version)
);

CREATE TABLE backbeat.flows (
    tenant text NOT NULL, tier text NOT NULL,
    class text NOT NULL CHECK (class IN ('urgent', 'high', 'normal', 'low')),
    last_v double precision NOT NULL DEFAULT 0,
    ready integer NOT NULL DEFAULT 0 CHECK (ready >= 0),
    running integer NOT NULL DEFAULT 0 CHECK (running >= 0),
    PRIMARY KEY (tenant, tier, class)
-- Room for the versions that a reader's old snapshot keeps: each one that must move costs every later look at its flow a page.
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE backbeat.virtual_time (
    tier text PRIMARY KEY,
    v double precision NOT NULL DEFAULT 0,
    -- Up to it no row was ready at the last sweep: a claim does not walk over what left before, and no row is placed there.
    floor double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE backbeat.simple_tasks (
    id uuid PRIMARY KEY,
    tenant text NOT NULL, workflow text NOT NULL, version integer NOT NULL, tier text NOT NULL,
    class text NOT NULL CHECK (class IN ('urgent', 'high', 'normal', 'low')),
    payload jsonb NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'ready', 'running', 'delayed', 'held')),
    -- 0: to the front of its own flow (retries, due rows, released holds); 1: in order of arrival.
    rank smallint NOT NULL DEFAULT 1 CHECK (rank IN (0, 1)),
    hold_reason text CHECK (hold_reason IN ('budget', 'version', 'route', 'effect', 'price', 'paused', 'batch')),
    hold_key text, run_after timestamptz, expires_at timestamptz, source_at timestamptz,
    vstart double precision,
    estimate double precision,
    attempts smallint NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    max_attempts smallint NOT NULL,
    -- Runs given back unbilled; bounded, or a vendor that is away for ever would be asked for ever.
    releases smallint NOT NULL DEFAULT 0,
    history jsonb NOT NULL DEFAULT '[]',
    -- Its worker was lost and one attempt is left: that runs with no other task in its process, lest it kill those too.
    alone boolean NOT NULL DEFAULT false,
    lease bigint, lease_until timestamptz, worker text, started_at timestamptz, agent_id uuid, parent_id uuid,
    origin_id uuid NOT NULL,
    -- Of a requeued dead letter: the task it was at first, whose effects are not repeated.
    first_id uuid,
    idempotency_key bytea,
    -- Made by enqueue alone; a CHECK of its whole form would be paid at every move of the row.
    traceparent text NOT NULL CHECK (length(traceparent) = 55),
    created_at timestamptz NOT NULL,
    CONSTRAINT held_says_why CHECK ((status = 'held') = (hold_reason IS NOT NULL AND hold_key IS NOT NULL)),
    CONSTRAINT delayed_says_when CHECK (status <> 'delayed' OR run_after IS NOT NULL),
    CONSTRAINT ready_has_a_place CHECK ((status IN ('ready', 'running')) = (vstart IS NOT NULL AND estimate IS NOT NULL)),
    CONSTRAINT running_has_a_lease CHECK (
        (status = 'running') = (lease_until IS NOT NULL AND worker IS NOT NULL AND started_at IS NOT NULL)
        AND (status <> 'running' OR lease IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX simple_tasks_ready ON backbeat.simple_tasks (tier, vstart, id) WHERE status = 'ready';
CREATE INDEX simple_tasks_urgent ON backbeat.simple_tasks (vstart, id) WHERE status = 'ready' AND class = 'urgent';
CREATE INDEX simple_tasks_alone ON backbeat.simple_tasks (tier, id) WHERE alone AND status IN ('pending', 'ready');
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
    tenant text NOT NULL, workflow text NOT NULL, version integer NOT NULL, tier text NOT NULL, class text NOT NULL,
    status text NOT NULL CHECK (status IN ('succeeded', 'dead', 'cancelled', 'expired', 'escalated')),
    payload jsonb NOT NULL, result jsonb, error_class text, error text, attempts smallint NOT NULL, history jsonb NOT NULL,
    calls integer NOT NULL DEFAULT 0, input_tokens bigint NOT NULL DEFAULT 0, output_tokens bigint NOT NULL DEFAULT 0,
    cost_usd numeric, agent_id uuid, parent_id uuid, origin_id uuid NOT NULL, workflow_id uuid, idempotency_key bytea,
    traceparent text NOT NULL, source_at timestamptz, created_at timestamptz NOT NULL, finished_at timestamptz NOT NULL,
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
    tenant text NOT NULL, workflow text NOT NULL, version integer NOT NULL, error_class text NOT NULL, error text NOT NULL,
    attempts smallint NOT NULL, payload jsonb, died_at timestamptz NOT NULL,
    -- What a requeue needs when the history has been dropped.
    class text NOT NULL,
    origin_id uuid NOT NULL, idempotency_key bytea, traceparent text NOT NULL, source_at timestamptz, first_id uuid,
    requeued_as uuid UNIQUE,
    resolved_at timestamptz, resolved_by text, reason text,
    CONSTRAINT resolved_says_who_and_why CHECK (num_nulls(resolved_at, resolved_by, reason) IN (0, 3)),
    CONSTRAINT only_open_ones_have_a_payload CHECK ((payload IS NULL) = (resolved_at IS NOT NULL)),
    CONSTRAINT requeued_is_resolved CHECK (requeued_as IS NULL OR resolved_at IS NOT NULL)
);
CREATE INDEX dead_letters_open ON backbeat.dead_letters (id) WHERE resolved_at IS NULL;

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
    loaded text[] NOT NULL, started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE backbeat.ticks (
    id uuid PRIMARY KEY,
    worker text NOT NULL, started_at timestamptz NOT NULL, ended_at timestamptz, claimed integer NOT NULL DEFAULT 0,
    settled integer NOT NULL DEFAULT 0
);

CREATE TABLE backbeat.switches (
    name text PRIMARY KEY CHECK (name IN ('all', 'effects')),
    reason text NOT NULL CHECK (reason <> ''),
    thrown_by text NOT NULL,
    thrown_at timestamptz NOT NULL DEFAULT backbeat.now()
);

-- How an attempt ended, as its worker tells it.
--   outcome  succeed | retry | release | snooze | hold | dead | escalate | fan_out
--   after    seconds       children  [{workflow, version, payload}], which go on where this task ends
CREATE TYPE backbeat.ending AS (
    id uuid, lease bigint, outcome text, result jsonb, error_class text, error text, after double precision, until timestamptz,
    reason text, key text, workflow text, input jsonb, children jsonb);

-- How a task leaves simple_tasks.
CREATE TYPE backbeat.departure AS (id uuid, status text, result jsonb, error_class text, error text, workflow_id uuid, entry jsonb);

-- Without SET and SECURITY DEFINER, so that the planner can write it out where it is used, once a row; so with others below.
CREATE FUNCTION backbeat.class_weight(p_class text) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE p_class WHEN 'urgent' THEN 4 WHEN 'high' THEN 4 WHEN 'normal' THEN 2 ELSE 1 END;

-- Opens days ahead of time, and the days of tasks that still live: a settlement never waits for DDL. A day is made beside
-- the history and attached, which no reader and no settlement blocks. The only way a worker reaches DDL.
CREATE FUNCTION backbeat.maintain_partitions(p_days_ahead integer DEFAULT 14) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '2s' AS $$
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
SELECT backbeat.maintain_partitions();

-- Tells Postgres what some code declares. Idempotent; what changed holds for new tasks.
CREATE FUNCTION backbeat.register_definitions(p_runtime text, p_definitions jsonb) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
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

-- Says that a worker is there and what it has loaded; rows that waited for one of its versions go on.
CREATE FUNCTION backbeat.register_worker(p_worker text, p_kind text, p_definitions jsonb) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS $$
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

-- How many more rows of each flow may be ready (of a bulk lane, running): what is left of its window, or of its tenant's cap
-- over all flows. A view, for the planner never writes out a function that looks into a table.
CREATE VIEW backbeat.flow_rooms AS
SELECT f.*, f AS flow, CASE WHEN p.key IS NULL THEN greatest(0, least(CASE WHEN f.tier LIKE 'bulk/%' THEN 10000 ELSE 64 - f.ready END, CASE WHEN n.max_running IS NOT NULL THEN
    n.max_running - (SELECT sum(g.ready + g.running) FROM backbeat.flows g WHERE g.tenant = n.id) END))::integer ELSE 0 END AS room
FROM backbeat.flows f JOIN backbeat.tenants n ON n.id = f.tenant LEFT JOIN backbeat.pauses p ON (p.scope, p.key) = ('tenant', f.tenant);

-- Locks the flows of these tasks, those of their children (workflow@version) and others, in order, and so before any of them is changed;
-- before that their tenants with a cap: what such a tenant has in all its flows only grows under that lock.
CREATE FUNCTION backbeat.lock_flows(p_ids uuid[], p_children text[] DEFAULT NULL, p_flows backbeat.flows[] DEFAULT NULL) RETURNS SETOF backbeat.flows LANGUAGE sql AS $$
    WITH own AS (
        SELECT t.tenant, t.tier, t.class FROM simple_tasks t WHERE t.id = ANY (p_ids) UNION SELECT k.tenant, k.tier, k.class FROM unnest(p_flows) k
    ), wanted AS (
        SELECT * FROM own
        UNION SELECT o.tenant, w.lane, o.class FROM own o JOIN workflows w ON w.name || '@' || w.version = ANY (p_children)
    ), capped AS MATERIALIZED (
        SELECT n.id FROM tenants n WHERE n.max_running IS NOT NULL AND n.id IN (SELECT o.tenant FROM own o) ORDER BY n.id FOR UPDATE
    )
    SELECT f.* FROM flows f JOIN wanted USING (tenant, tier, class) WHERE (SELECT count(*) FROM capped) >= 0 ORDER BY f.tenant, f.tier, f.class FOR UPDATE OF f $$;

-- Puts rows of these flows into their windows, in order. Locks tasks before flows, so it may find less room than it saw.
CREATE FUNCTION backbeat.promote(p_flows backbeat.flows[]) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
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

-- Everything that time alone moves, bounded: due rows, expired rows, windows with room, versions nobody has loaded.
CREATE FUNCTION backbeat.sweep(p_limit integer DEFAULT 5000) RETURNS TABLE (due integer, expired integer, promoted integer, unloaded integer)
LANGUAGE plpgsql SECURITY DEFINER AS $$
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

-- Lifts a hold: the rows go to the front of their own flow.
CREATE FUNCTION backbeat.release_held(p_reason text, p_key text, p_limit integer DEFAULT 5000) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS $$
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

-- What a worker may start of what it has loaded.
CREATE FUNCTION backbeat.startable(p_loaded text[]) RETURNS text[] LANGUAGE sql STABLE
RETURN ARRAY(
    SELECT l.name FROM unnest(p_loaded) AS l(name)
    WHERE NOT EXISTS (SELECT FROM backbeat.pauses p WHERE p.scope = 'workflow' AND p.key = split_part(l.name, '@', 1)));

-- Gives up to p_limit ready rows to a worker, only of definitions it has loaded ("name@version"), tiers in turn. A worker that runs nothing (p_idle) gets a row that must run alone first, and then that one only.
-- A quarter of a claim, on average where it is small, goes to urgent rows before all others.
CREATE FUNCTION backbeat.claim(p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision, p_idle boolean DEFAULT true) RETURNS SETOF
    backbeat.simple_tasks LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
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

-- Gives up to p_limit rows of the bulk lanes to a worker. Such rows are cheap and many, so none is made ready first: the flow
-- whose clock is least gives as many as it has, then the next. A row that must run alone comes alone, to a worker that runs
-- nothing. One claim in four begins with the urgent. Unless p_patient, a row is left where somebody else is at its flow: the
-- caller holds flows already, and must not wait for more.
CREATE FUNCTION backbeat.claim_bulk(p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision, p_idle boolean DEFAULT true, p_patient boolean
    DEFAULT true) RETURNS SETOF backbeat.simple_tasks LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
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

-- Prolongs leases; answers the ids whose lease is no longer the caller's.
CREATE FUNCTION backbeat.heartbeat(p_worker text, p_ids uuid[], p_leases bigint[], p_lease_seconds double precision) RETURNS SETOF uuid
LANGUAGE sql SECURITY DEFINER AS $$
    UPDATE workers SET seen_at = backbeat.now() WHERE id = p_worker;
    WITH mine AS (
        SELECT t.id FROM simple_tasks t JOIN unnest(p_ids, p_leases) AS m(id, lease) ON t.id = m.id AND t.lease = m.lease
        WHERE t.status = 'running' ORDER BY t.id FOR NO KEY UPDATE OF t
    ), kept AS (
        UPDATE simple_tasks t SET lease_until = clock() + make_interval(secs => p_lease_seconds)
        FROM mine WHERE t.id = mine.id RETURNING t.id
    )
    SELECT m.id FROM unnest(p_ids) AS m(id) WHERE m.id NOT IN (SELECT k.id FROM kept k) $$;

-- Takes rows that are ready or running out of their flows, before anything else is done to them, and tells the
-- flow and the estimate what a run really cost. The rows and their flows are locked by the caller.
CREATE FUNCTION backbeat.leave_flows(p_ids uuid[]) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
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

-- Ends locked rows: history, dead letters, and the stored answers of their calls dropped; a dead one keeps them, for it may be
-- asked to go on.
CREATE FUNCTION backbeat.end_tasks(p_departures backbeat.departure[]) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
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

-- What an attempt leaves in its task's history.
CREATE FUNCTION backbeat.history_entry(p_task backbeat.simple_tasks, p_outcome text, p_error_class text, p_error text) RETURNS jsonb LANGUAGE sql VOLATILE
RETURN jsonb_strip_nulls(jsonb_build_object(
    'lease', (p_task).lease, 'worker', (p_task).worker, 'started_at', (p_task).started_at, 'ended_at', backbeat.clock(),
    'outcome', p_outcome, 'error_class', p_error_class, 'error', left(p_error, 2000)));

-- Ends tasks from outside an attempt: expiry, or a cancel, which takes even a running one (the fence then stops its worker).
CREATE FUNCTION backbeat.finish(p_ids uuid[], p_status text, p_error_class text, p_error text) RETURNS SETOF uuid LANGUAGE plpgsql SECURITY DEFINER AS $$
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

-- Whether what a task of an attempt since p_since is to be held for still stands. If so, nobody lifts it before the caller
-- commits; or the hold would be written just after the one moment that looks for it.
CREATE FUNCTION backbeat.cause_stands(p_reason text, p_key text, p_since timestamptz) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
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

-- Whether an outcome is one of the free releases that are counted: a vendor was asked in vain. Running out of time is not.
CREATE FUNCTION backbeat.uses_patience(p_outcome text, p_reason text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_outcome = 'release' AND coalesce(p_reason NOT IN ('out_of_time', 'cut_off', 'rate'), true);

-- Records how attempts ended, given as a JSON array of `ending`. Each names the lease it holds; one whose lease is gone
-- changes nothing, and its task is reported back.
CREATE FUNCTION backbeat.settle(p_rows jsonb) RETURNS SETOF uuid LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
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

-- The tasks that a task leaves behind: they carry on its origin, in its tenant and class.
CREATE FUNCTION backbeat.fan_out(p_end backbeat.ending) RETURNS void LANGUAGE plpgsql AS $$
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

-- Settles and claims in one transaction: how a worker of bulk rows spends its day. Answers what it claimed, and before that
-- the ids that were refused, as rows of status `refused`.
CREATE FUNCTION backbeat.turn(p_rows jsonb, p_worker text, p_loaded text[], p_limit integer, p_lease_seconds double precision) RETURNS SETOF backbeat.simple_tasks
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN QUERY SELECT (jsonb_populate_record(NULL::simple_tasks, jsonb_build_object('id', s.id, 'status', 'refused'))).* FROM settle(p_rows) AS s(id);
    RETURN QUERY SELECT * FROM claim_bulk(p_worker, p_loaded, p_limit, p_lease_seconds, p_idle => false, p_patient => false);
END $$;

-- Takes back runs whose lease ran out. The run counts as an attempt, so a task that kills its worker ends in the dead
-- letters; its open calls are presumed spent. p_leases: only these runs.
CREATE FUNCTION backbeat.reap(p_limit integer DEFAULT 100, p_leases bigint[] DEFAULT NULL) RETURNS TABLE (task_id uuid, lease bigint, status text)
LANGUAGE plpgsql SECURITY DEFINER AS $$
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

CREATE FUNCTION backbeat.start_tick(p_worker text) RETURNS uuid LANGUAGE sql SECURITY DEFINER AS $$ INSERT INTO ticks (id, worker, started_at) VALUES (uuid7(), p_worker, clock()) RETURNING id $$;

CREATE FUNCTION backbeat.end_tick(p_id uuid, p_claimed integer, p_settled integer) RETURNS void
LANGUAGE sql SECURITY DEFINER AS $$ UPDATE ticks SET ended_at = clock(), claimed = p_claimed, settled = p_settled WHERE id = p_id $$;

-- Only the doors; what they call inside stays closed.
GRANT EXECUTE ON FUNCTION backbeat.register_definitions, backbeat.register_worker, backbeat.claim, backbeat.claim_bulk, backbeat.heartbeat, backbeat.settle, backbeat.turn,
    backbeat.reap, backbeat.sweep, backbeat.release_held, backbeat.start_tick, backbeat.end_tick, backbeat.maintain_partitions TO backbeat_worker;

CALL backbeat.pin_functions();
