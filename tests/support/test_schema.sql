-- What only test databases have: a clock that can be set, which reaches every process at once, and a
-- partition for every day, because that clock may leave the days that have their own.

CREATE TABLE backbeat.test_clock (shift interval NOT NULL);

INSERT INTO backbeat.test_clock VALUES ('0');

CREATE OR REPLACE FUNCTION backbeat.now() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog
RETURN pg_catalog.now() + (SELECT shift FROM backbeat.test_clock);

DO $$
BEGIN
    IF (SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('backbeat.finished_tasks')) THEN
        CREATE TABLE backbeat.finished_tasks_default PARTITION OF backbeat.finished_tasks DEFAULT;
    END IF;
END
$$;
