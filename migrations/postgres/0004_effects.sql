-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- The ledger of side effects: what Backbeat does to the world outside, once.
--
-- A row says  intended  before the far write,  done  with its outcome after it, and  unknown  when its writer
-- did not come back. An unknown effect is never simply fired again: somebody looks at the far side first (a
-- read-back, or a person), and only "it is certainly not there" makes it  intended  again.
--
-- token fences writers. fire_until is when the far write has ended or was abandoned, so a read-back before
-- then proves nothing and has to wait; NULL when the effect was given back, since it certainly did not happen.
-- mark is what the far write leaves for a read-back to find: of the key and a secret, so that nobody outside can forge it, and so the
-- same at every firing, even when the row was lost: a database that came back as it was some time ago knows less than the far sides.
-- restored_at is when that was noticed. What an older owner does, and the ledger does not know, may have been done: it is looked for.
-- Lock order: tasks -> approval -> side_effects.

CREATE TABLE backbeat.ledger (one bool PRIMARY KEY DEFAULT true CHECK (one), secret uuid NOT NULL DEFAULT gen_random_uuid(), restored_at timestamptz DEFAULT 'epoch');
INSERT INTO backbeat.ledger DEFAULT VALUES;
REVOKE SELECT ON backbeat.ledger FROM backbeat_worker, backbeat_operator;

CREATE TABLE backbeat.side_effects (
    key text PRIMARY KEY CHECK (key <> ''), mark text NOT NULL, kind text NOT NULL,
    status text NOT NULL CHECK (status IN ('intended', 'done', 'unknown')), owner_kind text NOT NULL CHECK (owner_kind IN ('task', 'workflow')),
    owner uuid NOT NULL, origin_id uuid NOT NULL, approval_id uuid, request jsonb NOT NULL, request_hash text NOT NULL,
    outcome jsonb, error text, token bigint NOT NULL, fires integer NOT NULL, fire_until timestamptz, traceparent text NOT NULL,
    intended_at timestamptz NOT NULL, done_at timestamptz, resolved_by text,
    CONSTRAINT only_intended_is_given_back CHECK (fire_until IS NOT NULL OR status IN ('intended', 'done')),
    CONSTRAINT done_has_an_outcome CHECK ((status = 'done') = (outcome IS NOT NULL AND done_at IS NOT NULL))
);
CREATE INDEX side_effects_open ON backbeat.side_effects (intended_at) WHERE status <> 'done';
CREATE INDEX side_effects_origin ON backbeat.side_effects (origin_id);
CREATE INDEX side_effects_approval ON backbeat.side_effects (approval_id) WHERE approval_id IS NOT NULL;

-- Whether the ledger may have known this key, and lost it with a restore. A key begins with the id of what it is an effect of, which
-- tells its age; or with 32 hex digits for all tasks of equal payloads: then one that was lost may have written, and for a day
-- whoever misses it enqueues it again.
CREATE FUNCTION backbeat.may_be_lost(p_key text, p_owner uuid DEFAULT NULL) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT CASE WHEN p_key ~ '^[0-9a-f]{32}:' THEN p_owner < uuid7_floor(l.restored_at + interval '1 day') ELSE p_key COLLATE "C" < uuid7_floor(l.restored_at)::text END
        AND NOT EXISTS (SELECT FROM side_effects e WHERE e.key = p_key) FROM ledger l $$;

-- Asks leave to make a far write. The verdict is one of
--   fire      the intent is on record under token: write, leaving detail as the mark, then finish_effect
--   done      it happened already; outcome holds what came of it
--   wait      another writer may still be at it, for so many seconds
--   look      its writer did not come back, or a restore lost it: look for the mark (detail), then finish_effect or refire_effect with token
--   noted     p_fire_seconds is NULL, the caller cannot write: the intent is on record, somebody else may begin it
--   conflict  the key stands for another request
--   refused   no approval of exactly this request of this owner stands, or its orchestration has ended
--   stopped   the kill switch is thrown (detail: its reason)
--   fenced    the task is no longer the caller's
CREATE FUNCTION backbeat.begin_effect(p_key text, p_owner_kind text, p_owner uuid, p_lease bigint, p_kind text, p_request jsonb, p_request_hash text, p_origin uuid,
    p_traceparent text, p_approval uuid, p_fire_seconds double precision) RETURNS TABLE (verdict text, token bigint, outcome jsonb, wait_seconds double precision,
    detail text) LANGUAGE plpgsql SECURITY DEFINER AS $$
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

-- Records that the far write happened. Whoever saw its outcome may say so, with an old token too: it is a fact.
-- True when this wrote it; the first outcome stands.
CREATE FUNCTION backbeat.finish_effect(p_key text, p_outcome jsonb, p_read_back boolean DEFAULT false) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE side_effects SET status = 'done', outcome = coalesce(p_outcome, '{}'), done_at = clock(), error = NULL,
        resolved_by = CASE WHEN p_read_back THEN 'read-back' END WHERE key = p_key AND status <> 'done';
    PERFORM release_held('effect', p_key) WHERE FOUND;
    RETURN FOUND;
END $$;

-- The far write certainly did not happen (it was refused, never sent, or a look found nothing): the holder of the token
-- may fire within the window it names, or with 0 seconds gives the effect back, and whoever begins it next fires.
CREATE FUNCTION backbeat.refire_effect(p_key text, p_token bigint, p_fire_seconds double precision, p_error text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF p_fire_seconds > 0 AND EXISTS (SELECT FROM switches) THEN RETURN false; END IF;
    UPDATE side_effects
    SET status = 'intended', error = p_error, resolved_by = NULL,
        fire_until = CASE WHEN p_fire_seconds > 0 THEN clock() + make_interval(secs => p_fire_seconds) END,
        fires = fires + CASE WHEN p_fire_seconds > 0 THEN 1 ELSE 0 END
    WHERE key = p_key AND status <> 'done' AND token = p_token;
    RETURN FOUND;
END $$;

-- What stands in an open effect's way, for people to read; it changes nothing else.
CREATE FUNCTION backbeat.note_effect(p_key text, p_error text) RETURNS void
LANGUAGE sql SECURITY DEFINER AS $$ UPDATE side_effects SET error = left(p_error, 2000) WHERE key = p_key AND status <> 'done' $$;

-- The word of a person who looked at the far side: this came of it, or (p_outcome NULL) it certainly did not happen and may
-- be fired. False when it is done, or while a writer or a looker may be at it.
CREATE FUNCTION backbeat.resolve_effect(p_key text, p_outcome jsonb, p_reason text, p_by text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE side_effects SET status = CASE WHEN p_outcome IS NULL THEN 'intended' ELSE 'done' END, outcome = p_outcome, resolved_by = p_by,
        error = CASE WHEN p_outcome IS NULL THEN p_reason END, done_at = CASE WHEN p_outcome IS NOT NULL THEN clock() END, fire_until = NULL
    WHERE key = p_key AND status <> 'done' AND (fire_until > clock()) IS NOT TRUE;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM release_held('effect', p_key);
    PERFORM audit(session_user, 'effect.resolved', p_key, jsonb_build_object('outcome', p_outcome, 'reason', p_reason, 'by', p_by));
    RETURN true;
END $$;

GRANT EXECUTE ON FUNCTION backbeat.begin_effect, backbeat.finish_effect, backbeat.refire_effect, backbeat.note_effect, backbeat.may_be_lost TO backbeat_worker;
GRANT EXECUTE ON FUNCTION backbeat.resolve_effect TO backbeat_operator;

CALL backbeat.pin_functions();
