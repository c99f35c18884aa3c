-- migrate:up

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
    run_id text,
    state_seq integer NOT NULL DEFAULT 0,
    waiting_for text,
    deadline timestamptz,
    result jsonb,
    error text,
    parent_task uuid UNIQUE,
    origin_id uuid NOT NULL,
    traceparent text NOT NULL CHECK (traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    checked_at timestamptz NOT NULL,
    finished_at timestamptz,
    CONSTRAINT ended_says_when CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CONSTRAINT waiting_says_for_what CHECK ((status = 'waiting') = (waiting_for IS NOT NULL)),
    CONSTRAINT failed_says_why CHECK ((status = 'failed') = (error IS NOT NULL)),
    CONSTRAINT only_completed_has_a_result CHECK ((status = 'completed') = (result IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX orchestrated_workflows_open ON backbeat.orchestrated_workflows (checked_at) WHERE finished_at IS NULL;

-- What people say about results, by the piece of work they came from: what false-positive rates are made of.
CREATE TABLE backbeat.feedback (
    id uuid PRIMARY KEY DEFAULT backbeat.uuid7(),
    origin_id uuid NOT NULL,
    finding text NOT NULL DEFAULT '',
    label text NOT NULL CHECK (label <> ''),
    said_by text NOT NULL CHECK (said_by <> ''),
    said_at timestamptz NOT NULL DEFAULT backbeat.now()
);
CREATE INDEX feedback_origin ON backbeat.feedback (origin_id);

-- What Temporal must be told, in order within a stream. lease_until: nobody takes the row before then, because somebody
-- has it or because its last delivery failed. attempts counts deliveries begun.
CREATE TABLE backbeat.temporal_outbox (
    stream uuid NOT NULL REFERENCES backbeat.orchestrated_workflows,
    seq integer NOT NULL CHECK (seq > 0),
    kind text NOT NULL CHECK (kind IN ('start', 'poke', 'wake', 'cancel')),
    lease bigint,
    lease_until timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    delivered_at timestamptz,
    dead_at timestamptz,
    last_error text,
    PRIMARY KEY (stream, seq),
    CONSTRAINT begins_with_a_start CHECK (seq > 1 OR kind = 'start'),
    CONSTRAINT ends_once CHECK (delivered_at IS NULL OR dead_at IS NULL),
    CONSTRAINT dead_says_why CHECK (dead_at IS NULL OR last_error IS NOT NULL)
) WITH (fillfactor = 70);
CREATE INDEX temporal_outbox_open ON backbeat.temporal_outbox (lease_until) WHERE delivered_at IS NULL AND dead_at IS NULL;
-- Also what "no earlier row of the stream is open" reads.
CREATE INDEX temporal_outbox_order ON backbeat.temporal_outbox (stream, seq) WHERE delivered_at IS NULL AND dead_at IS NULL;

-- What is wrong with a policy, for a person; NULL when nothing is. An unknown key is refused: a rule that is
-- misspelt and silently dropped would let somebody decide who may not.
CREATE FUNCTION backbeat.policy_problem(p_policy jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog
RETURN CASE
    WHEN jsonb_typeof(p_policy) IS DISTINCT FROM 'object' THEN 'the policy is not an object'
    WHEN p_policy - '{approvers,groups,needed,allow_unsigned_signal}'::text[] <> '{}' THEN
        'unknown policy key ' || (SELECT string_agg(k, ', ' ORDER BY k)
            FROM jsonb_object_keys(p_policy - '{approvers,groups,needed,allow_unsigned_signal}'::text[]) AS k)
    WHEN jsonb_typeof(coalesce(p_policy -> 'approvers', '[]')) <> 'array'
        OR jsonb_path_exists(p_policy, '$.approvers[*] ? (@.type() != "string" || @ == "")') THEN 'approvers is not a list of user names'
    WHEN jsonb_typeof(coalesce(p_policy -> 'groups', '[]')) <> 'array'
        OR jsonb_path_exists(p_policy, '$.groups[*] ? (@.type() != "string" || @ == "")') THEN 'groups is not a list of group names'
    WHEN jsonb_typeof(coalesce(p_policy -> 'allow_unsigned_signal', 'false')) <> 'boolean' THEN 'allow_unsigned_signal is not true or false'
    WHEN coalesce(p_policy ->> 'needed', '1') !~ '^[1-9][0-9]?$' THEN 'needed is not a number from 1 to 99'
    WHEN p_policy @> '{"allow_unsigned_signal": true}' AND coalesce(p_policy ->> 'needed', '1') <> '1' THEN
        'allow_unsigned_signal cannot go with a quorum'
    WHEN p_policy @> '{"allow_unsigned_signal": true}' OR jsonb_array_length(coalesce(p_policy -> 'groups', '[]')) > 0 THEN NULL
    WHEN coalesce(p_policy ->> 'needed', '1')::integer
        > (SELECT count(DISTINCT a) FROM jsonb_array_elements_text(coalesce(p_policy -> 'approvers', '[]')) AS a) THEN
        'nobody can satisfy the policy: it needs more approvers than it names'
END;

CREATE TABLE backbeat.approval_requests (
    id uuid PRIMARY KEY,
    workflow_id uuid NOT NULL REFERENCES backbeat.orchestrated_workflows,
    step text NOT NULL CHECK (step <> ''),
    tenant text NOT NULL,
    title text NOT NULL CHECK (length(title) BETWEEN 1 AND 300),
    -- Exactly what will be done, {"effect": kind, "request": ...}; hash is the sha256 of it with the title, in canonical form.
    payload jsonb NOT NULL CHECK (payload - '{effect,request}'::text[] = '{}' AND jsonb_typeof(payload -> 'effect') = 'string' AND payload ? 'request'),
    hash text NOT NULL CHECK (hash ~ '^[0-9a-f]{64}$'),
    policy jsonb NOT NULL CONSTRAINT policy_is_sound CHECK (backbeat.policy_problem(policy) IS NULL),
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'approved', 'rejected', 'expired', 'cancelled')),
    requested_at timestamptz NOT NULL,
    deadline timestamptz NOT NULL,
    closed_at timestamptz,
    closed_by text,
    UNIQUE (workflow_id, step),
    CONSTRAINT deadline_lies_ahead CHECK (deadline > requested_at),
    CONSTRAINT closed_says_when_and_by_whom CHECK (
        (state = 'pending') = (closed_at IS NULL) AND (state = 'pending') = (closed_by IS NULL)),
    CONSTRAINT decided_in_time CHECK (state NOT IN ('approved', 'rejected') OR closed_at < deadline)
);
CREATE INDEX approval_requests_pending ON backbeat.approval_requests (tenant, deadline) WHERE state = 'pending';

CREATE TABLE backbeat.approval_decisions (
    id uuid PRIMARY KEY,
    request_id uuid NOT NULL REFERENCES backbeat.approval_requests,
    user_name text NOT NULL,
    token_id text,
    decision text NOT NULL CHECK (decision IN ('approve', 'reject')),
    hash text NOT NULL,
    comment text NOT NULL,
    via text NOT NULL CHECK (via IN ('cli', 'web', 'signal')),
    state_after text NOT NULL CHECK (state_after IN ('pending', 'approved', 'rejected')),
    decided_at timestamptz NOT NULL,
    UNIQUE (request_id, user_name)
);

CREATE TABLE backbeat.audit_log (
    id bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    detail jsonb NOT NULL,
    prev_hash bytea NOT NULL,
    hash bytea NOT NULL
);
CREATE INDEX audit_log_refusals ON backbeat.audit_log (actor, at) WHERE action = 'approval.refused';
CREATE INDEX audit_log_subject ON backbeat.audit_log (subject, id);

CREATE TABLE backbeat.audit_head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id bigint NOT NULL,
    hash bytea NOT NULL
) WITH (fillfactor = 50);
INSERT INTO backbeat.audit_head (id, hash) VALUES (0, sha256('backbeat audit log'));

CREATE FUNCTION backbeat.append_only() RETURNS trigger
LANGUAGE plpgsql SET search_path = backbeat, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON backbeat.approval_decisions EXECUTE FUNCTION backbeat.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON backbeat.audit_log EXECUTE FUNCTION backbeat.append_only();
ALTER TABLE backbeat.approval_decisions ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE backbeat.audit_log ENABLE ALWAYS TRIGGER append_only;

-- key is sha256 of a random token: as good as the token for signing, so workers cannot read it.
-- No user may be called like the actors that are no people, (deadline) and the like.
CREATE TABLE backbeat.api_tokens (
    id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{16}$'),
    key bytea NOT NULL UNIQUE CHECK (octet_length(key) = 32),
    user_name text NOT NULL CHECK (user_name ~ '^[[:alnum:]][[:alnum:]._@+-]{0,99}$'),
    groups text[] NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    expires_at timestamptz CHECK (expires_at > created_at),
    revoked_at timestamptz
);
REVOKE SELECT ON backbeat.api_tokens FROM backbeat_worker, backbeat_operator;
GRANT SELECT (id, user_name, groups, created_at, created_by, expires_at, revoked_at) ON backbeat.api_tokens TO backbeat_worker, backbeat_operator;

CREATE FUNCTION backbeat.audit_hash(
    p_prev bytea, p_id bigint, p_at timestamptz, p_actor text, p_action text, p_subject text, p_detail jsonb) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog
RETURN sha256(p_prev || convert_to(jsonb_build_array(
    p_id, floor(extract(epoch FROM p_at) * 1000000)::bigint, p_actor, p_action, p_subject, p_detail)::text, 'UTF8'));

-- Every writer waits here for the one before it to commit, so this comes last in its transaction.
CREATE FUNCTION backbeat.audit(p_actor text, p_action text, p_subject text, p_detail jsonb) RETURNS bigint
LANGUAGE plpgsql SET search_path = backbeat, pg_temp AS $$
DECLARE
    v_prev audit_head;
    v_at timestamptz;
    v_hash bytea;
BEGIN
    SELECT * INTO v_prev FROM audit_head FOR UPDATE;
    v_at := clock();
    v_hash := audit_hash(v_prev.hash, v_prev.id + 1, v_at, p_actor, p_action, p_subject, p_detail);
    INSERT INTO audit_log VALUES (v_prev.id + 1, v_at, p_actor, p_action, p_subject, p_detail, v_prev.hash, v_hash);
    UPDATE audit_head SET id = v_prev.id + 1, hash = v_hash;
    RETURN v_prev.id + 1;
END
$$;

-- The first row of the audit log that is not as it was written, and what is wrong; no row when all is well.
-- Whoever owns the database can rewrite the whole chain: only a head that was kept elsewhere shows that.
CREATE FUNCTION backbeat.verify_audit() RETURNS TABLE (id bigint, problem text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = backbeat, pg_temp AS $$
    SELECT * FROM (
        SELECT a.id, CASE
            WHEN a.id <> row_number() OVER chain THEN 'a row before it is missing'
            WHEN a.prev_hash <> lag(a.hash, 1, sha256('backbeat audit log')) OVER chain THEN 'it does not follow the row before it'
            WHEN a.hash <> audit_hash(a.prev_hash, a.id, a.at, a.actor, a.action, a.subject, a.detail) THEN 'it was changed'
        END AS problem
        FROM audit_log a WINDOW chain AS (ORDER BY a.id)
        UNION ALL
        SELECT h.id, 'the newest rows are missing' FROM audit_head h
        WHERE h.id > 0 AND NOT EXISTS (SELECT FROM audit_log a WHERE (a.id, a.hash) = (h.id, h.hash))
    ) c WHERE c.problem IS NOT NULL ORDER BY c.id LIMIT 1
$$;

-- The caller holds the workflow's row, or has just made it.
CREATE FUNCTION backbeat.push_outbox(p_stream uuid, p_kind text) RETURNS integer
LANGUAGE sql SET search_path = backbeat, pg_temp AS $$
    INSERT INTO temporal_outbox (stream, seq, kind, lease_until, created_at)
    SELECT p_stream, coalesce(max(seq), 0) + 1, p_kind, clock(), clock() FROM temporal_outbox WHERE stream = p_stream
    RETURNING seq
$$;

-- Makes a workflow's row and the message that starts it, in the caller's transaction; of the newest version that a worker has
-- registered, p_version at least. p_traceparent names the span that
-- escalates; the row's own names the span `escalate`, in the same trace.
CREATE FUNCTION backbeat.start_workflow(
    p_workflow text, p_version integer, p_tenant text, p_input jsonb, p_origin uuid, p_parent_task uuid, p_traceparent text
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = backbeat, pg_temp AS $$
DECLARE
    v_id uuid := uuid7();
    v_now timestamptz := clock();
BEGIN
    INSERT INTO orchestrated_workflows (
        id, workflow, version, tenant, input, parent_task, origin_id, traceparent, created_at, updated_at, checked_at)
    VALUES (v_id, p_workflow, greatest(p_version, (SELECT max(w.version) FROM workflows w WHERE w.name = p_workflow AND w.runtime = 'temporal')), p_tenant, p_input, p_parent_task, coalesce(p_origin, v_id), format('00-%s-%s-01',
        coalesce(substring(p_traceparent FROM '^00-([0-9a-f]{32})-'), trace_id('workflow', v_id::text)),
        span_id('escalate', v_id::text)), v_now, v_now, v_now);
    PERFORM push_outbox(v_id, 'start');
    RETURN v_id;
END
$$;

-- Leases messages of some kinds: of each stream the first open one only, so that deliveries keep their order.
CREATE FUNCTION backbeat.lease_outbox(p_kinds text[], p_limit integer, p_seconds double precision) RETURNS TABLE (
    stream uuid, seq integer, kind text, lease bigint, attempts integer,
    workflow text, version integer, temporal_id text, status text, state_seq integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = backbeat, pg_temp SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock();
BEGIN
    RETURN QUERY
    WITH picked AS (
        SELECT o.stream, o.seq FROM temporal_outbox o
        WHERE o.kind = ANY (p_kinds) AND o.delivered_at IS NULL AND o.dead_at IS NULL AND o.lease_until <= v_now
          AND NOT EXISTS (SELECT FROM temporal_outbox e
                          WHERE e.stream = o.stream AND e.seq < o.seq AND e.delivered_at IS NULL AND e.dead_at IS NULL)
        ORDER BY o.lease_until LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), leased AS (
        UPDATE temporal_outbox o
        SET lease = nextval('leases'), lease_until = v_now + make_interval(secs => p_seconds), attempts = o.attempts + 1
        FROM picked p WHERE (o.stream, o.seq) = (p.stream, p.seq) RETURNING o.*
    )
    SELECT l.stream, l.seq, l.kind, l.lease, l.attempts, w.workflow, w.version, w.temporal_id, w.status, w.state_seq
    FROM leased l JOIN orchestrated_workflows w ON w.id = l.stream;
END
$$;

-- Records how a delivery went: delivered, retry (not before p_delay seconds) or dead. False when the lease is no longer the
-- caller's. A start that is delivered makes the workflow run; one that is dead fails it.
CREATE FUNCTION backbeat.settle_outbox(
    p_stream uuid, p_seq integer, p_lease bigint, p_outcome text, p_error text DEFAULT NULL,
    p_delay double precision DEFAULT 0, p_run_id text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = backbeat, pg_temp AS $$
DECLARE
    v_now timestamptz;
    v_kind text;
BEGIN
    PERFORM FROM orchestrated_workflows WHERE id = p_stream FOR NO KEY UPDATE;
    v_now := clock();
    UPDATE temporal_outbox
    SET delivered_at = CASE p_outcome WHEN 'delivered' THEN v_now END, dead_at = CASE p_outcome WHEN 'dead' THEN v_now END,
        last_error = p_error, lease_until = v_now + make_interval(secs => p_delay)
    WHERE (stream, seq, lease) = (p_stream, p_seq, p_lease) AND delivered_at IS NULL AND dead_at IS NULL
    RETURNING kind INTO v_kind;
    IF v_kind = 'start' AND p_outcome = 'delivered' THEN
        UPDATE orchestrated_workflows SET status = 'running', run_id = p_run_id, updated_at = v_now, checked_at = v_now
        WHERE id = p_stream AND status = 'starting';
    ELSIF v_kind = 'start' AND p_outcome = 'dead' THEN
        UPDATE orchestrated_workflows SET status = 'failed', error = p_error, updated_at = v_now, finished_at = v_now
        WHERE id = p_stream AND status = 'starting';
    END IF;
    RETURN v_kind IS NOT NULL;
END
$$;

-- What a workflow says of itself, only where it is news. A workflow that ends takes its pending requests with it.
CREATE FUNCTION backbeat.project_state(
    p_workflow uuid, p_seq integer, p_status text, p_run_id text, p_waiting_for text DEFAULT NULL,
    p_result jsonb DEFAULT NULL, p_error text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = backbeat, pg_temp AS $$
DECLARE
    v_now timestamptz;
    v_ended boolean := p_status IN ('completed', 'failed', 'cancelled');
    v_request uuid;
BEGIN
    PERFORM FROM orchestrated_workflows WHERE id = p_workflow FOR NO KEY UPDATE;
    v_now := clock();
    UPDATE orchestrated_workflows
    SET status = p_status, state_seq = p_seq, run_id = p_run_id, waiting_for = p_waiting_for, result = p_result, error = p_error,
        updated_at = v_now, checked_at = v_now, finished_at = CASE WHEN v_ended THEN v_now END
    WHERE id = p_workflow AND state_seq < p_seq AND finished_at IS NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF v_ended THEN
        FOR v_request IN
            UPDATE approval_requests SET state = 'cancelled', closed_at = v_now, closed_by = '(workflow)'
            WHERE workflow_id = p_workflow AND state = 'pending' RETURNING id
        LOOP
            PERFORM audit('(workflow)', 'approval.cancelled', v_request::text, jsonb_build_object('workflow', p_status));
        END LOOP;
    END IF;
    RETURN true;
END
$$;

-- Open workflows that nobody has looked at for so many seconds; they count as looked at from now on.
CREATE FUNCTION backbeat.workflows_to_check(p_limit integer, p_seconds double precision) RETURNS TABLE (
    id uuid, temporal_id text, status text, state_seq integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = backbeat, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock();
BEGIN
    RETURN QUERY
    WITH picked AS (
        SELECT w.id FROM orchestrated_workflows w
        WHERE w.finished_at IS NULL AND w.checked_at <= v_now - make_interval(secs => p_seconds)
        ORDER BY w.checked_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE orchestrated_workflows w SET checked_at = v_now FROM picked p WHERE w.id = p.id
    RETURNING w.id, w.temporal_id, w.status, w.state_seq;
END
$$;

-- Temporal does not know this workflow: start it again, under a new id if it once ran. What was decided stands in Postgres.
CREATE FUNCTION backbeat.restart_workflow(p_workflow uuid, p_temporal_id text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = backbeat, pg_temp AS $$
BEGIN
    PERFORM FROM orchestrated_workflows WHERE id = p_workflow AND temporal_id = p_temporal_id AND finished_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND OR EXISTS (
        SELECT FROM temporal_outbox WHERE stream = p_workflow AND kind = 'start' AND delivered_at IS NULL AND dead_at IS NULL) THEN
        RETURN false;
    END IF;
    UPDATE orchestrated_workflows
    SET generation = generation + CASE WHEN status = 'starting' THEN 0 ELSE 1 END,
        status = 'starting', run_id = NULL, waiting_for = NULL, updated_at = clock()
    WHERE id = p_workflow;
    PERFORM push_outbox(p_workflow, 'start');
    RETURN true;
END
$$;

-- Asks for a decision on exactly what the workflow's input says, by the rule that stands there: no caller can name another.
-- p_hash is of title and payload; a wrong one makes the request undecidable, since approvers sign what they are shown.
-- A second call for the same step answers with the first one's row.
CREATE FUNCTION backbeat.create_approval(p_workflow uuid, p_step text, p_hash text) RETURNS SETOF backbeat.approval_requests
LANGUAGE plpgsql SECURITY DEFINER SET search_path = backbeat, pg_temp AS $$
DECLARE
    v_workflow orchestrated_workflows;
    v_request approval_requests;
    v_now timestamptz;
BEGIN
    SELECT * INTO v_workflow FROM orchestrated_workflows WHERE id = p_workflow AND finished_at IS NULL FOR NO KEY UPDATE;
    IF FOUND AND NOT EXISTS (SELECT FROM approval_requests r WHERE (r.workflow_id, r.step) = (p_workflow, p_step)) THEN
        v_now := clock();
        INSERT INTO approval_requests (id, workflow_id, step, tenant, title, payload, hash, policy, requested_at, deadline)
        SELECT uuid7(), p_workflow, p_step, v_workflow.tenant, i.title, jsonb_build_object('effect', i.effect, 'request', i.request),
               p_hash, i.policy, v_now, v_now + make_interval(secs => i.deadline_seconds)
        FROM jsonb_to_record(v_workflow.input) AS i(title text, effect jsonb, request jsonb, policy jsonb, deadline_seconds double precision)
        RETURNING * INTO v_request;
        UPDATE orchestrated_workflows SET deadline = v_request.deadline, updated_at = v_now WHERE id = p_workflow;
        PERFORM audit('(workflow)', 'approval.requested', v_request.id::text, jsonb_build_object(
            'workflow', p_workflow, 'step', p_step, 'title', v_request.title, 'hash', p_hash, 'policy', v_request.policy));
    END IF;
    RETURN QUERY SELECT * FROM approval_requests r WHERE (r.workflow_id, r.step) = (p_workflow, p_step);
END
$$;

-- Whose token signed p_message: a decision token is bbd_<token id>_<mac>, mac = sha256(key || sha256(message)). Both inputs
-- have a fixed length, so nothing can be appended to either.
CREATE FUNCTION backbeat.signer(p_proof text, p_message text, p_at timestamptz) RETURNS backbeat.api_tokens
LANGUAGE sql STABLE SET search_path = backbeat, pg_temp AS $$
    -- Compared by their hashes, so that the time it takes tells nothing about the mac.
    SELECT t.* FROM api_tokens t
    WHERE t.id = split_part(p_proof, '_', 2) AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > p_at)
      AND sha256(convert_to(p_proof, 'UTF8')) = sha256(convert_to(format(
          'bbd_%s_%s', t.id, encode(sha256(t.key || sha256(convert_to(p_message, 'UTF8'))), 'hex')), 'UTF8'))
$$;

-- The one rule of every decision. Commits it with its audit row and, when it closes the request, a poke; or refuses and
-- audits that. The verdict is one of
--   accepted | repeated (this decision id was accepted before: the first result)
--   malformed | unauthenticated | not_found | not_eligible | closed | expired | stale (another hash) | voted
-- One rejection closes a request; approvals close it when `needed` people have given theirs.
CREATE FUNCTION backbeat.decide(
    p_proof text, p_request uuid, p_decision text, p_hash text, p_comment text, p_decision_id uuid, p_via text
) RETURNS TABLE (verdict text, user_name text, state text, closed_by text, closed_at timestamptz, deadline timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = backbeat, pg_temp AS $$
#variable_conflict use_column
DECLARE
    c_refusals_a_minute CONSTANT integer := 30;
    v_comment text := coalesce(p_comment, '');
    v_workflow uuid;
    v_request approval_requests;
    v_prior approval_decisions;
    v_token api_tokens;
    v_unsigned boolean;
    v_user text;
    v_now timestamptz;
    v_verdict text;
    v_state text;
BEGIN
    SELECT r.workflow_id INTO v_workflow FROM approval_requests r WHERE r.id = p_request;
    PERFORM FROM orchestrated_workflows w WHERE w.id = v_workflow FOR NO KEY UPDATE;
    SELECT * INTO v_request FROM approval_requests r WHERE r.id = p_request FOR UPDATE;
    v_now := clock();
    v_token := signer(p_proof, concat_ws(':', p_request, p_decision, p_hash, v_comment), v_now);
    v_unsigned := p_proof IS NULL AND p_via = 'signal' AND coalesce(v_request.policy @> '{"allow_unsigned_signal": true}', false);
    v_user := CASE WHEN v_unsigned THEN '(unsigned signal)' ELSE coalesce(v_token.user_name, '(unauthenticated)') END;
    SELECT * INTO v_prior FROM approval_decisions d WHERE d.id = p_decision_id;

    v_verdict := CASE
        WHEN p_request IS NULL OR p_decision_id IS NULL OR coalesce(p_decision NOT IN ('approve', 'reject'), true)
            OR coalesce(p_hash !~ '^[0-9a-f]{64}$', true) OR length(v_comment) > 4000 OR p_via NOT IN ('cli', 'web', 'signal') THEN 'malformed'
        WHEN v_token.id IS NULL AND NOT v_unsigned THEN 'unauthenticated'
        WHEN v_request.id IS NULL THEN 'not_found'
        WHEN v_prior.id IS NOT NULL THEN CASE
            WHEN (v_prior.request_id, v_prior.user_name, v_prior.decision) = (p_request, v_user, p_decision) THEN 'repeated' ELSE 'malformed' END
        WHEN NOT v_unsigned AND NOT coalesce(v_request.policy -> 'approvers' ? v_user, false)
            AND NOT coalesce(v_request.policy -> 'groups' ?| v_token.groups, false) THEN 'not_eligible'
        WHEN v_request.state <> 'pending' THEN 'closed'
        WHEN v_now >= v_request.deadline THEN 'expired'
        WHEN v_request.hash <> p_hash THEN 'stale'
        WHEN EXISTS (SELECT FROM approval_decisions d WHERE (d.request_id, d.user_name) = (p_request, v_user)) THEN 'voted'
        ELSE 'accepted' END;

    v_state := v_request.state;
    IF v_verdict = 'accepted' THEN
        v_state := CASE
            WHEN p_decision = 'reject' THEN 'rejected'
            WHEN (SELECT count(*) FROM approval_decisions d WHERE d.request_id = p_request) + 1
                >= coalesce(v_request.policy ->> 'needed', '1')::integer THEN 'approved'
            ELSE 'pending' END;
        INSERT INTO approval_decisions VALUES (
            p_decision_id, p_request, v_user, v_token.id, p_decision, p_hash, v_comment, p_via, v_state, v_now);
        IF v_state <> 'pending' THEN
            PERFORM push_outbox(v_workflow, 'poke');
            UPDATE approval_requests r SET state = v_state, closed_at = v_now, closed_by = v_user WHERE r.id = p_request
            RETURNING * INTO v_request;
        END IF;
        PERFORM audit(v_user, 'approval.' || p_decision, p_request::text, jsonb_build_object(
            'decision_id', p_decision_id, 'hash', p_hash, 'comment', v_comment, 'via', p_via, 'token', v_token.id, 'state', v_state));
    ELSIF (SELECT count(*) FROM audit_log a
           WHERE a.action = 'approval.refused' AND a.actor = v_user AND a.at > v_now - interval '1 minute') < c_refusals_a_minute THEN
        PERFORM audit(v_user, 'approval.refused', coalesce(p_request::text, '(none)'), jsonb_build_object(
            'verdict', v_verdict, 'decision', left(p_decision, 100), 'hash', left(p_hash, 100), 'via', p_via, 'token', v_token.id));
    END IF;
    RETURN QUERY SELECT v_verdict, v_user, CASE v_verdict WHEN 'repeated' THEN v_prior.state_after ELSE v_state END,
        v_request.closed_by, v_request.closed_at, v_request.deadline;
END
$$;

-- Closes a request whose deadline has passed; else says how it stands and how many seconds are left.
CREATE FUNCTION backbeat.close_if_pending(p_request uuid) RETURNS TABLE (
    state text, seconds_left double precision, closed_by text, closed_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = backbeat, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_request approval_requests;
    v_now timestamptz;
BEGIN
    SELECT * INTO v_request FROM approval_requests r WHERE r.id = p_request FOR UPDATE;
    v_now := clock();
    IF v_request.state = 'pending' AND v_now >= v_request.deadline THEN
        UPDATE approval_requests r SET state = 'expired', closed_at = v_now, closed_by = '(deadline)' WHERE r.id = p_request
        RETURNING * INTO v_request;
        PERFORM audit('(deadline)', 'approval.expired', p_request::text, jsonb_build_object('deadline', v_request.deadline));
    END IF;
    RETURN QUERY SELECT v_request.state, extract(epoch FROM v_request.deadline - v_now)::double precision,
        v_request.closed_by, v_request.closed_at WHERE v_request.id IS NOT NULL;
END
$$;

-- For begin_effect: true while this approval of exactly this hash stands for this workflow; nothing changes that before it commits.
CREATE FUNCTION backbeat.require_approved(p_approval uuid, p_hash text, p_workflow uuid) RETURNS boolean
LANGUAGE plpgsql SET search_path = backbeat, pg_temp AS $$
BEGIN
    PERFORM FROM approval_requests WHERE id = p_approval AND state = 'approved' AND hash = p_hash AND workflow_id = p_workflow FOR SHARE;
    RETURN FOUND;
END
$$;

-- Tokens are made and revoked by who runs the migrations: no worker may say who somebody is.
CREATE FUNCTION backbeat.create_token(p_key bytea, p_user text, p_groups text[], p_seconds double precision) RETURNS text
LANGUAGE plpgsql SET search_path = backbeat, pg_temp AS $$
DECLARE
    v_id text := left(encode(sha256(p_key), 'hex'), 16);
BEGIN
    INSERT INTO api_tokens (id, key, user_name, groups, created_at, created_by, expires_at)
    VALUES (v_id, p_key, p_user, p_groups, backbeat.now(), session_user, backbeat.now() + make_interval(secs => p_seconds));
    PERFORM audit(session_user, 'token.created', v_id, jsonb_build_object('user', p_user, 'groups', p_groups));
    RETURN v_id;
END
$$;

CREATE FUNCTION backbeat.revoke_token(p_id text) RETURNS boolean
LANGUAGE plpgsql SET search_path = backbeat, pg_temp AS $$
BEGIN
    UPDATE api_tokens SET revoked_at = clock() WHERE id = p_id AND revoked_at IS NULL;
    IF FOUND THEN
        PERFORM audit(session_user, 'token.revoked', p_id, '{}');
    END IF;
    RETURN FOUND;
END
$$;

-- Ends a task from outside, as an operator may.
CREATE FUNCTION backbeat.cancel_task(p_task uuid, p_reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = backbeat, pg_temp AS $$
BEGIN
    PERFORM finish(ARRAY[p_task], 'cancelled', 'cancelled', p_reason);
    RETURN CASE WHEN FOUND THEN audit(session_user, 'task.cancelled', p_task::text, jsonb_build_object('reason', p_reason)) > 0 ELSE false END;
END
$$;

GRANT EXECUTE ON FUNCTION backbeat.cancel_task, backbeat.verify_audit TO backbeat_operator;
GRANT EXECUTE ON FUNCTION backbeat.policy_problem, backbeat.verify_audit, backbeat.start_workflow, backbeat.lease_outbox,
    backbeat.settle_outbox, backbeat.project_state, backbeat.workflows_to_check, backbeat.restart_workflow,
    backbeat.create_approval, backbeat.decide, backbeat.close_if_pending TO backbeat_worker;
