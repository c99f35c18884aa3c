-- An analyst for a ClickHouse server of your own, with the limits that the embedded one has.
--
--     clickhouse-client --queries-file analyst.sql --param_password='...'
--
-- Run it as an administrator, with the database of `clickhouse_url` in the GRANT; running it again brings the limits up to date and changes no password. The
-- constraints are what keeps an analyst from raising them; time is the one that Grafana's plugin sets on each query.
-- Table functions (file, url, s3, remote, executable …) need grants on their sources, and none is given.

CREATE SETTINGS PROFILE IF NOT EXISTS backbeat_analyst;

ALTER SETTINGS PROFILE backbeat_analyst SETTINGS
    readonly = 1 CONST,
    allow_ddl = 0 CONST,
    allow_introspection_functions = 0 CONST,
    max_execution_time = 60 MIN 1 MAX 60 CHANGEABLE_IN_READONLY,
    max_memory_usage = 2000000000 MIN 1 MAX 2000000000,
    max_rows_to_read = 2000000000 MIN 1 MAX 2000000000,
    max_result_rows = 1000000 MIN 1 MAX 1000000,
    max_result_bytes = 256000000 MIN 1 MAX 256000000,
    result_overflow_mode = 'throw' CONST,
    max_concurrent_queries_for_user = 4 CONST;

CREATE ROLE IF NOT EXISTS backbeat_analyst_role SETTINGS PROFILE 'backbeat_analyst';

GRANT SELECT, SHOW TABLES, SHOW COLUMNS ON backbeat.* TO backbeat_analyst_role;

CREATE USER IF NOT EXISTS backbeat_analyst IDENTIFIED WITH sha256_password BY {password:String}
    DEFAULT ROLE backbeat_analyst_role SETTINGS PROFILE 'backbeat_analyst';

GRANT backbeat_analyst_role TO backbeat_analyst;
