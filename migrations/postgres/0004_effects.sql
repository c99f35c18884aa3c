-- migrate:up

-- The ledger of side effects: what Backbeat does to the world outside, once.
--
-- A row says  intended  before the far write,  done  with its outcome after it, and  unknown  when its writer
-- did not come back. An unknown effect is never simply fired again: somebody looks at the far side first (a
-- read-back, or a person), and only "it is certainly not there" makes it  intended  again.
--
-- token fences writers. fire_until is when the far write has ended or was abandoned, so a read-back before
-- then proves nothing and has to wait; NULL when the effect was given back, since it certainly did not happen.
-- Lock order: tasks -> approval -> side_effects.

CREATE TABLE backbeat.side_effects (
    key text PRIMARY KEY CHECK (key <> ''),
    kind text NOT NULL,
    status text NOT NULL CHECK (status IN ('intended', 'done', 'unknown')),
    owner_kind text NOT NULL CHECK (owner_kind IN ('task', 'workflow')),
    owner uuid NOT NULL,
    origin_id uuid NOT NULL,
    approval_id uuid,
    request jsonb NOT NULL,
    request_hash text NOT NULL,
    outcome jsonb,
    error text,
    token bigint NOT NULL,
    fires integer NOT NULL DEFAULT 1,
    fire_until timestamptz,
    traceparent text NOT NULL,
    intended_at timestamptz NOT NULL,
    done_at timestamptz,
    resolved_by text,
    CONSTRAINT only_intended_is_given_back CHECK (fire_until IS NOT NULL OR status IN ('intended', 'done')),
    CONSTRAINT done_has_an_outcome CHECK ((status = 'done') = (outcome IS NOT NULL AND done_at IS NOT NULL))
);
CREATE INDEX side_effects_open ON backbeat.side_effects (intended_at) WHERE status <> 'done';
CREATE INDEX side_effects_origin ON backbeat.side_effects (origin_id);

-- Asks leave to make a far write. The verdict is one of
--   fire      the intent is on record under token: write, then finish_effect
--   done      it happened already; outcome holds what came of it
--   wait      another writer may still be at it, for so many seconds
--   look      its writer did not come back: look at the far side, then finish_effect or refire_effect with token
--   conflict  the key stands for another request
--   refused   no approval of exactly this request stands
--   stopped   the kill switch is thrown (detail: its reason)
--   fenced    the task is no longer the caller's
CREATE FUNCTION backbeat.begin_effect(
    p_key text, p_owner_kind text, p_owner uuid, p_lease bigint, p_kind text, p_request jsonb, p_request_hash text,
    p_origin uuid, p_traceparent text, p_approval uuid, p_fire_seconds double precision
) RETURNS TABLE (verdict text, token bigint, outcome jsonb, wait_seconds double precision, detail text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_token bigint := nextval('leases');
    v_effect side_effects;
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
        IF p_owner_kind = 'workflow' AND p_approval IS NULL OR p_approval IS NOT NULL AND NOT require_approved(p_approval, p_request_hash) THEN
            RETURN QUERY SELECT 'refused', NULL::bigint, NULL::jsonb, NULL::double precision, NULL::text;
            RETURN;
        END IF;
        INSERT INTO side_effects AS e (key, kind, status, owner_kind, owner, origin_id, approval_id, request, request_hash, token, fire_until, traceparent, intended_at)
        VALUES (p_key, p_kind, 'intended', p_owner_kind, p_owner, p_origin, p_approval, p_request, p_request_hash, v_token,
                clock() + make_interval(secs => p_fire_seconds), p_traceparent, clock())
        ON CONFLICT (key) DO UPDATE SET token = v_token, fire_until = excluded.fire_until, fires = e.fires + 1, error = NULL
        WHERE e.status = 'intended' AND e.fire_until IS NULL AND e.request_hash = excluded.request_hash;
        IF FOUND THEN
            RETURN QUERY SELECT 'fire', v_token, NULL::jsonb, NULL::double precision, NULL::text;
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
    ELSE
        -- A short window for the look itself, so that two who look do not both fire.
        UPDATE side_effects e SET status = 'unknown', token = v_token, fire_until = clock() + make_interval(secs => p_fire_seconds) WHERE e.key = p_key;
        RETURN QUERY SELECT 'look', v_token, NULL::jsonb, NULL::double precision, NULL::text;
    END IF;
END
$$;

-- Records that the far write happened. Whoever saw its outcome may say so, with an old token too: it is a fact.
-- True when this wrote it; the first outcome stands.
CREATE FUNCTION backbeat.finish_effect(p_key text, p_outcome jsonb, p_by text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
AS $$
BEGIN
    UPDATE side_effects SET status = 'done', outcome = coalesce(p_outcome, '{}'), done_at = clock(), error = NULL, resolved_by = p_by
    WHERE key = p_key AND status <> 'done';
    IF FOUND THEN
        PERFORM release_held('effect', p_key);
        RETURN true;
    END IF;
    RETURN false;
END
$$;

-- The far write certainly did not happen (it was refused, never sent, or a look found nothing): the holder of the token
-- may fire within the window it names, or with 0 seconds gives the effect back, and whoever begins it next fires.
CREATE FUNCTION backbeat.refire_effect(p_key text, p_token bigint, p_fire_seconds double precision, p_error text, p_by text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = backbeat, pg_temp
AS $$
BEGIN
    IF p_fire_seconds > 0 AND EXISTS (SELECT FROM switches) THEN
        RETURN false;
    END IF;
    UPDATE side_effects
    SET status = 'intended', error = p_error, resolved_by = p_by,
        fire_until = CASE WHEN p_fire_seconds > 0 THEN clock() + make_interval(secs => p_fire_seconds) END,
        fires = fires + CASE WHEN p_fire_seconds > 0 THEN 1 ELSE 0 END
    WHERE key = p_key AND status <> 'done' AND (token = p_token OR p_token IS NULL)
      -- A person may speak only when no writer and no looker can be at it any more.
      AND (p_by IS NULL OR (fire_until > clock()) IS NOT TRUE);
    IF FOUND AND p_by IS NOT NULL THEN
        PERFORM release_held('effect', p_key);
    END IF;
    RETURN FOUND;
END
$$;

GRANT EXECUTE ON FUNCTION backbeat.begin_effect, backbeat.finish_effect, backbeat.refire_effect TO backbeat_worker;
