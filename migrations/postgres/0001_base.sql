-- migrate:up

-- The schema, its roles, its clock and its identifiers.
--
-- Whoever runs the migrations owns everything. Workers log in as members of backbeat_worker, which may
-- read every table and call functions, and nothing else: each change of state is one function below,
-- SECURITY DEFINER with a fixed search_path, so no worker can write a row in a way this schema does not know.
-- People who operate log in as members of backbeat_operator: they read too, and call what no worker may, on record.

CREATE SCHEMA backbeat;

DO $$
DECLARE v_role text;
BEGIN
    FOREACH v_role IN ARRAY ARRAY['backbeat_worker', 'backbeat_operator'] LOOP
        BEGIN
            CONTINUE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = v_role);
            EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
        EXCEPTION
            -- Roles belong to the cluster: another database, or a racing runner, may have made it.
            WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA backbeat TO backbeat_worker, backbeat_operator;
ALTER DEFAULT PRIVILEGES IN SCHEMA backbeat GRANT SELECT ON TABLES TO backbeat_worker, backbeat_operator;
ALTER DEFAULT PRIVILEGES IN SCHEMA backbeat REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- What the runner has applied. A row without applied_at is a statement outside a transaction that was begun.
CREATE TABLE backbeat.schema_migrations (
    version text PRIMARY KEY,
    name text NOT NULL, checksum text NOT NULL,
    applied_at timestamptz
);

-- Time is an input. STABLE, so that partitions are pruned, and with nothing to set: test databases
-- replace this function by one that reads a table, which reaches every process at once.
CREATE FUNCTION backbeat.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.now();

-- For rates and leases taken after a lock wait, where the transaction's start is too old.
CREATE FUNCTION backbeat.clock() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN backbeat.now() + (pg_catalog.clock_timestamp() - pg_catalog.now());

CREATE FUNCTION backbeat.utc_day(p_at timestamptz) RETURNS date LANGUAGE sql STABLE PARALLEL SAFE
RETURN (p_at AT TIME ZONE 'UTC')::date;

-- Version 7 (RFC 9562): 48 bits of milliseconds, then random. PostgreSQL 18 has its own; 15 is supported.
CREATE FUNCTION backbeat.uuid7(p_at timestamptz DEFAULT backbeat.clock()) RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN encode(
    overlay(
        overlay(uuid_send(gen_random_uuid())
            PLACING substring(int8send(floor(extract(epoch FROM p_at) * 1000)::bigint) FROM 3) FROM 1 FOR 6)
        PLACING set_byte('\x00'::bytea, 0, (get_byte(uuid_send(gen_random_uuid()), 0) & 15) | 112) FROM 7 FOR 1),
    'hex')::uuid;

-- The lowest uuid of a moment: where a day's partition starts.
CREATE FUNCTION backbeat.uuid7_floor(p_at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (encode(substring(int8send(floor(extract(epoch FROM p_at) * 1000)::bigint) FROM 3), 'hex') || repeat('0', 20))::uuid;

-- Span identifiers follow from the row they describe; shared/ids.py has the same formulas.
CREATE FUNCTION backbeat.trace_id(VARIADIC p_parts text[]) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN left(encode(sha256(convert_to(array_to_string(p_parts, ':'), 'UTF8')), 'hex'), 32);

CREATE FUNCTION backbeat.span_id(VARIADIC p_parts text[]) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN left(encode(sha256(convert_to(array_to_string(p_parts, ':'), 'UTF8')), 'hex'), 16);

GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA backbeat TO backbeat_worker, backbeat_operator;

-- Gives every function whose body is text the schema's search_path, so that no caller's own changes what its names mean. A RETURN
-- needs none, its names are bound as it is made; and with one the planner could not write it out, at twenty microseconds a call.
-- Each migration sets the path for itself, and ends with this.
CREATE PROCEDURE backbeat.pin_functions() LANGUAGE plpgsql AS $$
DECLARE v_function regprocedure;
BEGIN
    FOR v_function IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'backbeat'::regnamespace AND p.prosqlbody IS NULL
        AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c(setting) WHERE c.setting LIKE 'search_path=%')
    LOOP
        EXECUTE format('ALTER ROUTINE %s SET search_path = backbeat, pg_temp', v_function);
    END LOOP;
END $$;
CALL backbeat.pin_functions();
