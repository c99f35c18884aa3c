-- Raises unless agents, their steps and their doors are there, and ends are told.

SELECT 'backbeat.agents'::regclass, 'backbeat.agent_steps'::regclass, 'backbeat.simple_tasks_agent'::regclass;

SELECT 'backbeat.begin_step'::regproc, 'backbeat.cancel_agent'::regproc, 'backbeat.resume_agent'::regproc, 'backbeat.fork_agent'::regproc, 'backbeat.retain_agents'::regproc;

SELECT 1 / count(*) FROM pg_trigger WHERE tgname IN ('step_ended', 'children_ended') AND tgenabled = 'O' HAVING count(*) >= 2;
