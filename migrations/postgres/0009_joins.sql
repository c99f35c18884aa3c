-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- Orchestrations: how they start, the steps people see of them, and the tasks and workflows they wait for.
--
-- A workflow that waits has one row of kind `wake` in the outbox, made before anything can wake it and closed until then;
-- waking opens it again. So a thousand children that end cost a message or two, and whoever ends them never waits for the
-- workflow's row. A wake carries nothing: the workflow reads how the join stands.
--
-- The children of a join are tasks whose parent_id is the join. Each ends once, in the transaction that counts it, so nothing
-- is counted twice. A requeued child is a new task without a parent: its join was told that it died.
-- Lock order: workflow -> tasks -> flows -> budgets -> joins (by id) -> the workflow's wake.

ALTER TABLE backbeat.orchestrated_workflows ADD parent_workflow uuid, ADD parent_step text, ADD start_key text;
CREATE UNIQUE INDEX orchestrated_workflows_step ON backbeat.orchestrated_workflows (parent_workflow, parent_step) WHERE parent_workflow IS NOT NULL;
CREATE UNIQUE INDEX orchestrated_workflows_start ON backbeat.orchestrated_workflows (tenant, workflow, start_key) WHERE start_key IS NOT NULL;

CREATE TABLE backbeat.orchestrated_workflows_steps (
    workflow_id uuid NOT NULL REFERENCES backbeat.orchestrated_workflows ON DELETE CASCADE,
    seq integer NOT NULL CHECK (seq > 0), name text NOT NULL, kind text NOT NULL,
    status text NOT NULL CHECK (status IN ('running', 'waiting', 'done', 'failed', 'cancelled')),
    waits_for text, started_at timestamptz NOT NULL, ended_at timestamptz, detail jsonb,
    PRIMARY KEY (workflow_id, seq),
    CONSTRAINT ended_says_when CHECK ((status IN ('done', 'failed', 'cancelled')) = (ended_at IS NOT NULL))
);

-- A join fails with one failure more than it tolerates; NULL tolerates any number. Until it is sealed, children are still coming.
CREATE TABLE backbeat.joins (
    id uuid PRIMARY KEY DEFAULT backbeat.uuid7(),
    workflow_id uuid NOT NULL REFERENCES backbeat.orchestrated_workflows ON DELETE CASCADE,
    step text NOT NULL, children uuid[] NOT NULL DEFAULT '{}',
    children_left integer NOT NULL DEFAULT 0 CHECK (children_left >= 0),
    failed integer NOT NULL DEFAULT 0, tolerated integer, sealed boolean NOT NULL DEFAULT false,
    UNIQUE (workflow_id, step)
) WITH (fillfactor = 50);
CREATE INDEX joins_open ON backbeat.joins (workflow_id) WHERE children_left > 0;
CREATE INDEX simple_tasks_children ON backbeat.simple_tasks (parent_id) WHERE parent_id IS NOT NULL;

-- The caller holds the workflow's row.
CREATE FUNCTION backbeat.expect_wake(p_workflow uuid) RETURNS void LANGUAGE sql AS $$
    INSERT INTO temporal_outbox (stream, seq, kind, lease_until, created_at, delivered_at)
    SELECT p_workflow, max(o.seq) + 1, 'wake', clock(), clock(), clock() FROM temporal_outbox o WHERE o.stream = p_workflow HAVING NOT bool_or(o.kind = 'wake') $$;

-- A delivery under way loses its lease, and so does not close what it did not tell.
CREATE FUNCTION backbeat.wake(p_workflow uuid) RETURNS void LANGUAGE sql AS $$
    UPDATE temporal_outbox SET delivered_at = NULL, dead_at = NULL, lease = NULL, attempts = 0, created_at = clock(), lease_until = clock() WHERE stream = p_workflow AND kind = 'wake' $$;

-- For end_tasks, which has locked them: these tasks end, and the joins they are children of hear of it once.
CREATE FUNCTION backbeat.settle_joins(p_departures backbeat.departure[]) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
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

-- Makes children of a workflow's step, in chunks: p_from is how many there are already, so a chunk told twice is made once.
-- A child that an earlier run of this step left behind, alive or succeeded, is that child again.
CREATE FUNCTION backbeat.add_children(p_workflow uuid, p_step text, p_from integer, p_name text, p_version integer, p_payloads jsonb[], p_tolerated integer, p_seal
    boolean) RETURNS SETOF backbeat.joins LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
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

-- A workflow that a step of another waits for; the first asking makes it.
CREATE FUNCTION backbeat.child_workflow(p_parent uuid, p_step text, p_workflow text, p_input jsonb) RETURNS SETOF backbeat.orchestrated_workflows
LANGUAGE plpgsql SECURITY DEFINER AS $$
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

-- What a workflow says of itself and of its steps, only where it is news.
CREATE FUNCTION backbeat.project_run(p_workflow uuid, p_seq integer, p_status text, p_run_id text, p_waiting_for text, p_result jsonb, p_error text, p_steps jsonb)
    RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE v_news boolean := project_state(p_workflow, p_seq, p_status, p_run_id, p_waiting_for, p_result, p_error);
BEGIN
    INSERT INTO orchestrated_workflows_steps SELECT s.* FROM jsonb_populate_recordset(NULL::orchestrated_workflows_steps, p_steps) s WHERE v_news
    ON CONFLICT (workflow_id, seq) DO UPDATE SET status = excluded.status, waits_for = excluded.waits_for, ended_at = excluded.ended_at, detail = excluded.detail;
    RETURN v_news;
END $$;

-- Whoever waits for a workflow hears that it ended, and its calls under way are presumed spent; a failed one keeps its answers, for
-- it may be asked to go on. A new generation tells its steps anew.
CREATE FUNCTION backbeat.workflow_moved() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
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
CREATE TRIGGER workflow_moved AFTER UPDATE ON backbeat.orchestrated_workflows FOR EACH ROW
WHEN (NEW.generation <> OLD.generation OR NEW.finished_at IS NOT NULL AND OLD.finished_at IS NULL) EXECUTE FUNCTION backbeat.workflow_moved();

-- Ends what nobody waits for any more: tasks and workflows that are children of a workflow that ended (p_workflow NULL: of any),
-- and those of a join that failed. Answers how many tasks; there may be more.
CREATE FUNCTION backbeat.cancel_orphans(p_workflow uuid, p_limit integer DEFAULT 500) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
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

-- Starts an orchestration. A key answers with the workflow it started; same: with the same input.
CREATE FUNCTION backbeat.start_orchestration(p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_key text, p_traceparent text)
RETURNS TABLE (id uuid, created boolean, same boolean) LANGUAGE plpgsql SECURITY DEFINER AS $$
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

-- A start that was refused before there was a row, in a transaction of its own.
CREATE FUNCTION backbeat.refuse_start(p_workflow text, p_by text, p_error text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$
    SELECT audit(session_user, 'workflow.refused', p_workflow, jsonb_build_object('by', p_by, 'error', p_error)) $$;

CREATE FUNCTION backbeat.cancel_workflow(p_workflow uuid, p_reason text) RETURNS SETOF bigint LANGUAGE sql SECURITY DEFINER AS $$
    WITH open AS (SELECT w.id FROM orchestrated_workflows w WHERE w.id = p_workflow AND w.finished_at IS NULL FOR NO KEY UPDATE)
    SELECT push_outbox(o.id, 'cancel') + audit(session_user, 'workflow.cancelled', o.id::text, jsonb_build_object('reason', p_reason)) FROM open o $$;

-- Runs a failed or cancelled workflow again, from the top: what is on record (answers, effects, children that succeeded) is not done
-- again. Answers what it was, where that says no: its status, or that a saga was undone, whose effects would count as done.
CREATE FUNCTION backbeat.retry_workflow(p_workflow uuid, p_by text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
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

-- The reconciler compares it with Temporal at its next beat.
CREATE FUNCTION backbeat.recheck_workflow(p_workflow uuid) RETURNS SETOF uuid LANGUAGE sql SECURITY DEFINER AS $$
    UPDATE orchestrated_workflows SET checked_at = '-infinity' WHERE id = p_workflow AND finished_at IS NULL RETURNING id $$;

GRANT EXECUTE ON FUNCTION backbeat.add_children, backbeat.child_workflow, backbeat.project_run, backbeat.cancel_orphans TO backbeat_worker;
GRANT EXECUTE ON FUNCTION backbeat.start_orchestration, backbeat.refuse_start TO backbeat_worker, backbeat_producer;
GRANT EXECUTE ON FUNCTION backbeat.cancel_workflow, backbeat.retry_workflow, backbeat.recheck_workflow TO backbeat_operator;

CALL backbeat.pin_functions();
