-- migrate:up
SET LOCAL search_path = backbeat, pg_temp;

-- Agents: work in steps, each of them one task of the queue.
--
-- The first step's task is the agent's id. What a step decided is its task's result; in the transaction that ends the task a
-- trigger writes the step down and makes the next one's task, at the front of its flow. So a step happens once, whoever dies when.
-- A step that hands work over waits: its task's id is a join, its children count that down, and zero makes the next step.
--
-- A result says {"agent": thinking | waiting | done, "step": {action, tool, …}, "tolerated": n, "result": …}.
-- Lock order: dead_letters -> tasks -> flows -> budgets -> joins -> agents.

CREATE TABLE backbeat.agents (
    id uuid PRIMARY KEY, tenant text NOT NULL, workflow text NOT NULL, version integer NOT NULL, input jsonb NOT NULL, steps integer NOT NULL DEFAULT 0, result jsonb,
    status text NOT NULL CHECK (status IN ('thinking', 'waiting', 'done', 'escalated', 'dead', 'cancelled', 'expired')),
    -- max_steps: where a person raised what its definition says.
    max_steps integer CHECK (max_steps > 0), task_id uuid NOT NULL, parent_id uuid, forked_from uuid, error text,
    created_at timestamptz NOT NULL, finished_at timestamptz,
    CONSTRAINT ended_says_when CHECK ((status IN ('thinking', 'waiting')) = (finished_at IS NULL))
);
CREATE TABLE backbeat.agent_steps (
    agent_id uuid NOT NULL REFERENCES backbeat.agents ON DELETE CASCADE, number integer NOT NULL, task_id uuid NOT NULL,
    action text NOT NULL CHECK (action IN ('tool_call', 'respond', 'done', 'escalate')),
    tool text, args jsonb, reasoning text, output jsonb, observation text, input_tokens bigint NOT NULL, output_tokens bigint NOT NULL, cost_usd numeric,
    ended_at timestamptz NOT NULL, PRIMARY KEY (agent_id, number)
);
-- One live step an agent.
CREATE UNIQUE INDEX simple_tasks_agent ON backbeat.simple_tasks (agent_id) WHERE agent_id IS NOT NULL;
ALTER TABLE backbeat.joins ALTER workflow_id DROP NOT NULL, ADD agent_id uuid REFERENCES backbeat.agents ON DELETE CASCADE,
    ADD CONSTRAINT somebody_waits CHECK (num_nonnulls(workflow_id, agent_id) = 1);

-- The task of an agent's next step follows its last one; it takes no lock, and whoever settles its flow next makes it ready.
CREATE FUNCTION backbeat.next_step(p_agent uuid) RETURNS void LANGUAGE sql AS $$
    INSERT INTO simple_tasks (id, tenant, workflow, version, tier, class, payload, status, rank, max_attempts, agent_id, parent_id, origin_id, traceparent, source_at,
        created_at)
    SELECT uuid7(), f.tenant, f.workflow, f.version, f.tier, f.class, f.payload, 'pending', 0, w.max_attempts, a.id, a.parent_id, f.origin_id, f.traceparent, f.source_at,
        clock() FROM agents a JOIN finished_tasks f ON f.id = a.task_id JOIN workflows w ON (w.name, w.version) = (f.workflow, f.version) WHERE a.id = p_agent
    ON CONFLICT (agent_id) WHERE agent_id IS NOT NULL DO NOTHING $$;

CREATE FUNCTION backbeat.step_ended() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE v_status text := CASE NEW.status WHEN 'succeeded' THEN NEW.result ->> 'agent' ELSE NEW.status END; v_number integer;
BEGIN
    UPDATE agents SET status = v_status, steps = steps + (NEW.result ? 'step' IS TRUE)::integer, task_id = NEW.id, result = NEW.result -> 'result',
        error = NEW.error_class || ': ' || NEW.error, finished_at = CASE WHEN v_status NOT IN ('thinking', 'waiting') THEN NEW.finished_at END
    WHERE id = NEW.agent_id RETURNING steps INTO v_number;
    INSERT INTO agent_steps SELECT s.* FROM jsonb_populate_record(NULL::agent_steps, NEW.result -> 'step' || (to_jsonb(NEW) - '{payload,result,history}'::text[])
        || jsonb_build_object('number', v_number, 'task_id', NEW.id, 'ended_at', NEW.finished_at)) s WHERE s.action IS NOT NULL;
    INSERT INTO joins (id, agent_id, step, children, children_left, tolerated, sealed)
    SELECT NEW.id, NEW.agent_id, v_number, array_agg(t.id ORDER BY t.id), count(*), (NEW.result ->> 'tolerated')::integer, true
    FROM simple_tasks t WHERE t.parent_id = NEW.id AND v_status = 'waiting' HAVING v_status = 'waiting';
    PERFORM next_step(NEW.agent_id) WHERE v_status = 'thinking';
    RETURN NULL;
END $$;
CREATE TRIGGER step_ended AFTER INSERT ON backbeat.finished_tasks FOR EACH ROW WHEN (NEW.agent_id IS NOT NULL) EXECUTE FUNCTION backbeat.step_ended();

-- The last child ended, or one more failed than is tolerated: once, for nobody waits after that.
CREATE FUNCTION backbeat.children_ended() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE agents SET status = 'thinking' WHERE (id, task_id, status) = (NEW.agent_id, NEW.id, 'waiting');
    PERFORM next_step(NEW.agent_id) WHERE FOUND;
    RETURN NULL;
END $$;
CREATE TRIGGER children_ended AFTER UPDATE ON backbeat.joins FOR EACH ROW
WHEN (NEW.agent_id IS NOT NULL AND (NEW.children_left = 0 OR NEW.failed > NEW.tolerated)) EXECUTE FUNCTION backbeat.children_ended();

-- Ends these tasks and agents and all below them. Their tasks are locked first, until no further one has come in sight: a step that
-- ended meanwhile has made others. An agent that waits is given the task that it would wake to, and ends with that.
CREATE FUNCTION backbeat.cancel_below(p_ids uuid[], p_error text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE v_below uuid[]; v_live uuid[]; v_before uuid[];
BEGIN
    LOOP
        v_below := ARRAY(WITH RECURSIVE below AS (SELECT unnest(p_ids) AS id UNION
            SELECT unnest(j.children) FROM below b JOIN agents a ON a.id = b.id JOIN joins j ON j.id = a.task_id WHERE j.children_left > 0) SELECT id FROM below);
        v_live := ARRAY(SELECT t.id FROM simple_tasks t WHERE t.id = ANY (v_below) OR t.agent_id = ANY (v_below) ORDER BY t.id FOR UPDATE);
        EXIT WHEN v_live <@ v_before;
        v_before := v_live;
    END LOOP;
    PERFORM next_step(a.id) FROM agents a WHERE a.id = ANY (v_below) AND a.status = 'waiting';
    RETURN (SELECT count(*) FROM finish(ARRAY(SELECT t.id FROM simple_tasks t WHERE t.id = ANY (v_below) OR t.agent_id = ANY (v_below)), 'cancelled', 'cancelled', p_error));
END $$;

-- A worker begins a step: the agent as it stands, made by its first one; nothing when the task is no longer the caller's. What
-- was handed over and still runs after its join gave up is ended. A requeued step has no parent: that was told that it died.
CREATE FUNCTION backbeat.begin_step(p_task uuid, p_lease bigint) RETURNS SETOF backbeat.agents LANGUAGE sql SECURITY DEFINER AS $$
    SELECT FROM simple_tasks t JOIN agents a ON a.id = t.agent_id JOIN joins j ON j.id = a.task_id CROSS JOIN cancel_below(j.children, 'too many of its siblings failed')
    WHERE (t.id, t.lease, t.status) = (p_task, p_lease, 'running') AND j.children_left > 0;
    UPDATE simple_tasks t SET agent_id = t.id WHERE (t.id, t.lease, t.status) = (p_task, p_lease, 'running') AND t.agent_id IS NULL;
    INSERT INTO agents (id, tenant, workflow, version, status, input, task_id, parent_id, created_at)
    SELECT t.agent_id, t.tenant, t.workflow, t.version, 'thinking', t.payload, t.id, t.parent_id, clock() FROM simple_tasks t
    WHERE (t.id, t.lease, t.status) = (p_task, p_lease, 'running')
    ON CONFLICT (id) DO UPDATE SET status = 'thinking', parent_id = excluded.parent_id, error = NULL, finished_at = NULL RETURNING agents.*; $$;

CREATE FUNCTION backbeat.cancel_agent(p_agent uuid, p_reason text, p_by text) RETURNS SETOF integer LANGUAGE sql SECURITY DEFINER AS $$
    SELECT c.ended FROM (SELECT cancel_below(ARRAY[p_agent], format('%s (by %s)', p_reason, p_by)) AS ended OFFSET 0) c
    WHERE c.ended > 0 AND audit(session_user, 'agent.cancelled', p_agent::text, jsonb_build_object('by', p_by, 'reason', p_reason)) > 0 $$;

-- Lets a dead agent go on from the step that died, with what that had recorded, under raised caps where they are given.
CREATE FUNCTION backbeat.resume_agent(p_agent uuid, p_tokens bigint, p_usd numeric, p_steps integer, p_by text, p_reason text) RETURNS SETOF uuid
LANGUAGE sql SECURITY DEFINER AS $$
    SELECT requeue_dead(ARRAY[a.task_id], false, NULL, 0, p_by, p_reason) FROM agents a WHERE (a.id, a.status) = (p_agent, 'dead');
    UPDATE budgets SET cap_tokens = coalesce(p_tokens, cap_tokens), cap_usd = coalesce(p_usd, cap_usd), raised_by = p_by WHERE (scope, key) = ('agent', p_agent::text);
    UPDATE agents SET max_steps = coalesce(p_steps, max_steps) WHERE id = p_agent;
    SELECT t.id FROM simple_tasks t WHERE t.agent_id = p_agent AND audit(session_user, 'agent.resumed', p_agent::text,
        jsonb_build_object('by', p_by, 'tokens', p_tokens, 'usd', p_usd, 'steps', p_steps, 'reason', p_reason)) > 0 $$;

-- A new agent that has the first steps of another behind it, unbilled: what they did is not done again.
CREATE FUNCTION backbeat.fork_agent(p_agent uuid, p_steps integer, p_id uuid, p_by text) RETURNS SETOF uuid LANGUAGE sql SECURITY DEFINER AS $$
    INSERT INTO agents (id, tenant, workflow, version, status, input, steps, max_steps, task_id, forked_from, created_at)
    SELECT p_id, a.tenant, a.workflow, a.version, 'thinking', a.input, p_steps, a.max_steps, f.id, a.id, clock()
    FROM agents a JOIN agent_steps s ON (s.agent_id, s.number) = (a.id, p_steps) JOIN finished_tasks f ON f.id = s.task_id WHERE a.id = p_agent;
    INSERT INTO agent_steps SELECT s.* FROM agents a JOIN agent_steps o ON o.agent_id = a.forked_from AND o.number <= a.steps
    CROSS JOIN jsonb_populate_record(o, jsonb_build_object('agent_id', p_id, 'input_tokens', 0, 'output_tokens', 0, 'cost_usd', 0)) s WHERE a.id = p_id;
    SELECT next_step(p_id);
    SELECT id FROM agents WHERE id = p_id AND audit(session_user, 'agent.forked', p_agent::text, jsonb_build_object('by', p_by, 'steps', p_steps, 'as', p_id)) > 0 $$;

-- Agents leave with the history.
CREATE FUNCTION backbeat.retain_agents(p_limit integer DEFAULT 1000) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
    DELETE FROM agents a WHERE a.id IN (SELECT o.id FROM agents o JOIN retention r ON r.policy = 'finished'
        AND o.finished_at < backbeat.now() - make_interval(days => r.days) LIMIT p_limit FOR UPDATE OF o SKIP LOCKED) $$;

GRANT EXECUTE ON FUNCTION backbeat.begin_step, backbeat.retain_agents TO backbeat_worker;
GRANT EXECUTE ON FUNCTION backbeat.cancel_agent, backbeat.resume_agent, backbeat.fork_agent TO backbeat_operator;

CALL backbeat.pin_functions();
