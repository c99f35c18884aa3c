-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- Schedules: tasks that come with the clock. A slot is a moment of a cron expression, which Python finds. The watermark
-- moves to a slot in the transaction that enqueues it, if it still stands where the caller read it: however many ticks
-- race, and wherever one dies, a slot is enqueued once. Lock order: schedules -> tasks, and on as 0002_queue.sql has it.
-- A selector is a query that an operator stored. It runs inside a definer's function of backbeat_selector, in which no
-- other role can be taken on, and read-only: it reads what that role was granted, whatever its text says.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'backbeat_selector') THEN CREATE ROLE backbeat_selector NOLOGIN; END IF;
    IF NOT pg_has_role('backbeat_selector', 'USAGE') THEN
        -- Its function below is made, and tried by operators, by whoever runs this.
        EXECUTE format('GRANT backbeat_selector TO %I', current_user);
    END IF;
END $$;

CREATE TABLE backbeat.schedules (
    name text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    cron text NOT NULL, zone text NOT NULL, workflow text NOT NULL, version integer NOT NULL, payload jsonb, selector text,
    selector_seconds smallint NOT NULL CHECK (selector_seconds BETWEEN 1 AND 60),
    tenant text NOT NULL,
    class text NOT NULL CHECK (class IN ('urgent', 'high', 'normal', 'low')),
    catch_up text NOT NULL CHECK (catch_up IN ('none', 'last', 'all')),
    jitter_seconds integer NOT NULL CHECK (jitter_seconds BETWEEN 0 AND 86400),
    -- Equal payloads are one task whatever the slot, not one a slot.
    once boolean NOT NULL, paused boolean NOT NULL,
    -- The last slot that is dealt with; when to look again; what went wrong last.
    watermark timestamptz NOT NULL,
    next_at timestamptz NOT NULL CHECK (next_at > watermark),
    note text,
    FOREIGN KEY (workflow, version) REFERENCES backbeat.workflows,
    CONSTRAINT payload_or_selector CHECK ((payload IS NULL) <> (selector IS NULL))
);

-- Deals with one slot: the ids of new tasks, or NULL when another did or the schedule is paused, and nothing changed.
-- With p_slot = p_watermark it says only when to look again, and why.
CREATE FUNCTION backbeat.fire_schedule(p_name text, p_watermark timestamptz, p_slot timestamptz, p_next_at timestamptz, p_payloads jsonb[], p_keys bytea[],
    p_run_after timestamptz, p_note text) RETURNS uuid[] LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE v_schedule schedules;
BEGIN
    UPDATE schedules s SET watermark = p_slot, next_at = p_next_at, note = p_note WHERE s.name = p_name AND s.watermark = p_watermark
        AND p_slot BETWEEN p_watermark AND backbeat.now() AND NOT s.paused RETURNING * INTO v_schedule;
    RETURN CASE WHEN NOT FOUND THEN NULL WHEN p_slot = p_watermark OR cardinality(p_payloads) = 0 THEN '{}' ELSE (
        SELECT coalesce(array_agg(e.task_id ORDER BY e.ord) FILTER (WHERE e.created), '{}')
        FROM enqueue(v_schedule.workflow, v_schedule.version, p_payloads, p_keys, v_schedule.tenant, v_schedule.class,
            p_run_after => p_run_after, p_source_at => array_fill(p_slot, ARRAY[cardinality(p_payloads)])) e) END;
END $$;

-- What a schedule's selector finds at the slot after p_watermark, for one caller at a time, who sets statement_timeout first.
CREATE FUNCTION backbeat.run_selector(p_name text, p_watermark timestamptz, p_limit integer) RETURNS SETOF jsonb LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
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

GRANT EXECUTE ON FUNCTION backbeat.fire_schedule, backbeat.run_selector TO backbeat_worker;
GRANT USAGE, CREATE ON SCHEMA backbeat TO backbeat_selector;
ALTER FUNCTION backbeat.run_selector OWNER TO backbeat_selector;
REVOKE CREATE ON SCHEMA backbeat FROM backbeat_selector;
GRANT SELECT (name, watermark, selector) ON backbeat.schedules TO backbeat_selector;
GRANT EXECUTE ON FUNCTION backbeat.now TO backbeat_selector;

-- Operators' functions: no worker may say what is read and run. All tell the audit log; NULL: there is no such schedule.
CREATE FUNCTION backbeat.add_schedule(p_schedule jsonb) RETURNS bigint LANGUAGE sql AS $$
    SELECT need_tenant(p_schedule ->> 'tenant');
    WITH added AS (INSERT INTO schedules SELECT (jsonb_populate_record(NULL::schedules, p_schedule)).* RETURNING *)
    SELECT audit(session_user, 'schedule.added', a.name, to_jsonb(a)) FROM added a $$;

CREATE FUNCTION backbeat.remove_schedule(p_name text) RETURNS bigint LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM schedules s WHERE s.name = p_name RETURNING *)
    SELECT audit(session_user, 'schedule.removed', g.name, to_jsonb(g)) FROM gone g $$;

-- Pauses a schedule, or with p_from lets a paused one go on: slots up to there are dealt with.
CREATE FUNCTION backbeat.turn_schedule(p_name text, p_from timestamptz DEFAULT NULL, p_next_at timestamptz DEFAULT NULL) RETURNS bigint LANGUAGE sql AS $$
    WITH turned AS (UPDATE schedules s SET paused = p_from IS NULL, watermark = coalesce(p_from, watermark), next_at = coalesce(p_next_at, next_at)
                    WHERE s.name = p_name AND s.paused = (p_from IS NOT NULL) RETURNING *)
    SELECT audit(session_user, CASE WHEN t.paused THEN 'schedule.paused' ELSE 'schedule.resumed' END, t.name, to_jsonb(t)) FROM turned t $$;

CALL backbeat.pin_functions();
