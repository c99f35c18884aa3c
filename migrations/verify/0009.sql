-- Raises unless joins, steps and the doors of orchestrations are there, and ends are told.

SELECT 'backbeat.orchestrated_workflows_steps'::regclass, 'backbeat.joins'::regclass;

SELECT
    'backbeat.add_children'::regproc, 'backbeat.child_workflow'::regproc, 'backbeat.project_run'::regproc, 'backbeat.cancel_orphans'::regproc,
    'backbeat.start_orchestration'::regproc, 'backbeat.cancel_workflow'::regproc, 'backbeat.retry_workflow'::regproc, 'backbeat.recheck_workflow'::regproc;

SELECT 1 / count(*) FROM pg_trigger WHERE tgname = 'workflow_moved' AND tgenabled = 'O';
