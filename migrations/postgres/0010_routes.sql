-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- Routes: what is said about them without a deploy, and the rate of each, which all processes share.
--
-- A rate is a generic cell rate algorithm with three clocks: requests, input tokens, output tokens. Each clock stands at the
-- moment until which the route is given away; who asks gets the next moment and waits for it. So starts come evenly spread,
-- and no window of a period holds more than the limit: 7 % of it pay for the burst after a pause and for the way to the vendor.
-- What a dead process was given passes by itself, and what it had in flight is forgotten when it stops saying so.

-- Over the routes file. Of a tier: {routes: [name, …], canary: name, percent: 10}; of a route: the keys that differ.
CREATE TABLE backbeat.llm_routes (
    scope text NOT NULL CHECK (scope IN ('tier', 'route')), key text NOT NULL CHECK (key <> ''),
    body jsonb NOT NULL CHECK (jsonb_typeof(body) = 'object'), set_by text NOT NULL, set_at timestamptz NOT NULL,
    PRIMARY KEY (scope, key)
);

-- given: seconds since the epoch. told: limits of a period that the vendor's headers name. share: how much of the most a call
-- can take calls do take, learned. A 429 shrinks the rate; it grows back by itself. Where nobody has named a limit of requests,
-- it sets the pace: requests a period, 0.7 of those before it, doubled every period since. running: worker -> [calls, until].
CREATE TABLE backbeat.llm_rate (
    route text PRIMARY KEY,
    period double precision NOT NULL DEFAULT 60 CHECK (period > 0),
    given double precision[] NOT NULL DEFAULT '{0,0,0}', told double precision[] NOT NULL DEFAULT '{NULL,NULL,NULL}',
    share double precision[] NOT NULL DEFAULT '{1,0.33,0.5}',
    shrink double precision NOT NULL DEFAULT 1 CHECK (shrink > 0), shrunk_at timestamptz NOT NULL DEFAULT '-infinity', pace double precision,
    blocked_until timestamptz, blocked_by text, running jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 40);

-- What the vendor's cache was expected to do for a call: warm, first, changed, expired, short, off; and of which prefix.
ALTER TABLE backbeat.model_calls ADD prefix text, ADD cache text;

-- What is left of a rate after 429s: back from 0.7 to all of it in a minute.
CREATE FUNCTION backbeat.shrunk(p_rate backbeat.llm_rate) RETURNS double precision LANGUAGE sql STABLE
RETURN least(1, (p_rate).shrink + CASE WHEN isfinite((p_rate).shrunk_at) THEN extract(epoch FROM backbeat.now() - (p_rate).shrunk_at) * 0.3 / (p_rate).period ELSE 1 END);

-- Gives calls their moments: [{owner, call_key, request_hash, input, output, patience}], the tokens being the most they can take,
-- patience the seconds they will wait. p_limits: requests, input and output tokens a period; p_most: calls in flight; NULL is no
-- limit. p_news is what the worker has to tell: {running, back: [r, i, o], told: [r, i, o], seen: [calls, input share, output share]}.
-- One row of answer a call, n its place, with what it was charged. The verdict is one of
--   go       send it in  wait  seconds
--   memo     it was answered before and needs no moment
--   late     the next moment is  wait  seconds away, which is beyond its patience
--   blocked  nobody may send for  wait  seconds
--   full     as many calls are in flight as may be
CREATE FUNCTION backbeat.admit(p_worker text, p_route text, p_limits double precision[], p_most integer, p_news jsonb, p_asks jsonb) RETURNS TABLE (n bigint, verdict
    text, wait double precision, charged double precision[]) LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
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

-- A vendor said no: nobody sends for p_seconds (NULL: a person lifts that). The rate shrinks once for what many hear at a time.
-- False when the same had shut the route already: of a fault of the route's own one caller is told, and is the dead letter.
CREATE FUNCTION backbeat.block_route(p_route text, p_seconds double precision, p_why text, p_shrink boolean, OUT first boolean) LANGUAGE plpgsql SECURITY DEFINER AS $$
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

-- What a person says about a tier or a route; NULL takes it back.
CREATE FUNCTION backbeat.set_route(p_scope text, p_key text, p_body jsonb, p_by text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE v_before jsonb := (SELECT l.body FROM llm_routes l WHERE (l.scope, l.key) = (p_scope, p_key));
BEGIN
    DELETE FROM llm_routes l WHERE (l.scope, l.key) = (p_scope, p_key);
    INSERT INTO llm_routes SELECT p_scope, p_key, p_body, p_by, clock() WHERE p_body IS NOT NULL;
    PERFORM audit(session_user, 'route.set', p_scope || '/' || p_key, jsonb_build_object('by', p_by, 'before', v_before, 'after', p_body));
    RETURN v_before IS NOT NULL;
END $$;

-- Of the tasks that come in for a version of a definition, or for the one before it, so many percent take the newer one and the
-- others the older, whichever of the two producers name: 0 is rolling back. NULL: as they say again.
ALTER TABLE backbeat.workflows ADD canary integer CHECK (canary BETWEEN 0 AND 100), ADD stable integer;
CREATE FUNCTION backbeat.set_canary(p_name text, p_version integer, p_percent integer, p_by text) RETURNS SETOF bigint LANGUAGE sql SECURITY DEFINER AS $$
    WITH older AS (SELECT max(o.version) AS version FROM workflows w JOIN workflows o USING (name, runtime, lane)
        WHERE (name, w.version, runtime) = (p_name, p_version, 'cron') AND o.version < w.version
    ), said AS (UPDATE workflows w SET canary = CASE WHEN w.version = p_version THEN p_percent END, stable = o.version FROM older o
        WHERE w.name = p_name AND (w.canary IS NOT NULL OR w.version = p_version) AND (p_version IS NULL OR o.version IS NOT NULL) RETURNING 1)
    SELECT audit(session_user, 'workflow.canary', p_name, jsonb_build_object('by', p_by, 'version', p_version, 'percent', p_percent)) FROM said LIMIT 1 $$;

GRANT EXECUTE ON FUNCTION backbeat.admit, backbeat.block_route, backbeat.shrunk TO backbeat_worker;
GRANT EXECUTE ON FUNCTION backbeat.set_route, backbeat.block_route, backbeat.shrunk, backbeat.set_canary TO backbeat_operator;

CALL backbeat.pin_functions();
