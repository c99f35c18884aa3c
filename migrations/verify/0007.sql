-- Raises unless schedules are there, and what selectors run as: a name that is absent does not cast.

SELECT
    'backbeat.schedules'::regclass, 'backbeat.fire_schedule'::regproc, 'backbeat.run_selector'::regproc,
    'backbeat.add_schedule'::regproc, 'backbeat.remove_schedule'::regproc, 'backbeat.turn_schedule'::regproc;

DO $$
BEGIN
    ASSERT (SELECT proowner = 'backbeat_selector'::regrole AND prosecdef FROM pg_catalog.pg_proc
            WHERE oid = 'backbeat.run_selector'::regproc), 'a selector runs as backbeat_selector';
    ASSERT NOT pg_catalog.has_schema_privilege('backbeat_selector', 'backbeat', 'CREATE'), 'the selector role';
    ASSERT NOT pg_catalog.has_function_privilege('backbeat_worker', 'backbeat.add_schedule(jsonb)', 'EXECUTE'), 'only operators add';
END
$$;
