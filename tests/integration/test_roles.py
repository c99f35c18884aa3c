"""What the logins of workers and operators may do: read, and call what they were granted. Each denial is tried."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, ObjectNotInPrerequisiteState
from psycopg.types.json import Jsonb

from backbeat.embedded import roles
from tests.support import every_postgres, tasks
from tests.support.databases import AUDIT_PROBLEMS, Database

pytestmark = every_postgres

_SECRET = {"backbeat.api_tokens", "backbeat.ledger"}
_RELATIONS = """
    SELECT c.oid::regclass::text, c.relkind::text, (SELECT quote_ident(a.attname) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        ORDER BY a.attnum LIMIT 1)
    FROM pg_class c WHERE c.relnamespace = 'backbeat'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')"""
_FUNCTIONS = "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'backbeat'::regnamespace AND {}"
_ON_A_TABLE = (
    "INSERT INTO {name} DEFAULT VALUES",
    "UPDATE {name} SET {column} = {column}",
    "DELETE FROM {name}",
    "TRUNCATE {name}",
    "SELECT 1 FROM {name} FOR UPDATE",
    "ALTER TABLE {name} ADD COLUMN planted int",
    "CREATE INDEX ON {name} ({column})",
    "CREATE TRIGGER planted BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "DROP TABLE {name}",
)
_ON_A_VIEW = ("INSERT INTO {name} DEFAULT VALUES", "DELETE FROM {name}", "DROP VIEW {name}")
_ON_A_SEQUENCE = ("SELECT nextval('{name}')", "SELECT setval('{name}', 1)", "DROP SEQUENCE {name}")
_ON_THE_DATABASE = (
    "CREATE TABLE backbeat.planted (id int)",
    "CREATE TABLE public.planted (id int)",
    "CREATE FUNCTION backbeat.now() RETURNS timestamptz LANGUAGE sql RETURN NULL",
    "CREATE OR REPLACE FUNCTION backbeat.now() RETURNS timestamptz LANGUAGE sql RETURN NULL",
    "ALTER FUNCTION backbeat.now() RESET search_path",
    "DROP FUNCTION backbeat.clock()",
    "CREATE SCHEMA planted",
    "ALTER SCHEMA backbeat RENAME TO planted",
    "DROP SCHEMA backbeat CASCADE",
    "CREATE EXTENSION dblink",
    "CREATE ROLE planted",
    "GRANT backbeat_owner TO CURRENT_USER",
    "SET ROLE backbeat_owner",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_read_file('/etc/hostname')",
)


@pytest.fixture
def worker(database: Database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.direct_worker_url, autocommit=True) as connection:
        yield connection


def _allowed(worker: psycopg.Connection, statements: list[str]) -> list[str]:
    """Those of the statements that are not refused."""
    let_through = []
    for statement in statements:
        try:
            with worker.transaction(force_rollback=True):
                worker.execute(statement.encode())
        except (InsufficientPrivilege, ObjectNotInPrerequisiteState):  # the second: a view nobody can write to
            continue
        except psycopg.Error as error:
            let_through.append(f"{statement} ({error})")
        else:
            let_through.append(statement)
    return let_through


def test_a_worker_changes_no_object(database: Database, worker: psycopg.Connection) -> None:
    forms = {"r": _ON_A_TABLE, "p": _ON_A_TABLE, "v": _ON_A_VIEW, "S": _ON_A_SEQUENCE}
    relations = database.sql(_RELATIONS)
    statements = [form.format(name=name, column=column) for name, kind, column in relations for form in forms[kind]]
    assert len(statements) >= 10
    assert _allowed(worker, statements) == []


def test_a_worker_changes_nothing_of_the_database(worker: psycopg.Connection) -> None:
    assert _allowed(worker, list(_ON_THE_DATABASE)) == []


def test_a_worker_reads_all_tables_but_the_secret_ones(database: Database, worker: psycopg.Connection) -> None:
    tables = [name for name, kind, _ in database.sql(_RELATIONS) if kind in "rpv"]
    assert set(tables) >= _SECRET
    readable = _allowed(worker, [f"SELECT * FROM {name} LIMIT 0" for name in tables])
    assert readable == [f"SELECT * FROM {name} LIMIT 0" for name in tables if name not in _SECRET]


def test_functions_are_granted_to_workers_and_never_to_everybody(database: Database) -> None:
    everybody = _FUNCTIONS.format("has_function_privilege('public', p.oid, 'EXECUTE')")
    assert database.sql(everybody) == []
    assert len(database.sql(_FUNCTIONS.format("has_function_privilege('backbeat_worker', p.oid, 'EXECUTE')"))) > 5


def test_every_function_fixes_its_search_path(database: Database) -> None:
    """A definer's function that looks names up along the caller's path runs the caller's code as the owner.

    One whose body is an expression (RETURN) has its names bound when it is made.
    """
    fixed = "SELECT FROM unnest(p.proconfig) c WHERE c ~ '^search_path=(pg_catalog|backbeat, pg_temp)$'"
    missing = f"p.prosqlbody IS NULL AND NOT EXISTS ({fixed})"
    assert database.sql(_FUNCTIONS.format(missing)) == []


def test_functions_that_write_run_as_the_owner(database: Database) -> None:
    """A granted plpgsql function that writes as its caller could only fail."""
    writes = (
        "p.prolang = (SELECT oid FROM pg_language WHERE lanname = 'plpgsql') AND NOT p.prosecdef"
        " AND has_function_privilege('backbeat_worker', p.oid, 'EXECUTE')"
        " AND p.prosrc ~ '(INSERT INTO|UPDATE [a-z_]+ |DELETE FROM|FOR UPDATE)'"
    )
    assert database.sql(_FUNCTIONS.format(writes)) == []


def _doors(database: Database) -> dict[str, str]:
    """What takes an operator's login: a statement that would do something, and the action on record after it."""
    key = "SELECT key FROM backbeat.side_effects"
    return {
        "SELECT backbeat.set_budget('workflow', 'alpha', 5, NULL, 'ann')": "budget.set",
        "SELECT backbeat.throw_switch('all', 'an incident', 'ann')": "switch.thrown",
        "SELECT backbeat.release_switch('all', 'ann')": "switch.released",
        "SELECT backbeat.cancel_task((SELECT id FROM backbeat.simple_tasks LIMIT 1), 'wrong')": "task.cancelled",
        f"SELECT backbeat.resolve_effect(({key}), '{{}}', 'seen', 'ann')": "effect.resolved",
    }


@pytest.fixture
def something(database: Database) -> None:
    """A task, and an effect whose writer did not come back."""
    with psycopg.connect(database.direct_worker_url, autocommit=True) as worker:
        worker.execute("SELECT backbeat.register_worker('w', 'cron', %s)", [Jsonb([tasks.definition("alpha")])])
        worker.execute("SELECT backbeat.enqueue('alpha', 1, ARRAY['{}'::jsonb, '{}'::jsonb])")
        call = """SELECT backbeat.begin_effect('k', 'task', c.id, c.lease, 'note', '{}', 'h', c.id,
            c.traceparent, NULL, 0) FROM backbeat.claim('w', '{alpha@1}', 1, 60) c"""
        worker.execute(call)


@pytest.mark.usefixtures("something")
def test_only_an_operator_operates_and_it_is_on_record(database: Database, worker: psycopg.Connection) -> None:
    doors = _doors(database)
    assert _allowed(worker, list(doors)) == []
    with psycopg.connect(database.operator_url, autocommit=True) as operator:
        for door, action in doors.items():
            operator.execute(door.encode())
            newest = "SELECT action, actor FROM backbeat.audit_log ORDER BY id DESC LIMIT 1"
            assert operator.execute(newest.encode()).fetchone() == (action, roles.PEOPLE)
        assert operator.execute(AUDIT_PROBLEMS).fetchall() == []


def test_an_operator_reads_and_changes_no_object(database: Database) -> None:
    with psycopg.connect(database.operator_url, autocommit=True) as operator:
        tables = [name for name, kind, _ in database.sql(_RELATIONS) if kind in "rpv"]
        readable = _allowed(operator, [f"SELECT * FROM {name} LIMIT 0" for name in tables])
        assert readable == [f"SELECT * FROM {name} LIMIT 0" for name in tables if name not in _SECRET]
        changes = [f"DELETE FROM {name}" for name, _, _ in database.sql(_RELATIONS)]
        assert _allowed(operator, [*changes, "SELECT backbeat.create_token(sha256('x'), 'ann', '{}', NULL)"]) == []
