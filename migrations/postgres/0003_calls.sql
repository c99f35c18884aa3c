-- migrate:up

-- Model calls and the money they spend.
--
-- One row of model_calls is reservation, in-flight marker, bill and resume memo:  open  before the bytes leave,
-- done  before the answer is used,  refused  when the vendor provably did no work,  lost  when nobody can know.
-- A lost call is presumed spent at its full reservation until its worker, or a person, says better.
-- (owner, call_key) names a call; seq counts how often it had to be sent, so that no bill is ever overwritten.
--
-- A hard cap bounds  spent + presumed + reserved.  Amounts are exact decimals in USD; a call whose price is
-- unknown has NULL, never 0, and no USD cap lets it through. A call is charged to the UTC day it was reserved.

CREATE TABLE backbeat.budget_caps (
    scope text NOT NULL CHECK (scope IN ('workflow', 'tenant')),
    key text NOT NULL,
    usd numeric CHECK (usd >= 0),
    tokens bigint CHECK (tokens >= 0),
    set_by text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT backbeat.now(),
    PRIMARY KEY (scope, key)
);

-- One row a scope and UTC day: the cap in force that day and what went against it. Also the daily usage record.
CREATE TABLE backbeat.budgets (
    scope text NOT NULL CHECK (scope IN ('workflow', 'tenant')),
    key text NOT NULL,
    day date NOT NULL,
    cap_usd numeric,
    cap_tokens bigint,
    reserved_usd numeric NOT NULL DEFAULT 0 CHECK (reserved_usd >= 0),
    spent_usd numeric NOT NULL DEFAULT 0 CHECK (spent_usd >= 0),
    presumed_usd numeric NOT NULL DEFAULT 0 CHECK (presumed_usd >= 0),
    overrun_usd numeric NOT NULL DEFAULT 0 CHECK (overrun_usd >= 0),
    reserved_tokens bigint NOT NULL DEFAULT 0 CHECK (reserved_tokens >= 0),
    spent_tokens bigint NOT NULL DEFAULT 0 CHECK (spent_tokens >= 0),
    presumed_tokens bigint NOT NULL DEFAULT 0 CHECK (presumed_tokens >= 0),
    calls bigint NOT NULL DEFAULT 0,
    unpriced_calls bigint NOT NULL DEFAULT 0,
    raised_by text,
    PRIMARY KEY (scope, key, day)
) WITH (fillfactor = 50);

CREATE TABLE backbeat.model_calls (
    owner uuid NOT NULL,
    call_key text NOT NULL CHECK (call_key <> ''),
    seq smallint NOT NULL CHECK (seq > 0),
    owner_kind text NOT NULL CHECK (owner_kind IN ('task', 'workflow')),
    status text NOT NULL CHECK (status IN ('open', 'done', 'lost', 'refused')),
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
    reserved_usd numeric CHECK (reserved_usd >= 0),
    reserved_tokens bigint NOT NULL CHECK (reserved_tokens >= 0),
    price_version text NOT NULL,
    cost_usd numeric CHECK (cost_usd >= 0),
    uncached integer, cache_read integer, cache_write integer, output integer, reasoning integer,
    response jsonb,
    valid boolean,
    stop text,
    model_answered text,
    response_id text,
    error_class text,
    error text,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz,
    PRIMARY KEY (owner, call_key, seq),
    CONSTRAINT closed_says_when CHECK ((status = 'open') = (closed_at IS NULL)),
    CONSTRAINT done_says_usage CHECK (status <> 'done' OR (uncached IS NOT NULL AND output IS NOT NULL))
);
CREATE UNIQUE INDEX model_calls_open ON backbeat.model_calls (owner, call_key) WHERE status = 'open';
CREATE INDEX model_calls_recent ON backbeat.model_calls (closed_at) WHERE status = 'done';
CREATE INDEX model_calls_lost ON backbeat.model_calls (day) WHERE status = 'lost';

-- What one attempt cost in the unit of fairness: a thousand tokens, plus one for the task itself.
CREATE FUNCTION backbeat.attempt_cost(p_owner uuid, p_lease bigint) RETURNS double precision
LANGUAGE sql STABLE
SET search_path = backbeat, pg_temp
RETURN (
    SELECT 1 + coalesce(sum(c.uncached + c.cache_read + c.cache_write + c.output), 0) / 1000.0
    FROM backbeat.model_calls c WHERE c.owner = p_owner AND c.lease = p_lease);

-- Everything an owner's calls consumed; the cost is NULL as soon as one price is unknown.
CREATE FUNCTION backbeat.owner_bill(p_owner uuid, OUT calls integer, OUT input_tokens bigint, OUT output_tokens bigint, OUT cost_usd numeric)
LANGUAGE sql STABLE
SET search_path = backbeat, pg_temp
AS $$
    SELECT count(*)::integer, coalesce(sum(c.uncached + c.cache_read + c.cache_write), 0), coalesce(sum(c.output), 0),
           CASE WHEN bool_or(c.cost_usd IS NULL) THEN NULL ELSE coalesce(sum(c.cost_usd), 0) END
    FROM model_calls c WHERE c.owner = p_owner AND c.status = 'done'
$$;

-- Locks the day's rows of a call's scopes, in order, making them first where this is the day's first call.
CREATE FUNCTION backbeat.lock_budgets(p_workflow text, p_tenant text, p_day date) RETURNS SETOF backbeat.budgets
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- Asks leave to send one model call. The verdict is one of
--   open     reserved; send it, then close_call(owner, key, seq, …)
--   memo     this very request was answered before: response holds the answer
--   held     the money of the day is used up (detail: scope/key), until the next UTC day or a raised cap
--   snooze   only reservations of calls in flight are in the way: look again in a moment
--   unpriced a USD cap stands and the route has no known price (detail: scope/key)
--   stopped  the kill switch is thrown (detail: its reason)
--   fenced   the task is no longer the caller's
CREATE FUNCTION backbeat.open_call(
    p_owner uuid, p_lease bigint, p_key text, p_request_hash text, p_route text, p_tier text, p_provider text, p_model text,
    p_reserve_usd numeric, p_reserve_tokens bigint, p_price_version text
) RETURNS TABLE (verdict text, seq smallint, response jsonb, detail text, until timestamptz)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- Moves money when calls change state. p_calls are the rows as they were; p_status is what they become.
CREATE FUNCTION backbeat.book(p_calls backbeat.model_calls[], p_status text, p_cost numeric, p_tokens bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- Writes how a call ended, before its answer is used. No lease is asked: the bill is real even when the task is somebody
-- else's by now. A call once done or refused does not change again; true when this wrote it.
CREATE FUNCTION backbeat.close_call(
    p_owner uuid, p_key text, p_seq smallint, p_status text, p_usage jsonb DEFAULT NULL, p_cost numeric DEFAULT NULL,
    p_response jsonb DEFAULT NULL, p_valid boolean DEFAULT NULL, p_stop text DEFAULT NULL, p_model_answered text DEFAULT NULL,
    p_response_id text DEFAULT NULL, p_error_class text DEFAULT NULL, p_error text DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- The open calls of these owners (of one key, if it is given) have no worker any more: presumed spent.
CREATE FUNCTION backbeat.lose_calls(p_owners uuid[], p_key text DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

-- Sets a cap for today and from now on. The rows that waited for it go on; those it still does not suffice are held again.
CREATE FUNCTION backbeat.set_budget(p_scope text, p_key text, p_usd numeric, p_tokens bigint, p_by text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
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

GRANT EXECUTE ON FUNCTION backbeat.open_call, backbeat.close_call, backbeat.owner_bill TO backbeat_worker;
GRANT EXECUTE ON FUNCTION backbeat.set_budget TO backbeat_operator;
