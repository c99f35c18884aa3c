-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- Producers: how tasks come in, from any language, in the producer's own transaction; and for whom: tenants.
--
-- Other services get the role backbeat_producer, which may enqueue and nothing else.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'backbeat_producer') THEN CREATE ROLE backbeat_producer NOLOGIN; END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
GRANT USAGE ON SCHEMA backbeat TO backbeat_producer;

-- The canonical JSON text of a value (RFC 8785), as shared/ids.py writes it. Numbers are doubles and must be below 2^53: beyond
-- that different integers would be one number, and jsonb no longer knows 1e20 from its digits. Refuses what has no such form.
CREATE FUNCTION backbeat.canonical(p_value jsonb, p_depth integer DEFAULT 0) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET extra_float_digits = 1 AS $$
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

-- The key under which equal payloads are one task: sha256 of the canonical [workflow, version, hex sha256 of the payload, salt].
CREATE FUNCTION backbeat.idempotency_key(p_workflow text, p_version integer, p_payload jsonb, p_salt text DEFAULT '') RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN sha256(convert_to(format('[%s,%s,"%s",%s]', to_jsonb(p_workflow), p_version,
    encode(sha256(convert_to(backbeat.canonical(p_payload), 'UTF8')), 'hex'), to_jsonb(p_salt)), 'UTF8'));

-- Adds tasks in the caller's own transaction, which should be short: it holds their flow until it commits. One row of answer a
-- payload, in order: the task's id, whether it is new, its status. Equal payloads with equal salts are one task where the
-- definition says so; p_keys are keys of the caller's own (an element that is NULL: none). A key answers with its task while
-- that lives and after it succeeded or escalated; after it died, was cancelled or expired, a new task takes the key over.
-- While p_version is in a canary, each task takes the one or the other version by its key.
CREATE FUNCTION backbeat.enqueue(p_workflow text, p_version integer, p_payloads jsonb[], p_keys bytea[] DEFAULT NULL, p_tenant text DEFAULT 'default', p_class text
    DEFAULT 'normal', p_run_after timestamptz DEFAULT NULL, p_expires_at timestamptz DEFAULT NULL, p_source_at timestamptz[] DEFAULT NULL, p_traceparent text DEFAULT
    NULL, p_origin uuid DEFAULT NULL, p_parent uuid DEFAULT NULL, p_salt text DEFAULT '') RETURNS TABLE (ord bigint, task_id uuid, created boolean, status text)
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
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

-- Refuses a tenant that nobody made; or makes it, where '*' says that unknown ones are made, like '*' itself.
CREATE FUNCTION backbeat.need_tenant(p_id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM tenants t WHERE t.id = p_id AND t.id <> '*') THEN RETURN; END IF;
    INSERT INTO tenants (id, weight, max_running)
    SELECT p_id, t.weight, t.max_running FROM tenants t WHERE t.id = '*' AND p_id ~ '^(?=.*\S)[^[:cntrl:]]{1,200}$'
    ON CONFLICT DO NOTHING;
    IF p_id = '*' OR NOT EXISTS (SELECT FROM tenants t WHERE t.id = p_id) THEN
        RAISE EXCEPTION 'tenant % does not exist', p_id USING ERRCODE = 'BB001', HINT = '`backbeat tenant set` makes one, `backbeat tenant unknown create` all';
    END IF;
END $$;

-- Makes a tenant or changes what is not NULL; a cap of 0 is none. What is queued already keeps its place.
CREATE FUNCTION backbeat.set_tenant(p_id text, p_weight double precision, p_max_running integer, p_by text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF NOT coalesce(p_weight BETWEEN 0.001 AND 1000, true) OR p_max_running < 0 OR p_id !~ '^(?=.*\S)[^[:cntrl:]]{1,200}$' THEN
        RAISE EXCEPTION 'a tenant has a name, a weight from 0.001 to 1000 and a cap of 0 or more' USING ERRCODE = 'BB003';
    END IF;
    INSERT INTO tenants AS t (id, weight, max_running) VALUES (p_id, coalesce(p_weight, 1), nullif(p_max_running, 0))
    ON CONFLICT (id) DO UPDATE SET weight = coalesce(p_weight, t.weight),
        max_running = CASE WHEN p_max_running IS NULL THEN t.max_running ELSE nullif(p_max_running, 0) END;
    PERFORM audit(session_user, 'tenant.set', p_id, jsonb_build_object('by', p_by, 'weight', p_weight, 'max_running', p_max_running));
END $$;

-- From now on a tenant that nobody made is refused again.
CREATE FUNCTION backbeat.refuse_unknown_tenants(p_by text) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
    DELETE FROM tenants WHERE id = '*';
    SELECT FROM audit(session_user, 'tenant.refuse_unknown', '*', jsonb_build_object('by', p_by)); $$;

GRANT EXECUTE ON FUNCTION backbeat.canonical, backbeat.idempotency_key, backbeat.enqueue TO backbeat_producer, backbeat_worker;
GRANT EXECUTE ON FUNCTION backbeat.set_tenant, backbeat.refuse_unknown_tenants TO backbeat_operator;

CALL backbeat.pin_functions();
