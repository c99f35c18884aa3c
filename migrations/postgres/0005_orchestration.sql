-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- Orchestrated workflows, approvals, and who may decide them.
--
-- Postgres decides, Temporal positions. A decision is committed here with its audit row and a poke in the outbox; the
-- poke carries nothing, and the workflow that feels it reads close_if_pending and believes only that. Temporal keeps
-- the timers, the retries and the order.
--
-- Who decides is proved, never claimed: a token holder signs (request, decision, hash of what was shown, comment)
-- with the key that api_tokens stores and that no worker may read. So neither a worker's login nor a signal's history
-- is enough to decide as somebody else.
--
-- Lock order, everywhere: orchestrated_workflows -> temporal_outbox -> approval_requests -> ... -> audit_head, last.
-- Leasing the outbox takes its rows alone and waits for nobody (SKIP LOCKED).

CREATE TABLE backbeat.orchestrated_workflows (
    id uuid PRIMARY KEY,
    workflow text NOT NULL CHECK (workflow ~ '^[a-z][a-z0-9_]{0,62}$'),
    version integer NOT NULL CHECK (version > 0),
    tenant text NOT NULL CHECK (tenant <> ''),
    input jsonb NOT NULL CHECK (jsonb_typeof(input) = 'object'),
    status text NOT NULL DEFAULT 'starting'
        CHECK (status IN ('starting', 'running', 'waiting', 'completed', 'failed', 'cancelled')),
    -- Temporal may lose a workflow (its data, or its retention); the next run of the same row takes the next generation.
    generation smallint NOT NULL DEFAULT 1 CHECK (generation > 0),
    temporal_id text NOT NULL UNIQUE GENERATED ALWAYS AS (
        workflow || '/' || id || CASE WHEN generation = 1 THEN '' ELSE '~r' || generation END) STORED,
    run_id text, state_seq integer NOT NULL DEFAULT 0, waiting_for text, deadline timestamptz, result jsonb, error text, parent_task uuid UNIQUE,
    origin_id uuid NOT NULL,
    traceparent text NOT NULL CHECK (traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'),
    created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, checked_at timestamptz NOT NULL, finished_at timestamptz,
    CONSTRAINT ended_says_when CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CONSTRAINT waiting_says_for_what CHECK ((status = 'waiting') = (waiting_for IS NOT NULL)),
    CONSTRAINT failed_says_why CHECK ((status = 'failed') = (error IS NOT NULL)),
    CONSTRAINT only_completed_has_a_result CHECK ((status = 'completed') = (result IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX orchestrated_workflows_open ON backbeat.orchestrated_workflows (checked_at) WHERE finished_at IS NULL;
CREATE INDEX orchestrated_workflows_over ON backbeat.orchestrated_workflows (finished_at) WHERE workflow <> 'approve_effect';

-- What people say about results, by the piece of work they came from: what false-positive rates are made of.
CREATE TABLE backbeat.feedback (
    id uuid PRIMARY KEY DEFAULT backbeat.uuid7(), origin_id uuid NOT NULL, task_id uuid NOT NULL,
    finding text NOT NULL DEFAULT '', label text NOT NULL CHECK (label <> ''),
    said_by text NOT NULL CHECK (said_by <> ''), said_at timestamptz NOT NULL DEFAULT backbeat.now()
);
CREATE INDEX feedback_origin ON backbeat.feedback (origin_id);

-- Whole rows, one that is there already once; answers what it added.
CREATE FUNCTION backbeat.add_feedback(p_rows jsonb) RETURNS SETOF uuid LANGUAGE sql SECURITY DEFINER AS $$
    INSERT INTO feedback SELECT (jsonb_populate_recordset(NULL::feedback, p_rows)).* ON CONFLICT DO NOTHING RETURNING id $$;

-- What Temporal must be told, in order within a stream. lease_until: nobody takes the row before then, because somebody
-- has it or because its last delivery failed. attempts counts deliveries begun.
CREATE TABLE backbeat.temporal_outbox (
    stream uuid NOT NULL REFERENCES backbeat.orchestrated_workflows ON DELETE CASCADE, seq integer NOT NULL CHECK (seq > 0),
    kind text NOT NULL CHECK (kind IN ('start', 'poke', 'wake', 'cancel')),
    lease bigint, lease_until timestamptz NOT NULL, attempts integer NOT NULL DEFAULT 0, created_at timestamptz NOT NULL,
    delivered_at timestamptz, dead_at timestamptz, last_error text,
    PRIMARY KEY (stream, seq),
    CONSTRAINT begins_with_a_start CHECK (seq > 1 OR kind = 'start'),
    CONSTRAINT ends_once CHECK (delivered_at IS NULL OR dead_at IS NULL),
    CONSTRAINT dead_says_why CHECK (dead_at IS NULL OR last_error IS NOT NULL)
) WITH (fillfactor = 70);
CREATE INDEX temporal_outbox_open ON backbeat.temporal_outbox (lease_until) WHERE delivered_at IS NULL AND dead_at IS NULL;
-- Also what "no earlier row of the stream is open" reads.
CREATE INDEX temporal_outbox_order ON backbeat.temporal_outbox (stream, seq) WHERE delivered_at IS NULL AND dead_at IS NULL;

-- What is wrong with a rule, a step of escalation, or a policy that is its own only rule; NULL when nothing is.
CREATE FUNCTION backbeat.rule_problem(p_rule jsonb, p_path text, p_keys text[], p_nobody_is_fine boolean) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN jsonb_typeof(p_rule) IS DISTINCT FROM 'object' THEN p_path || ' is not an object'
    WHEN p_rule - p_keys <> '{}' THEN p_path || ': unknown key ' || (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(p_rule - p_keys) AS k)
    WHEN jsonb_typeof(coalesce(p_rule -> 'approvers', '[]')) <> 'array'
        OR jsonb_path_exists(p_rule, '$.approvers[*] ? (@.type() != "string" || @ == "")') THEN p_path || '.approvers is not a list of user names'
    WHEN jsonb_typeof(coalesce(p_rule -> 'groups', '[]')) <> 'array'
        OR jsonb_path_exists(p_rule, '$.groups[*] ? (@.type() != "string" || @ == "")') THEN p_path || '.groups is not a list of group names'
    WHEN coalesce(p_rule ->> 'needed', '1') !~ '^[1-9][0-9]?$' THEN p_path || '.needed is not a number from 1 to 99'
    WHEN 'after' = ANY (p_keys) AND NOT jsonb_path_exists(coalesce(p_rule -> 'after', 'null'), 'strict $ ? (@ >= 1 && @ <= 31622400)')
        THEN p_path || '.after is not a number of seconds from 1 to 31622400'
    WHEN p_nobody_is_fine OR jsonb_array_length(coalesce(p_rule -> 'groups', '[]')) > 0 THEN NULL
    WHEN coalesce(p_rule ->> 'needed', '1')::integer > (SELECT count(DISTINCT a) FROM jsonb_array_elements_text(coalesce(p_rule -> 'approvers', '[]')) AS a)
        THEN p_path || ': nobody can satisfy it: it needs more approvers than it names'
END;

-- What is wrong with a policy, field by field, for a person; NULL when nothing is. An unknown key is refused: a rule that
-- is misspelt and silently dropped would let somebody decide who may not. shared/domain/policy.py is how authors write one.
CREATE FUNCTION backbeat.policy_problem(p_policy jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN jsonb_typeof(p_policy) IS DISTINCT FROM 'object' THEN 'policy is not an object'
    WHEN p_policy ? 'rules' AND p_policy ?| '{approvers,groups,needed}'::text[] THEN 'policy.rules stands in place of approvers, groups and needed'
    WHEN p_policy @> '{"allow_unsigned_signal": true}' AND (coalesce(p_policy ->> 'needed', '1') <> '1' OR p_policy ? 'rules' OR p_policy @> '{"four_eyes": true}')
        THEN 'policy.allow_unsigned_signal cannot go with a quorum, with rules or with four_eyes'
    ELSE (SELECT string_agg(f.problem, '; ' ORDER BY f.n) FROM (SELECT 0 AS n, format('policy.%s is not %s', t.field, t.what) AS problem FROM (VALUES
            ('rules', '(@.type() == "array" && @.size() > 0)', 'a list of rules'), ('escalate', '(@.type() == "array")', 'a list of steps'),
            ('four_eyes', '(@.type() == "boolean")', 'true or false'), ('allow_unsigned_signal', '(@.type() == "boolean")', 'true or false'),
            ('on_expiry', '(@ == "reject" || @ == "approve")', 'reject or approve'), ('calendar', '(@.type() == "string")', 'the name of a calendar'),
            ('max_rounds', '(@ >= 0 && @ <= 99 && @ == @.floor())', 'a number from 0 to 99'),
            ('remind_every', '(@ >= 1 && @ <= 31622400)', 'a number of seconds from 1 to 31622400'),
            ('remind_before', '(@ >= 1 && @ <= 31622400)', 'a number of seconds from 1 to 31622400'),
            ('effect_delay', '(@ >= 1 && @ <= 31622400)', 'a number of seconds from 1 to 31622400')) AS t(field, test, what)
        WHERE p_policy ? t.field AND NOT jsonb_path_exists(p_policy -> t.field, ('strict $ ? ' || t.test)::jsonpath)
        UNION ALL SELECT 1, backbeat.rule_problem(
            p_policy - '{rules,escalate,allow_unsigned_signal,four_eyes,on_expiry,calendar,max_rounds,remind_every,remind_before,effect_delay}'::text[],
            'policy', '{approvers,groups,needed}'::text[], p_policy ? 'rules' OR p_policy @> '{"allow_unsigned_signal": true}')
        UNION ALL SELECT 1 + r.n, backbeat.rule_problem(r.rule, format('policy.rules[%s]', r.n - 1), '{approvers,groups,needed}'::text[], false)
        FROM jsonb_path_query(p_policy, '$.rules[*]') WITH ORDINALITY AS r(rule, n)
        UNION ALL SELECT 1000 + e.n, backbeat.rule_problem(e.step, format('policy.escalate[%s]', e.n - 1), '{after,approvers,groups}'::text[], false)
        FROM jsonb_path_query(p_policy, '$.escalate[*]') WITH ORDINALITY AS e(step, n)) AS f)
END;

-- Hours in which deadlines, reminders and escalations of a policy that names the calendar run; a day may end at 24:00.
CREATE TABLE backbeat.calendars (
    tenant text NOT NULL, name text NOT NULL CHECK (name <> ''), PRIMARY KEY (tenant, name),
    time_zone text NOT NULL, days integer[] NOT NULL CHECK (days <@ '{1,2,3,4,5,6,7}' AND days <> '{}'),
    opens time NOT NULL, closes time NOT NULL CHECK (closes > opens), holidays date[] NOT NULL
);

-- When Temporal workers were seen without a gap of a minute. Between two periods Backbeat was down.
CREATE TABLE backbeat.presence (since timestamptz PRIMARY KEY, until timestamptz NOT NULL) WITH (fillfactor = 50);

CREATE TABLE backbeat.approval_requests (
    id uuid PRIMARY KEY,
    workflow_id uuid NOT NULL REFERENCES backbeat.orchestrated_workflows, step text NOT NULL CHECK (step <> ''), UNIQUE (workflow_id, step),
    tenant text NOT NULL, title text NOT NULL CHECK (length(title) BETWEEN 1 AND 300),
    -- Exactly what will be done, {"effect": kind, "request": ...}; hash is the sha256 of it with the title, in canonical form.
    payload jsonb NOT NULL CHECK (payload - '{effect,request}'::text[] = '{}' AND jsonb_typeof(payload -> 'effect') = 'string' AND payload ? 'request'),
    hash text NOT NULL CHECK (hash ~ '^[0-9a-f]{64}$'),
    policy jsonb NOT NULL CONSTRAINT policy_is_sound CHECK (backbeat.policy_problem(policy) IS NULL),
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'changes', 'approved', 'rejected', 'expired', 'cancelled', 'revoked')),
    requested_at timestamptz NOT NULL, deadline timestamptz NOT NULL, closed_at timestamptz, closed_by text,
    requested_by text CONSTRAINT says_who_asked CHECK (requested_by ~ '^[[:alnum:]][[:alnum:]._@+-]{0,99}$' AND (requested_by IS NOT NULL OR NOT policy @> '{"four_eyes": true}')),
    -- editable: who edits can check the edit, since the effect declares what its requests look like; NULL while no worker that asked has
    -- loaded the effect. Votes count for the revision they were given on.
    editable boolean, revision integer NOT NULL DEFAULT 1,
    escalate_at timestamptz[] NOT NULL DEFAULT '{}', escalated integer NOT NULL DEFAULT 0, remind_at timestamptz,
    -- stuck: nobody who may decide holds a token, and people have been told. Outages up to outages_until are in the deadline.
    stuck boolean NOT NULL DEFAULT false, claimed_by text, claimed_until timestamptz, effect_after timestamptz, outages_until timestamptz,
    CONSTRAINT deadline_lies_ahead CHECK (deadline > requested_at),
    CONSTRAINT closed_says_when_and_by_whom CHECK ((state IN ('pending', 'changes')) = (closed_at IS NULL) AND (closed_at IS NULL) = (closed_by IS NULL)),
    CONSTRAINT decided_in_time CHECK (state NOT IN ('approved', 'rejected') OR closed_at < deadline OR closed_by = '(deadline)'),
    CONSTRAINT approved_says_from_when CHECK (state <> 'approved' OR effect_after >= closed_at)
);
CREATE INDEX approval_requests_pending ON backbeat.approval_requests (tenant, deadline) WHERE state IN ('pending', 'changes');

-- What people did, in order: votes, edits (body is the new request), comments, claims, and rights handed on. for_user is
-- whose right was used, with its groups; a right that is handed on (to_user, for one request or for all) is the
-- other's until then, and comes back when its owner hands it to herself. A person and a right vote once a revision.
CREATE TABLE backbeat.approval_decisions (
    id uuid PRIMARY KEY, request_id uuid REFERENCES backbeat.approval_requests, revision integer NOT NULL,
    user_name text NOT NULL, for_user text NOT NULL, groups text[] NOT NULL, token_id text,
    decision text NOT NULL CHECK (decision IN ('approve', 'reject', 'request_changes', 'edit', 'revoke', 'comment', 'claim', 'unclaim', 'delegate')),
    hash text, body jsonb, to_user text, until timestamptz, comment text NOT NULL,
    via text NOT NULL CHECK (via IN ('cli', 'web', 'signal', 'owner')),
    state_after text, decided_at timestamptz NOT NULL,
    CONSTRAINT only_rights_are_of_no_request CHECK (request_id IS NOT NULL OR decision = 'delegate'),
    CONSTRAINT handed_on_to_somebody CHECK ((decision = 'delegate') = (to_user IS NOT NULL) AND (to_user IS NULL OR until IS NOT NULL))
);
CREATE UNIQUE INDEX approval_votes_of_people ON backbeat.approval_decisions (request_id, revision, user_name) WHERE decision = 'approve';
CREATE UNIQUE INDEX approval_votes_of_rights ON backbeat.approval_decisions (request_id, revision, for_user) WHERE decision = 'approve';
CREATE INDEX approval_decisions_of ON backbeat.approval_decisions (request_id, decided_at);
CREATE INDEX approval_rights ON backbeat.approval_decisions (user_name) WHERE decision = 'delegate';

-- What people should hear: unloaded, asked, reminded, escalated, changes, delegated, decided, stuck. Written in the transaction that it is about.
CREATE TABLE backbeat.notifications (
    id uuid PRIMARY KEY, event text NOT NULL, request_id uuid REFERENCES backbeat.approval_requests,
    tenant text, users text[] NOT NULL, groups text[] NOT NULL, facts jsonb NOT NULL, created_at timestamptz NOT NULL
);

CREATE TABLE backbeat.audit_log (
    id bigint PRIMARY KEY, at timestamptz NOT NULL, actor text NOT NULL, action text NOT NULL, subject text NOT NULL, detail jsonb NOT NULL,
    prev_hash bytea NOT NULL, hash bytea NOT NULL
);
CREATE INDEX audit_log_refusals ON backbeat.audit_log (actor, at) WHERE action = 'approval.refused';
CREATE INDEX audit_log_subject ON backbeat.audit_log (subject, id);

CREATE TABLE backbeat.audit_head (one boolean PRIMARY KEY DEFAULT true CHECK (one), id bigint NOT NULL, hash bytea NOT NULL) WITH (fillfactor = 50);
INSERT INTO backbeat.audit_head (id, hash) VALUES (0, sha256('backbeat audit log'));

CREATE FUNCTION backbeat.append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON backbeat.approval_decisions EXECUTE FUNCTION backbeat.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON backbeat.audit_log EXECUTE FUNCTION backbeat.append_only();
ALTER TABLE backbeat.approval_decisions ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE backbeat.audit_log ENABLE ALWAYS TRIGGER append_only;

-- key is sha256 of a random token: as good as the token for signing, so workers cannot read it.
-- No user may be called like the actors that are no people, (deadline) and the like.
CREATE TABLE backbeat.api_tokens (
    id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{16}$'), key bytea NOT NULL UNIQUE CHECK (octet_length(key) = 32),
    user_name text NOT NULL CHECK (user_name ~ '^[[:alnum:]][[:alnum:]._@+-]{0,99}$'),
    groups text[] NOT NULL,
    created_at timestamptz NOT NULL, created_by text NOT NULL, expires_at timestamptz CHECK (expires_at > created_at), revoked_at timestamptz
);
REVOKE SELECT ON backbeat.api_tokens FROM backbeat_worker, backbeat_operator;
GRANT SELECT (id, user_name, groups, created_at, created_by, expires_at, revoked_at) ON backbeat.api_tokens TO backbeat_worker, backbeat_operator;

CREATE FUNCTION backbeat.audit_hash(p_prev bytea, p_id bigint, p_at timestamptz, p_actor text, p_action text, p_subject text, p_detail jsonb) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN sha256(p_prev || convert_to(jsonb_build_array(p_id, floor(extract(epoch FROM p_at) * 1000000)::bigint, p_actor, p_action, p_subject, p_detail)::text, 'UTF8'));

-- Every writer waits here for the one before it to commit, so this comes last in its transaction.
CREATE FUNCTION backbeat.audit(p_actor text, p_action text, p_subject text, p_detail jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE v_prev audit_head; v_at timestamptz; v_hash bytea;
BEGIN
    SELECT * INTO v_prev FROM audit_head FOR UPDATE;
    v_at := clock();
    v_hash := audit_hash(v_prev.hash, v_prev.id + 1, v_at, p_actor, p_action, p_subject, p_detail);
    INSERT INTO audit_log VALUES (v_prev.id + 1, v_at, p_actor, p_action, p_subject, p_detail, v_prev.hash, v_hash);
    UPDATE audit_head SET id = v_prev.id + 1, hash = v_hash;
    RETURN v_prev.id + 1;
END $$;

-- The caller holds the workflow's row, or has just made it.
CREATE FUNCTION backbeat.push_outbox(p_stream uuid, p_kind text) RETURNS integer LANGUAGE sql AS $$
    INSERT INTO temporal_outbox (stream, seq, kind, lease_until, created_at)
    SELECT p_stream, coalesce(max(seq), 0) + 1, p_kind, clock(), clock() FROM temporal_outbox WHERE stream = p_stream
    RETURNING seq $$;

-- Makes a workflow's row and the message that starts it, in the caller's transaction; of the newest version that a worker has
-- registered, p_version at least. p_traceparent names the span that
-- escalates; the row's own names the span `escalate`, in the same trace.
CREATE FUNCTION backbeat.start_workflow(p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_origin uuid, p_parent_task uuid, p_traceparent text)
    RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE v_id uuid := uuid7(); v_now timestamptz := clock();
BEGIN
    INSERT INTO orchestrated_workflows (
        id, workflow, version, tenant, input, parent_task, origin_id, traceparent, created_at, updated_at, checked_at)
    VALUES (v_id, p_workflow, greatest(p_version, (SELECT max(w.version) FROM workflows w WHERE w.name = p_workflow AND w.runtime = 'temporal')), p_tenant, p_input, p_parent_task, coalesce(p_origin, v_id), format('00-%s-%s-01',
        coalesce(substring(p_traceparent FROM '^00-([0-9a-f]{32})-'), trace_id('workflow', v_id::text)),
        span_id('escalate', v_id::text)), v_now, v_now, v_now);
    PERFORM push_outbox(v_id, 'start');
    RETURN v_id;
END $$;

-- Leases messages of some kinds: of each stream the first open one only, so that deliveries keep their order. Starts only of
-- what is in p_loaded, "name@version", and those that no worker has had loaded for five minutes in which some were there: whoever
-- leases them refuses them.
CREATE FUNCTION backbeat.lease_outbox(p_kinds text[], p_limit integer, p_seconds double precision, p_loaded text[] DEFAULT NULL) RETURNS TABLE (
    stream uuid, seq integer, kind text, lease bigint, attempts integer,
    workflow text, version integer, temporal_id text, status text, state_seq integer) LANGUAGE sql SECURITY DEFINER AS $$
    WITH picked AS (
        SELECT o.stream, o.seq FROM temporal_outbox o JOIN orchestrated_workflows w ON w.id = o.stream, (SELECT clock(), clock() - interval '5 minutes') AS t(at, ago)
        WHERE o.kind = ANY (p_kinds) AND o.delivered_at IS NULL AND o.dead_at IS NULL AND o.lease_until <= t.at
          AND (p_loaded IS NULL OR w.workflow || '@' || w.version = ANY (p_loaded) OR o.lease_until < t.ago
               AND EXISTS (SELECT FROM presence p WHERE p.until > t.at - interval '1 minute' AND p.since < t.ago)
               AND NOT EXISTS (SELECT FROM workers k WHERE k.kind = 'temporal' AND k.seen_at > t.ago AND w.workflow || '@' || w.version = ANY (k.loaded)))
          AND NOT EXISTS (SELECT FROM temporal_outbox e
                          WHERE e.stream = o.stream AND e.seq < o.seq AND e.delivered_at IS NULL AND e.dead_at IS NULL)
        ORDER BY o.lease_until LIMIT p_limit FOR UPDATE OF o SKIP LOCKED
    )
    UPDATE temporal_outbox o SET lease = nextval('leases'), lease_until = clock() + make_interval(secs => p_seconds), attempts = o.attempts + 1
    FROM picked p, orchestrated_workflows w WHERE (o.stream, o.seq, w.id) = (p.stream, p.seq, p.stream)
    RETURNING o.stream, o.seq, o.kind, o.lease, o.attempts, w.workflow, w.version, w.temporal_id, w.status, w.state_seq $$;

-- Records how a delivery went: delivered, retry (not before p_delay seconds) or dead. False when the lease is no longer the
-- caller's. A start that is delivered makes the workflow run; one that is dead fails it.
CREATE FUNCTION backbeat.settle_outbox(p_stream uuid, p_seq integer, p_lease bigint, p_outcome text, p_error text DEFAULT NULL, p_delay double precision DEFAULT 0,
    p_run_id text DEFAULT NULL) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE v_now timestamptz; v_kind text;
BEGIN
    PERFORM FROM orchestrated_workflows WHERE id = p_stream FOR NO KEY UPDATE;
    v_now := clock();
    UPDATE temporal_outbox
    SET delivered_at = CASE p_outcome WHEN 'delivered' THEN v_now END, dead_at = CASE p_outcome WHEN 'dead' THEN v_now END,
        last_error = p_error, lease_until = v_now + make_interval(secs => p_delay)
    WHERE (stream, seq, lease) = (p_stream, p_seq, p_lease) AND delivered_at IS NULL AND dead_at IS NULL
    RETURNING kind INTO v_kind;
    UPDATE orchestrated_workflows
    SET status = CASE p_outcome WHEN 'dead' THEN 'failed' ELSE 'running' END, run_id = p_run_id, updated_at = v_now, checked_at = v_now,
        error = CASE p_outcome WHEN 'dead' THEN p_error END, finished_at = CASE p_outcome WHEN 'dead' THEN v_now END
    WHERE id = p_stream AND status = 'starting' AND v_kind = 'start' AND p_outcome <> 'retry';
    PERFORM audit('(worker)', 'workflow.refused', p_stream::text, jsonb_build_object('error', p_error)) WHERE v_kind = 'start' AND p_outcome = 'dead';
    RETURN v_kind IS NOT NULL;
END $$;

-- What a workflow says of itself, only where it is news. A workflow that ends takes its pending requests with it; an escalation that
-- asked for nothing that could be decided is on record as refused.
CREATE FUNCTION backbeat.project_state(p_workflow uuid, p_seq integer, p_status text, p_run_id text, p_waiting_for text DEFAULT NULL, p_result jsonb DEFAULT NULL,
    p_error text DEFAULT NULL) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE v_ended boolean := p_status IN ('completed', 'failed', 'cancelled');
    v_now timestamptz; v_request uuid;
BEGIN
    PERFORM FROM orchestrated_workflows WHERE id = p_workflow FOR NO KEY UPDATE;
    v_now := clock();
    UPDATE orchestrated_workflows
    SET status = p_status, state_seq = p_seq, run_id = p_run_id, waiting_for = p_waiting_for, result = p_result, error = p_error,
        updated_at = CASE WHEN waiting_for = p_waiting_for THEN updated_at ELSE v_now END, checked_at = v_now, finished_at = CASE WHEN v_ended THEN v_now END
    WHERE id = p_workflow AND state_seq < p_seq AND finished_at IS NULL;
    IF NOT FOUND THEN RETURN false; END IF;
    IF v_ended THEN
        FOR v_request IN UPDATE approval_requests SET state = 'cancelled', closed_at = v_now, closed_by = '(workflow)'
            WHERE workflow_id = p_workflow AND (state IN ('pending', 'changes') OR state = 'approved' AND effect_after > v_now) RETURNING id
        LOOP
            PERFORM audit('(workflow)', 'approval.cancelled', v_request::text, jsonb_build_object('workflow', p_status));
        END LOOP;
        PERFORM audit('(workflow)', 'workflow.refused', p_workflow::text, jsonb_build_object('error', p_error)) FROM orchestrated_workflows w
        WHERE (w.id, w.workflow, w.status) = (p_workflow, 'approve_effect', 'failed') AND NOT EXISTS (SELECT FROM approval_requests r WHERE r.workflow_id = w.id);
    END IF;
    RETURN true;
END $$;

-- Open workflows that nobody has looked at for so many seconds; they count as looked at from now on.
CREATE FUNCTION backbeat.workflows_to_check(p_limit integer, p_seconds double precision) RETURNS TABLE (
    id uuid, temporal_id text, status text, state_seq integer) LANGUAGE sql SECURITY DEFINER AS $$
    WITH picked AS (
        SELECT w.id FROM orchestrated_workflows w
        WHERE w.finished_at IS NULL AND w.checked_at <= (SELECT clock()) - make_interval(secs => p_seconds)
        ORDER BY w.checked_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE orchestrated_workflows w SET checked_at = clock() FROM picked p WHERE w.id = p.id
    RETURNING w.id, w.temporal_id, w.status, w.state_seq $$;

-- Temporal does not know this workflow: start it again, under a new id if it once ran. What was decided stands in Postgres.
CREATE FUNCTION backbeat.restart_workflow(p_workflow uuid, p_temporal_id text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM FROM orchestrated_workflows WHERE id = p_workflow AND temporal_id = p_temporal_id AND finished_at IS NULL FOR NO KEY UPDATE;
    UPDATE orchestrated_workflows
    SET generation = generation + CASE WHEN status = 'starting' THEN 0 ELSE 1 END, status = 'starting', run_id = NULL, waiting_for = NULL, updated_at = clock()
    WHERE FOUND AND id = p_workflow AND NOT EXISTS (
        SELECT FROM temporal_outbox WHERE stream = p_workflow AND kind = 'start' AND delivered_at IS NULL AND dead_at IS NULL);
    PERFORM push_outbox(p_workflow, 'start') WHERE FOUND;
    RETURN FOUND;
END $$;

-- A moment plus so many seconds; where the policy names a calendar only its hours count. NULL when it never comes.
CREATE FUNCTION backbeat.after_time(p_tenant text, p_policy jsonb, p_from timestamptz, p_seconds double precision) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT p_from + make_interval(secs => p_seconds) WHERE NOT p_policy ? 'calendar'
    UNION ALL (
    SELECT s.closes - make_interval(secs => s.worked - p_seconds) FROM (
        SELECT h.closes, sum(extract(epoch FROM h.closes - greatest(h.opens, p_from))) OVER (ORDER BY h.closes)::double precision AS worked
        FROM calendars c, LATERAL generate_series(-1, 2000) AS n, LATERAL (SELECT (p_from AT TIME ZONE c.time_zone)::date + n) AS d(day),
            LATERAL (SELECT (d.day + c.opens) AT TIME ZONE c.time_zone, (d.day + c.closes) AT TIME ZONE c.time_zone) AS h(opens, closes)
        WHERE (c.tenant, c.name) = (p_tenant, p_policy ->> 'calendar')
          AND extract(isodow FROM d.day)::integer = ANY (c.days) AND d.day <> ALL (c.holidays) AND h.closes > p_from) AS s
    WHERE s.worked >= p_seconds ORDER BY s.closes LIMIT 1) $$;

-- When people are reminded next: every so often, and so long before the deadline. NULL when never.
CREATE FUNCTION backbeat.next_reminder(p_tenant text, p_policy jsonb, p_deadline timestamptz, p_at timestamptz) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT least(after_time(p_tenant, p_policy, p_at, (p_policy ->> 'remind_every')::double precision), CASE WHEN l.at > p_at THEN l.at END)
    FROM (SELECT p_deadline - make_interval(secs => (p_policy ->> 'remind_before')::double precision)) AS l(at) $$;

CREATE FUNCTION backbeat.set_calendar(p_tenant text, p_name text, p_time_zone text, p_days integer[], p_opens time, p_closes time, p_holidays date[]) RETURNS void
LANGUAGE sql SECURITY DEFINER AS $$
    SELECT backbeat.now() AT TIME ZONE p_time_zone;
    DELETE FROM calendars c WHERE (c.tenant, c.name) = (p_tenant, p_name);
    INSERT INTO calendars (tenant, name, time_zone, days, opens, closes, holidays) VALUES (p_tenant, p_name, p_time_zone, p_days, p_opens, p_closes, p_holidays);
    SELECT audit(session_user, 'calendar.set', p_tenant || '/' || p_name, to_jsonb(c)) FROM calendars c WHERE (c.tenant, c.name) = (p_tenant, p_name); $$;

CREATE FUNCTION backbeat.note_presence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO presence AS p SELECT coalesce(max(o.since), NEW.seen_at), NEW.seen_at FROM presence o WHERE o.until > NEW.seen_at - interval '1 minute'
    ON CONFLICT (since) DO UPDATE SET until = greatest(p.until, excluded.until);
    RETURN NULL;
END $$;
CREATE TRIGGER presence AFTER INSERT OR UPDATE OF seen_at ON backbeat.workers FOR EACH ROW WHEN (NEW.kind = 'temporal') EXECUTE FUNCTION backbeat.note_presence();

-- A deadline that passed while no Temporal worker was there comes later, by as long as nobody was. The caller holds the workflow's row.
CREATE FUNCTION backbeat.extended(p_request backbeat.approval_requests, p_at timestamptz) RETURNS backbeat.approval_requests LANGUAGE plpgsql AS $$
DECLARE v_gone timestamptz := (SELECT max(p.until) FROM presence p WHERE p.since <= p_request.deadline);
    v_back timestamptz := least(p_at, (SELECT min(p.since) FROM presence p WHERE p.since > v_gone));
    v_lost interval := v_back - greatest(v_gone, p_request.requested_at, p_request.outages_until);
BEGIN
    IF p_request.closed_at IS NULL AND p_at >= p_request.deadline AND v_gone < p_request.deadline - interval '1 minute' AND v_lost > '0' THEN
        UPDATE approval_requests r SET deadline = r.deadline + v_lost, outages_until = v_back WHERE r.id = p_request.id RETURNING * INTO p_request;
        UPDATE orchestrated_workflows w SET deadline = p_request.deadline WHERE w.id = p_request.workflow_id;
        PERFORM audit('(outage)', 'approval.extended', p_request.id::text, jsonb_build_object('from', v_gone, 'until', v_back, 'deadline', p_request.deadline));
    END IF;
    RETURN p_request;
END $$;

CREATE FUNCTION backbeat.fits(p_rule jsonb, p_user text, p_groups text[]) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(p_rule -> 'approvers' ? p_user, false) OR coalesce(p_rule -> 'groups' ?| p_groups, false);

-- The rules of a request, each with the people of the escalation steps whose time has come: they may stand in for anybody.
CREATE FUNCTION backbeat.rules_at(p_request backbeat.approval_requests, p_at timestamptz) RETURNS SETOF jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('needed', coalesce((r.rule ->> 'needed')::integer, 1),
        'approvers', coalesce(r.rule -> 'approvers', '[]') || u.approvers, 'groups', coalesce(r.rule -> 'groups', '[]') || u.groups)
    FROM jsonb_array_elements(coalesce(p_request.policy -> 'rules', jsonb_build_array(p_request.policy))) AS r(rule), (
        SELECT coalesce(jsonb_path_query_array(jsonb_agg(e.step), '$[*].approvers[*]'), '[]') AS approvers,
               coalesce(jsonb_path_query_array(jsonb_agg(e.step), '$[*].groups[*]'), '[]') AS groups
        FROM jsonb_array_elements(p_request.policy -> 'escalate') WITH ORDINALITY AS e(step, n) WHERE p_request.escalate_at[e.n] <= p_at) AS u $$;

-- Rights that are handed on at a moment, for one request or for all: the last word of each, while it lasts, and what was said of the
-- one request goes first. An earlier word that would last longer does not come back: it was taken back.
CREATE FUNCTION backbeat.handed_on(p_request uuid, p_at timestamptz) RETURNS TABLE (user_name text, to_user text, groups text[]) LANGUAGE sql STABLE AS $$
    SELECT h.user_name, h.to_user, h.groups FROM (SELECT DISTINCT ON (w.user_name) * FROM (
            SELECT DISTINCT ON (d.user_name, d.request_id) d.* FROM approval_decisions d
            WHERE d.decision = 'delegate' AND (d.request_id IS NULL OR d.request_id = p_request)
            ORDER BY d.user_name, d.request_id, d.decided_at DESC, d.id DESC) AS w
        WHERE w.until > p_at ORDER BY w.user_name, w.request_id IS NULL) AS h
    WHERE h.user_name <> h.to_user $$;

-- Whose rights a person may use on a request: her own unless handed on, and those handed to her, but not handed twice.
-- barred: four eyes forbid her, or whose right it is, to approve, having asked for it or edited it.
CREATE FUNCTION backbeat.rights(p_request backbeat.approval_requests, p_user text, p_groups text[], p_at timestamptz)
RETURNS TABLE (name text, groups text[], barred boolean) LANGUAGE sql STABLE AS $$
    SELECT m.name, m.groups, p_request.policy @> '{"four_eyes": true}' AND EXISTS (SELECT FROM (SELECT p_request.requested_by UNION ALL
                     SELECT e.user_name FROM approval_decisions e WHERE (e.request_id, e.decision) = (p_request.id, 'edit')) AS a(name)
        WHERE a.name IN (p_user, m.name))
    FROM (SELECT p_user, p_groups WHERE NOT EXISTS (SELECT FROM handed_on(p_request.id, p_at) AS h WHERE h.user_name = p_user)
          UNION ALL SELECT h.user_name, h.groups FROM handed_on(p_request.id, p_at) AS h WHERE h.to_user = p_user) AS m(name, groups)
    WHERE EXISTS (SELECT FROM rules_at(p_request, p_at) AS r(rule) WHERE fits(r.rule, m.name, m.groups)) $$;

-- Whether every rule has the approvals it needs, with one more by this right.
CREATE FUNCTION backbeat.enough(p_request backbeat.approval_requests, p_right text, p_groups text[], p_at timestamptz) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (SELECT FROM rules_at(p_request, p_at) AS r(rule) WHERE (r.rule ->> 'needed')::integer > fits(r.rule, p_right, p_groups)::integer + (
        SELECT count(*) FROM approval_decisions d WHERE (d.request_id, d.revision, d.decision) = (p_request.id, p_request.revision, 'approve')
          AND fits(r.rule, d.for_user, d.groups))) $$;

-- Whether too few people who may approve hold a token, or have approved, for some rule ever to be met.
CREATE FUNCTION backbeat.nobody_can(p_request backbeat.approval_requests, p_at timestamptz) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT p_request.policy @> '{"allow_unsigned_signal": true}' AND EXISTS (
        SELECT FROM rules_at(p_request, p_at) AS r(rule) WHERE (r.rule ->> 'needed')::integer > (SELECT count(*) FROM (
            SELECT t.user_name FROM api_tokens t, LATERAL rights(p_request, t.user_name, t.groups, p_at) AS g
            WHERE t.revoked_at IS NULL AND (t.expires_at > p_at) IS NOT FALSE AND NOT g.barred AND fits(r.rule, g.name, g.groups)
            UNION SELECT d.user_name FROM approval_decisions d
            WHERE (d.request_id, d.revision, d.decision) = (p_request.id, p_request.revision, 'approve') AND fits(r.rule, d.for_user, d.groups)) AS people)) $$;

-- For whom: p_users, or everybody who is asked now and whoever their rights are handed to; reminders spare who approved.
CREATE FUNCTION backbeat.tell(p_request backbeat.approval_requests, p_event text, p_facts jsonb, p_at timestamptz, p_users text[] DEFAULT NULL) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO notifications SELECT uuid7(p_at), p_event, p_request.id, p_request.tenant, coalesce(p_users, ARRAY(SELECT DISTINCT coalesce(h.to_user, u.name)
        FROM rules_at(p_request, p_at) AS r(rule), LATERAL jsonb_array_elements_text(r.rule -> 'approvers') AS u(name)
        LEFT JOIN handed_on(p_request.id, p_at) AS h ON h.user_name = u.name
        WHERE p_event <> 'reminded' OR NOT EXISTS (
            SELECT FROM approval_decisions d WHERE (d.request_id, d.revision, d.decision, d.for_user) = (p_request.id, p_request.revision, 'approve', u.name))
        ORDER BY 1)),
        CASE WHEN p_users IS NULL THEN ARRAY(
            SELECT DISTINCT g.name FROM rules_at(p_request, p_at) AS r(rule), LATERAL jsonb_array_elements_text(r.rule -> 'groups') AS g(name) ORDER BY 1) ELSE '{}' END,
        p_facts || jsonb_build_object('title', p_request.title, 'state', p_request.state, 'revision', p_request.revision,
            'hash', p_request.hash, 'deadline', p_request.deadline), p_at $$;

-- Asks for a decision on exactly what the workflow's input says, by the rule that stands there: no caller can name another.
-- p_hash is of title and payload; a wrong one makes the request undecidable, since approvers sign what they are shown.
-- A second call for the same step answers with the first one's row. p_editable NULL: the effect is not loaded, which people are told;
-- they are asked, as it were, when it is.
CREATE FUNCTION backbeat.create_approval(p_workflow uuid, p_step text, p_hash text, p_editable boolean DEFAULT false) RETURNS SETOF backbeat.approval_requests
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE v_workflow orchestrated_workflows; v_policy jsonb; v_request approval_requests; v_now timestamptz;
BEGIN
    SELECT * INTO v_workflow FROM orchestrated_workflows WHERE id = p_workflow AND finished_at IS NULL FOR NO KEY UPDATE;
    v_now := clock();
    IF FOUND AND NOT EXISTS (SELECT FROM approval_requests r WHERE (r.workflow_id, r.step) = (p_workflow, p_step)) THEN
        v_policy := v_workflow.input -> 'policy';
        IF NOT EXISTS (SELECT FROM calendars c WHERE (c.tenant, c.name) = (v_workflow.tenant, v_policy ->> 'calendar')) AND v_policy ? 'calendar' THEN
            RAISE EXCEPTION 'policy.calendar: there is no calendar %', v_policy ->> 'calendar' USING ERRCODE = 'check_violation';
        END IF;
        INSERT INTO approval_requests (id, workflow_id, step, tenant, title, payload, hash, policy, requested_at, deadline, requested_by, editable, escalate_at, remind_at)
        SELECT uuid7(), p_workflow, p_step, v_workflow.tenant, i.title, jsonb_build_object('effect', i.effect, 'request', i.request), p_hash, v_policy,
               v_now, after_time(v_workflow.tenant, v_policy, v_now, i.deadline_seconds), i.requested_by, p_editable,
               ARRAY(SELECT after_time(v_workflow.tenant, v_policy, v_now, (e.step ->> 'after')::double precision)
                     FROM jsonb_array_elements(v_policy -> 'escalate') WITH ORDINALITY AS e(step, n) ORDER BY e.n),
               next_reminder(v_workflow.tenant, v_policy, after_time(v_workflow.tenant, v_policy, v_now, i.deadline_seconds), v_now)
        FROM jsonb_to_record(v_workflow.input) AS i(title text, effect jsonb, request jsonb, deadline_seconds double precision, requested_by text)
        RETURNING * INTO v_request;
        UPDATE orchestrated_workflows SET deadline = v_request.deadline, updated_at = v_now WHERE id = p_workflow;
    ELSE
        UPDATE approval_requests r SET editable = p_editable
        WHERE (r.workflow_id, r.step) = (p_workflow, p_step) AND r.closed_at IS NULL AND r.editable IS NULL AND p_editable IS NOT NULL RETURNING * INTO v_request;
    END IF;
    PERFORM tell(v_request, CASE WHEN p_editable IS NULL THEN 'unloaded' ELSE 'asked' END, '{}', v_now) WHERE v_request.id IS NOT NULL;
    PERFORM audit('(workflow)', CASE WHEN p_editable IS NULL THEN 'approval.unloaded' ELSE 'approval.requested' END, v_request.id::text, jsonb_build_object('workflow', p_workflow,
        'step', p_step, 'title', v_request.title, 'hash', p_hash, 'policy', v_request.policy)) WHERE v_request.id IS NOT NULL;
    RETURN QUERY SELECT * FROM approval_requests r WHERE (r.workflow_id, r.step) = (p_workflow, p_step);
END $$;

-- The next revision, of this one only: votes on it are void, and everybody is asked again. NULL where something else is shown by now.
CREATE FUNCTION backbeat.revise(p_request uuid, p_revision integer, p_body jsonb, p_by text, p_at timestamptz) RETURNS backbeat.approval_requests LANGUAGE plpgsql AS $$
DECLARE v_request approval_requests;
BEGIN
    UPDATE approval_requests r
    SET state = 'pending', revision = r.revision + 1, payload = jsonb_set(r.payload, '{request}', p_body), stuck = false,
        hash = encode(sha256(convert_to(canonical(jsonb_build_object('title', r.title) || jsonb_set(r.payload, '{request}', p_body)), 'UTF8')), 'hex')
    WHERE r.id = p_request AND r.revision = p_revision AND r.closed_at IS NULL AND r.deadline > p_at RETURNING * INTO v_request;
    PERFORM tell(v_request, 'asked', jsonb_build_object('by', p_by), p_at) WHERE v_request.id IS NOT NULL;
    RETURN v_request;
END $$;

-- What comes back when changes were requested, of the revision they were requested of; false when that is no longer wanted.
CREATE FUNCTION backbeat.revise_approval(p_request uuid, p_revision integer, p_body jsonb) RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$
    SELECT count(audit('(workflow)', 'approval.revised', p_request::text, jsonb_build_object('revision', n.revision, 'hash', n.hash))) > 0
    FROM (SELECT FROM approval_requests WHERE id = p_request AND state = 'changes' FOR UPDATE) AS r,
        LATERAL revise(p_request, p_revision, p_body, '(workflow)', clock()) AS n WHERE n.id IS NOT NULL $$;

-- Whose token signed p_message: a decision token is bbd_<token id>_<mac>, mac = sha256(key || sha256(message)). Both inputs
-- have a fixed length, so nothing can be appended to either.
CREATE FUNCTION backbeat.signer(p_proof text, p_message text, p_at timestamptz) RETURNS backbeat.api_tokens LANGUAGE sql STABLE AS $$
    -- Compared by their hashes, so that the time it takes tells nothing about the mac.
    SELECT t.* FROM api_tokens t
    WHERE t.id = split_part(p_proof, '_', 2) AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > p_at)
      AND sha256(convert_to(p_proof, 'UTF8')) = sha256(convert_to(format(
          'bbd_%s_%s', t.id, encode(sha256(t.key || sha256(convert_to(p_message, 'UTF8'))), 'hex')), 'UTF8')) $$;

-- The one rule of every decision. Commits it with its audit row, its notifications and, when the workflow must know, a poke; or
-- refuses and audits that. The proof signs request, decision, hash of what was shown, sha256 of the body and comment. The body
-- of an edit is the new request, of a delegation {"to", "seconds"?}, of a claim {"seconds"?}; the caller says in p_problem what the
-- effect's schema has against it. The verdict is one of
--   accepted | repeated (this decision id was accepted before: the first result)
--   malformed (problem says which field) | unauthenticated | not_found | not_eligible | closed | expired | stale (another hash)
--   four_eyes | voted | changes (asked for: wait for the new revision) | no_rounds | not_editable | claimed | not_approved | too_late
-- One rejection closes a request; approvals close it when every rule has as many as it needs.
CREATE FUNCTION backbeat.decide(p_proof text, p_request uuid, p_decision text, p_hash text, p_comment text, p_decision_id uuid, p_via text, p_body jsonb DEFAULT
    NULL, p_problem text DEFAULT NULL) RETURNS TABLE (verdict text, user_name text, state text, closed_by text, closed_at timestamptz, deadline timestamptz, problem
    text) LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_column
DECLARE c_refusals_a_minute CONSTANT integer := 30;
    c_largest CONSTANT integer := 262144;
    v_comment text := coalesce(p_comment, '');
    v_body text; v_problem text; v_user text; v_verdict text; v_state text;
    v_now timestamptz; v_until timestamptz; v_unsigned boolean; v_workflow uuid; v_right record;
    v_request approval_requests; v_prior approval_decisions; v_token api_tokens;
BEGIN
    SELECT r.workflow_id INTO v_workflow FROM approval_requests r WHERE r.id = p_request;
    PERFORM FROM orchestrated_workflows w WHERE w.id = v_workflow FOR NO KEY UPDATE;
    SELECT * INTO v_request FROM approval_requests r WHERE r.id = p_request FOR UPDATE;
    v_now := clock();
    v_problem := coalesce(p_problem, CASE WHEN p_decision_id IS NULL THEN 'decision_id is missing'
        WHEN coalesce(p_via NOT IN ('cli', 'web', 'signal'), true) THEN 'via is not cli, web or signal'
        WHEN coalesce(p_decision NOT IN ('approve', 'reject', 'request_changes', 'edit', 'revoke', 'comment', 'claim', 'unclaim', 'delegate'), true)
            THEN 'decision is none of those there are'
        WHEN p_request IS NULL AND p_decision <> 'delegate' THEN 'request is missing'
        WHEN p_decision IN ('approve', 'reject', 'request_changes', 'edit', 'revoke') AND coalesce(p_hash !~ '^[0-9a-f]{64}$', true)
            THEN 'hash is not 64 hexadecimal digits'
        WHEN length(v_comment) > 4000 THEN 'comment has more than 4000 letters'
        WHEN p_decision IN ('comment', 'request_changes') AND v_comment = '' THEN 'comment is empty'
        WHEN coalesce(jsonb_typeof(p_body), '') <> CASE WHEN p_decision IN ('edit', 'claim', 'delegate') THEN 'object' ELSE '' END
            THEN 'body is not what goes with this decision'
        WHEN octet_length(p_body::text) > c_largest THEN format('body has %s bytes, of at most %s', octet_length(p_body::text), c_largest)
        WHEN p_decision <> 'edit' AND p_body ? 'seconds' AND NOT jsonb_path_exists(p_body, '$.seconds ? (@ >= 1 && @ <= 31622400)')
            THEN 'body.seconds is not a number from 1 to 31622400'
        WHEN p_decision = 'delegate' AND NOT EXISTS (
            SELECT FROM api_tokens t WHERE t.user_name = p_body ->> 'to' AND t.revoked_at IS NULL AND (t.expires_at > v_now) IS NOT FALSE)
            THEN 'body.to is nobody who holds a token' END);
    BEGIN
        v_body := encode(sha256(convert_to(canonical(p_body), 'UTF8')), 'hex');
    EXCEPTION WHEN SQLSTATE 'BB003' THEN
        v_problem := coalesce(v_problem, 'body: ' || SQLERRM);
    END;
    v_token := signer(p_proof, concat_ws(':', p_request, p_decision, p_hash, v_body, v_comment), v_now);
    v_unsigned := p_proof IS NULL AND p_via = 'signal' AND p_decision IN ('approve', 'reject') AND coalesce(v_request.policy @> '{"allow_unsigned_signal": true}', false);
    v_user := CASE WHEN v_unsigned THEN '(unsigned signal)' ELSE coalesce(v_token.user_name, '(unauthenticated)') END;
    SELECT * INTO v_prior FROM approval_decisions d WHERE d.id = p_decision_id;
    v_request := extended(v_request, v_now);
    -- Her own right, before one that was handed to her; one that has not voted yet, before one that has.
    SELECT g.*, EXISTS (SELECT FROM approval_decisions d WHERE (d.request_id, d.revision, d.decision) = (p_request, v_request.revision, 'approve')
        AND (d.for_user = g.name OR d.user_name = v_user)) AS voted
    INTO v_right FROM rights(v_request, v_user, v_token.groups, v_now) AS g ORDER BY g.barred, voted, g.name <> v_user, g.name LIMIT 1;

    v_verdict := CASE WHEN v_problem IS NOT NULL THEN 'malformed'
        WHEN v_token.id IS NULL AND NOT v_unsigned THEN 'unauthenticated'
        WHEN p_request IS NOT NULL AND v_request.id IS NULL THEN 'not_found'
        WHEN v_prior.id IS NOT NULL THEN CASE
            WHEN (v_prior.request_id, v_prior.user_name, v_prior.decision) IS NOT DISTINCT FROM (p_request, v_user, p_decision) THEN 'repeated' ELSE 'malformed' END
        WHEN p_request IS NULL THEN 'accepted'
        WHEN NOT v_unsigned AND v_right.name IS NULL AND NOT (p_decision = 'delegate' AND EXISTS (
            SELECT FROM rules_at(v_request, v_now) AS r(rule) WHERE fits(r.rule, v_user, v_token.groups))) THEN 'not_eligible'
        WHEN v_request.closed_at IS NOT NULL AND NOT (v_request.state = 'approved' AND p_decision IN ('revoke', 'comment')) THEN 'closed'
        WHEN v_request.closed_at IS NULL AND v_now >= v_request.deadline THEN 'expired'
        WHEN p_hash <> v_request.hash THEN 'stale'
        WHEN p_decision = 'approve' AND v_right.barred THEN 'four_eyes'
        WHEN p_decision = 'approve' AND v_right.voted THEN 'voted'
        WHEN p_decision IN ('approve', 'request_changes') AND v_request.state = 'changes' THEN 'changes'
        WHEN p_decision = 'request_changes' AND coalesce((v_request.policy ->> 'max_rounds')::integer, 0) <= (
            SELECT count(*) FROM approval_decisions d WHERE (d.request_id, d.decision) = (p_request, 'request_changes')) THEN 'no_rounds'
        WHEN p_decision = 'edit' AND v_request.editable IS NOT TRUE THEN 'not_editable'
        WHEN p_decision IN ('claim', 'unclaim') AND v_request.claimed_until > v_now AND v_request.claimed_by <> v_user THEN 'claimed'
        WHEN p_decision = 'revoke' AND v_request.state <> 'approved' THEN 'not_approved'
        WHEN p_decision = 'revoke' AND EXISTS (SELECT FROM side_effects e WHERE e.approval_id = p_request) THEN 'too_late'
        ELSE 'accepted' END;

    v_state := v_request.state;
    IF v_verdict = 'accepted' THEN
        v_state := CASE WHEN p_decision = 'reject' THEN 'rejected'
            WHEN p_decision = 'approve' AND (v_unsigned OR enough(v_request, v_right.name, v_right.groups, v_now)) THEN 'approved'
            WHEN p_decision = 'request_changes' THEN 'changes'
            WHEN p_decision = 'edit' THEN 'pending'
            WHEN p_decision = 'revoke' THEN 'revoked'
            ELSE v_request.state END;
        v_until := CASE p_decision WHEN 'claim' THEN v_now + make_interval(secs => coalesce((p_body ->> 'seconds')::double precision, 900))
            WHEN 'delegate' THEN coalesce(v_now + make_interval(secs => (p_body ->> 'seconds')::double precision), 'infinity') END;
        INSERT INTO approval_decisions VALUES (
            p_decision_id, p_request, coalesce(v_request.revision, 0), v_user, CASE WHEN p_decision = 'delegate' THEN v_user ELSE coalesce(v_right.name, v_user) END,
            CASE WHEN p_decision = 'delegate' THEN v_token.groups ELSE coalesce(v_right.groups, '{}') END, v_token.id, p_decision, p_hash, p_body,
            CASE WHEN p_decision = 'delegate' THEN p_body ->> 'to' END, v_until, v_comment, p_via, v_state, v_now);
        IF v_state <> v_request.state THEN
            PERFORM push_outbox(v_workflow, 'poke');
            UPDATE approval_requests r SET state = v_state, closed_at = CASE WHEN v_state NOT IN ('pending', 'changes') THEN v_now END,
                closed_by = CASE WHEN v_state NOT IN ('pending', 'changes') THEN v_user END,
                effect_after = v_now + make_interval(secs => coalesce((r.policy ->> 'effect_delay')::double precision, 0))
            WHERE r.id = p_request RETURNING * INTO v_request;
            PERFORM tell(v_request, CASE v_state WHEN 'changes' THEN 'changes' ELSE 'decided' END, jsonb_build_object('by', v_user, 'comment', v_comment), v_now)
            WHERE v_state <> 'pending';
        END IF;
        IF p_decision = 'edit' THEN
            v_request := revise(p_request, v_request.revision, p_body, v_user, v_now);
        ELSIF p_decision IN ('claim', 'unclaim') THEN
            UPDATE approval_requests r SET claimed_by = CASE WHEN p_decision = 'claim' THEN v_user END, claimed_until = v_until WHERE r.id = p_request;
        ELSIF p_decision = 'delegate' THEN
            PERFORM tell(v_request, 'delegated', jsonb_build_object('by', v_user, 'until', v_until), v_now, ARRAY[p_body ->> 'to']);
        END IF;
        PERFORM audit(v_user, 'approval.' || p_decision, coalesce(p_request::text, v_user), jsonb_strip_nulls(jsonb_build_object(
            'decision_id', p_decision_id, 'hash', p_hash, 'comment', v_comment, 'via', p_via, 'token', v_token.id, 'state', v_state,
            'body', p_body, 'for', nullif(v_right.name, v_user), 'revision', v_request.revision)));
    ELSIF (SELECT count(*) FROM audit_log a WHERE a.action = 'approval.refused' AND a.actor = v_user AND a.at > v_now - interval '1 minute') < c_refusals_a_minute THEN
        PERFORM audit(v_user, 'approval.refused', coalesce(p_request::text, '(none)'), jsonb_strip_nulls(jsonb_build_object(
            'verdict', v_verdict, 'decision', left(p_decision, 100), 'hash', left(p_hash, 100), 'via', p_via, 'token', v_token.id, 'problem', left(v_problem, 2000))));
    END IF;
    RETURN QUERY SELECT v_verdict, v_user, CASE v_verdict WHEN 'repeated' THEN v_prior.state_after ELSE v_state END,
        v_request.closed_by, v_request.closed_at, v_request.deadline, v_problem;
END $$;

-- Does what time alone does to a request (remind, escalate, alert that nobody can decide, close at the deadline), and says how
-- it stands: settled when nothing but its effect may follow, and the seconds until time does something again.
-- Silence approves only what was asked for, never an edit, and only where somebody could have refused.
CREATE FUNCTION backbeat.close_if_pending(p_request uuid) RETURNS TABLE (
    state text, settled boolean, seconds_left double precision, closed_by text, closed_at timestamptz, revision integer) LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_column
DECLARE v_request approval_requests; v_was approval_requests; v_stuck boolean; v_now timestamptz;
BEGIN
    PERFORM FROM orchestrated_workflows w WHERE w.id = (SELECT r.workflow_id FROM approval_requests r WHERE r.id = p_request) FOR NO KEY UPDATE;
    SELECT * INTO v_request FROM approval_requests r WHERE r.id = p_request FOR UPDATE;
    v_now := clock();
    IF v_request.state IN ('pending', 'changes') THEN
        v_was := extended(v_request, v_now);
        v_stuck := nobody_can(v_was, v_now);
        UPDATE approval_requests r
        SET stuck = v_stuck, escalated = (SELECT count(*) FROM unnest(r.escalate_at) AS a WHERE a <= v_now),
            remind_at = CASE WHEN r.remind_at <= v_now THEN next_reminder(r.tenant, r.policy, r.deadline, v_now) ELSE r.remind_at END
        WHERE r.id = p_request RETURNING * INTO v_request;
        IF v_now >= v_request.deadline THEN
            UPDATE approval_requests r
            SET closed_at = v_now, closed_by = '(deadline)', effect_after = v_now + make_interval(secs => coalesce((r.policy ->> 'effect_delay')::double precision, 0)),
                state = CASE WHEN r.policy @> '{"on_expiry": "approve"}' AND (r.state, r.revision, r.stuck, r.editable IS NULL) = ('pending', 1, false, false) THEN 'approved' ELSE 'expired' END
            WHERE r.id = p_request RETURNING * INTO v_request;
            PERFORM tell(v_request, 'decided', '{"by": "(deadline)"}', v_now);
            PERFORM audit('(deadline)', 'approval.' || v_request.state, p_request::text, jsonb_build_object('deadline', v_request.deadline));
        ELSE
            PERFORM tell(v_request, e.event, '{}', v_now), audit('(clock)', 'approval.' || e.event, p_request::text, jsonb_build_object('deadline', v_request.deadline))
            FROM (VALUES ('escalated', v_request.escalated > v_was.escalated), ('reminded', v_was.remind_at <= v_now),
                         ('stuck', v_request.stuck AND NOT v_was.stuck)) AS e(event, due) WHERE e.due;
        END IF;
    END IF;
    RETURN QUERY SELECT v_request.state, v_request.closed_at IS NOT NULL AND (v_request.state = 'approved' AND v_request.effect_after > v_now) IS NOT TRUE,
        extract(epoch FROM CASE WHEN v_request.closed_at IS NULL THEN least(v_request.deadline, v_request.remind_at,
            (SELECT min(a) FROM unnest(v_request.escalate_at) AS a WHERE a > v_now)) ELSE greatest(v_request.effect_after, v_now) END - v_now)::double precision,
        v_request.closed_by, v_request.closed_at, v_request.revision WHERE v_request.id IS NOT NULL;
END $$;

-- For begin_effect: true while this approval of exactly this hash stands for this workflow; nothing changes that before it commits.
CREATE FUNCTION backbeat.require_approved(p_approval uuid, p_hash text, p_workflow uuid) RETURNS boolean LANGUAGE sql AS $$
    SELECT count(*) > 0 FROM (SELECT FROM approval_requests
        WHERE id = p_approval AND state = 'approved' AND hash = p_hash AND workflow_id = p_workflow AND effect_after <= clock() FOR SHARE) AS r $$;

-- Somebody left: her tokens end, and her rights are another's on every request, until she has a token again and takes them back.
-- Says on how many open ones. Done by who owns the schema, who alone may say who somebody is; NULL when p_to holds no token.
CREATE FUNCTION backbeat.reassign(p_from text, p_to text, p_reason text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE v_now timestamptz := clock(); v_open integer;
    v_groups text[] := ARRAY(SELECT DISTINCT unnest(t.groups) FROM api_tokens t WHERE t.user_name = p_from ORDER BY 1);
BEGIN
    IF p_from = p_to OR NOT EXISTS (SELECT FROM api_tokens t WHERE t.user_name = p_to AND t.revoked_at IS NULL AND (t.expires_at > v_now) IS NOT FALSE) THEN
        RETURN NULL;
    END IF;
    INSERT INTO approval_decisions (id, revision, user_name, for_user, groups, decision, to_user, until, comment, via, decided_at)
    VALUES (uuid7(), 0, p_from, p_from, v_groups, 'delegate', p_to, 'infinity', p_reason, 'owner', v_now);
    UPDATE api_tokens SET revoked_at = v_now WHERE user_name = p_from AND revoked_at IS NULL;
    SELECT count(*) INTO v_open FROM approval_requests r WHERE r.state IN ('pending', 'changes')
        AND EXISTS (SELECT FROM rules_at(r, v_now) AS a(rule) WHERE fits(a.rule, p_from, v_groups));
    INSERT INTO notifications VALUES (uuid7(), 'delegated', NULL, NULL, ARRAY[p_to], '{}', jsonb_build_object('by', session_user, 'from', p_from, 'open', v_open), v_now);
    PERFORM audit(session_user, 'approval.reassigned', p_from, jsonb_build_object('to', p_to, 'reason', p_reason, 'open', v_open));
    RETURN v_open;
END $$;

-- Tokens are made and revoked by who runs the migrations: no worker may say who somebody is.
CREATE FUNCTION backbeat.create_token(p_key bytea, p_user text, p_groups text[], p_seconds double precision) RETURNS text LANGUAGE sql AS $$
    WITH made AS (INSERT INTO api_tokens (id, key, user_name, groups, created_at, created_by, expires_at) VALUES (left(encode(sha256(p_key), 'hex'), 16), p_key, p_user,
        p_groups, backbeat.now(), session_user, backbeat.now() + make_interval(secs => p_seconds)) RETURNING id)
    SELECT m.id FROM made m WHERE audit(session_user, 'token.created', m.id, jsonb_build_object('user', p_user, 'groups', p_groups)) > 0 $$;

CREATE FUNCTION backbeat.revoke_token(p_id text) RETURNS boolean LANGUAGE sql AS $$
    WITH gone AS (UPDATE api_tokens SET revoked_at = clock() WHERE id = p_id AND revoked_at IS NULL RETURNING id)
    SELECT count(audit(session_user, 'token.revoked', g.id, '{}')) > 0 FROM gone g $$;

-- Ends a task from outside, as an operator may.
CREATE FUNCTION backbeat.cancel_task(p_task uuid, p_reason text) RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$
    SELECT count(audit(session_user, 'task.cancelled', f.id::text, jsonb_build_object('reason', p_reason))) > 0
    FROM finish(ARRAY[p_task], 'cancelled', 'cancelled', p_reason) AS f(id) $$;

GRANT EXECUTE ON FUNCTION backbeat.cancel_task, backbeat.audit_hash, backbeat.set_calendar, backbeat.add_feedback TO backbeat_operator;
GRANT EXECUTE ON FUNCTION backbeat.policy_problem, backbeat.rule_problem, backbeat.audit_hash, backbeat.start_workflow, backbeat.lease_outbox,
    backbeat.settle_outbox, backbeat.project_state, backbeat.workflows_to_check, backbeat.restart_workflow, backbeat.create_approval,
    backbeat.revise_approval, backbeat.decide, backbeat.close_if_pending, backbeat.fits, backbeat.rules_at, backbeat.handed_on, backbeat.rights TO backbeat_worker;

CALL backbeat.pin_functions();
