-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- What people and models wrote leaves the rows; who did what, when, and what it cost stays. Nothing that still goes on is touched, nor
-- what is append-only: decisions and the audit log. Lock order: finished rows of each table by id -> audit head.
CREATE FUNCTION backbeat.erase(p_ids uuid[], p_subject text, p_by text, p_reason text) RETURNS TABLE (what text, n bigint) LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE v_ids uuid[] := ARRAY(SELECT unnest(p_ids) EXCEPT SELECT t.id FROM simple_tasks t EXCEPT SELECT w.id FROM orchestrated_workflows w WHERE w.finished_at IS NULL); v record;
BEGIN
    FOR v IN SELECT * FROM (VALUES ('finished_tasks', 'payload = ''{}'', result = NULL, error = NULL, history = ''[]''', 'id'), ('model_calls', 'response = NULL, error = NULL', 'owner'),
        ('dead_letters', 'payload = NULL, error = '''', resolved_at = coalesce(resolved_at, clock()), resolved_by = coalesce(resolved_by, $2), reason = $3', 'id'),
        ('agents', 'input = ''{}'', result = NULL, error = NULL', 'id'), ('agent_steps', 'args = NULL, reasoning = NULL, output = NULL, observation = NULL', 'task_id'),
        ('side_effects', 'request = ''{}'', outcome = ''{}'', error = NULL', 'owner'), ('orchestrated_workflows', 'input = ''{}'', result = NULL, error = NULL', 'id'),
        ('orchestrated_workflows_steps', 'detail = NULL', 'workflow_id'), ('approval_requests', 'payload = ''{}'', title = ''erased''', 'workflow_id')) AS t (name, said, key) LOOP
        EXECUTE format('UPDATE backbeat.%I SET %s WHERE %I = ANY ($1)', v.name, v.said, v.key) USING v_ids, p_by, p_reason; GET DIAGNOSTICS n = ROW_COUNT; what := v.name; RETURN NEXT;
    END LOOP;
    UPDATE notifications o SET facts = '{}' FROM approval_requests r WHERE r.id = o.request_id AND r.workflow_id = ANY (v_ids); GET DIAGNOSTICS n = ROW_COUNT; what := 'notifications'; RETURN NEXT;
    PERFORM audit(session_user, 'erased', p_subject, jsonb_build_object('by', p_by, 'reason', p_reason, 'rows', cardinality(v_ids)));
END $$;
REVOKE ALL ON FUNCTION backbeat.erase FROM PUBLIC; GRANT EXECUTE ON FUNCTION backbeat.erase TO backbeat_operator;
CALL backbeat.pin_functions();
