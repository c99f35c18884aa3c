-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- What people and models wrote leaves the rows, table by table: its key, then its columns. Who did what, when, and what it cost stays, but for feedback.
-- Nothing that still goes on is touched, nor what is append-only: decisions and the audit log. Lock order: rows that are over -> audit head.
CREATE FUNCTION backbeat.erase(p_ids uuid[], p_subject text, p_by text, p_reason text) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER AS $f$
DECLARE v text[]; v_table text; v_n int; v_rows jsonb := '{}'; v_ids uuid[] := ARRAY(SELECT unnest(p_ids) EXCEPT SELECT id FROM simple_tasks
    EXCEPT SELECT id FROM orchestrated_workflows WHERE finished_at IS NULL);
BEGIN FOREACH v_table IN ARRAY string_to_array('finished_tasks id payload result error history;model_calls owner response error;agents id input result error;'
    'agent_steps task_id args reasoning output observation;side_effects owner request outcome error;orchestrated_workflows id input result error;'
    'orchestrated_workflows_steps workflow_id detail', ';') LOOP v := string_to_array(v_table, ' ');
    EXECUTE (SELECT format('UPDATE %s SET %s WHERE %s = ANY ($1)', v[1], string_agg(format(CASE WHEN c IN ('error', 'reasoning', 'observation')
        THEN '%1$s = left(%1$s, 0)' ELSE '%1$s = CASE WHEN %1$s IS NOT NULL THEN ''{}''::jsonb END' END, c), ', '), v[2]) FROM unnest(v[3:]) c) USING v_ids;
    GET DIAGNOSTICS v_n = ROW_COUNT; v_rows := v_rows || jsonb_build_object(v[1], v_n); END LOOP;
    UPDATE dead_letters SET payload = NULL, error = '', resolved_at = coalesce(resolved_at, clock()), resolved_by = p_by, reason = p_reason WHERE id = ANY (v_ids);
    DELETE FROM feedback WHERE task_id = ANY (v_ids); GET DIAGNOSTICS v_n = ROW_COUNT; v_rows := v_rows || jsonb_build_object('feedback', v_n);
    UPDATE notifications o SET facts = '{}' FROM approval_requests r WHERE r.id = o.request_id AND r.workflow_id = ANY (v_ids);
    UPDATE approval_requests SET payload = payload || '{"request": null}', title = 'erased' WHERE workflow_id = ANY (v_ids);
    PERFORM audit(session_user, 'erased', p_subject, v_rows || jsonb_build_object('by', p_by, 'reason', p_reason)); RETURN v_rows; END $f$;
GRANT EXECUTE ON FUNCTION backbeat.erase TO backbeat_operator; CALL backbeat.pin_functions();
