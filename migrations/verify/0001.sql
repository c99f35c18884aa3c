-- Raises unless the schema, its roles, its clock and its identifiers are there and do what they say.

DO $$
BEGIN
    ASSERT (SELECT count(*) = 2 FROM pg_catalog.pg_class
            WHERE oid IN ('backbeat.schema_migrations'::regclass, 'backbeat.schema_migrations_pkey'::regclass)),
        'the ledger of migrations';
    ASSERT pg_catalog.has_schema_privilege('backbeat_worker', 'backbeat', 'USAGE')
        AND NOT pg_catalog.has_schema_privilege('backbeat_worker', 'backbeat', 'CREATE'), 'the worker role';
    ASSERT pg_catalog.has_schema_privilege('backbeat_operator', 'backbeat', 'USAGE'), 'the operator role';
    ASSERT pg_catalog.has_table_privilege('backbeat_worker', 'backbeat.schema_migrations', 'SELECT')
        AND NOT pg_catalog.has_table_privilege('backbeat_worker', 'backbeat.schema_migrations', 'INSERT, UPDATE, DELETE'),
        'the worker role reads and does not write';
    ASSERT backbeat.clock() >= backbeat.now(), 'the clock';
    ASSERT backbeat.utc_day('2026-11-22 23:59:59+00') = '2026-11-22', 'utc_day';
    ASSERT backbeat.uuid7() >= backbeat.uuid7_floor(backbeat.now()), 'uuid7';
    ASSERT backbeat.trace_id('task', '1') OPERATOR(pg_catalog.~) '^[0-9a-f]{32}$', 'trace_id';
    ASSERT backbeat.span_id('task', '1') OPERATOR(pg_catalog.~) '^[0-9a-f]{16}$', 'span_id';
END
$$;
