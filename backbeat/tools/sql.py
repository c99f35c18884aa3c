"""A tool that asks a database one question, as a login that may read and nothing else.

The login is the wall: make one that has SELECT on what may be read. The tool adds a READ ONLY transaction, one query in
a cursor, and caps on rows, bytes and time.
"""

import json
import os
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from backbeat.tools.function import seconds
from shared.definitions import Tool
from shared.execution.tools import ToolError

if TYPE_CHECKING:
    import psycopg

_CONNECT = 5  # seconds


class Question(BaseModel):
    """The arguments of the tool."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(description="One SELECT in PostgreSQL's dialect.", max_length=20_000)


def sql(
    *,
    url: str,
    description: str,
    name: str = "query",
    max_rows: int = 200,
    max_bytes: int = 100_000,
    timeout: float = 10.0,
) -> Tool:
    """A tool that answers `{rows, more}`, a row an object by column.

    `url` names the environment variable that holds the login's address. `description` says what is in the database.
    A login that may write, make tables or run programs is refused when it is first used.
    """
    if not description.strip():
        raise ValueError("an sql tool needs a description of what is in the database")
    limit = seconds(timeout)

    async def call(asked: Question) -> dict[str, Any]:
        import psycopg

        where = os.environ.get(url)
        if not where:
            raise ToolError(f"{url} is not set", fix="Set it to the address of a login that may read")
        try:
            async with await psycopg.AsyncConnection.connect(
                where, autocommit=True, connect_timeout=_CONNECT
            ) as connection:
                return await _ask(connection, asked.query, max_rows, max_bytes, limit)
        except (psycopg.errors.QueryCanceled, psycopg.errors.IdleInTransactionSessionTimeout) as error:
            raise ToolError(f"the query took longer than {limit:g} seconds") from error
        except psycopg.OperationalError:
            raise  # away: that may pass
        except psycopg.Error as error:
            raise ToolError(f"the database refuses: {str(error).splitlines()[0]}") from error

    told = f"Ask a PostgreSQL database. {description.strip()}"
    return Tool(name=name, description=told, args=Question, call=call, timeout=limit + _CONNECT)


async def _ask(
    connection: "psycopg.AsyncConnection[Any]", query: str, max_rows: int, max_bytes: int, limit: float
) -> dict[str, Any]:
    await _only_reads(connection)
    await connection.execute("BEGIN TRANSACTION READ ONLY")
    await connection.execute("SELECT set_config('statement_timeout', %s, true)", [str(round(limit * 1000))])
    # Binary, for that goes by the protocol that takes one statement.
    text = _CURSOR.replace("<bytes>", str(max_bytes)).replace("<query>", query.strip().rstrip(";"))
    await connection.cursor(binary=True).execute(text.encode())
    rows: list[Any] = []
    left = max_bytes
    while True:
        cursor = await connection.execute("FETCH 1 FROM asked")
        found = await cursor.fetchone()
        if found is None:
            return {"rows": rows, "more": False}
        left -= found[0]
        if left < 0 or len(rows) == max_rows:
            return {"rows": rows, "more": True}
        rows.append(json.loads(found[1]))


# In a cursor's subquery stands a query and nothing else: no COPY, no SET, nothing that writes. A row is measured before
# it is sent.
_CURSOR = """
    DECLARE asked CURSOR FOR SELECT octet_length(j), left(j, <bytes>) FROM (SELECT row_to_json(q)::text AS j FROM (
<query>
) AS q) AS r"""

_POWERS = """
    SELECT CASE
        WHEN r.rolsuper THEN 'is a superuser'
        WHEN r.rolbypassrls THEN 'reads past row security'
        WHEN r.rolcreaterole THEN 'may make roles'
        WHEN pg_has_role(r.oid, 'pg_execute_server_program', 'member') THEN 'may run programs'
        WHEN pg_has_role(r.oid, 'pg_read_server_files', 'member') THEN 'may read the server''s files'
        WHEN pg_has_role(r.oid, 'pg_write_server_files', 'member') THEN 'may write the server''s files'
        WHEN has_database_privilege(current_database(), 'CREATE') THEN 'may make schemas'
        WHEN EXISTS (
            SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'v', 'f') AND n.nspname !~ '^pg_|^information_schema$'
              AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')) THEN 'may write a table'
    END
    FROM pg_roles r WHERE r.rolname = current_user"""


async def _only_reads(connection: "psycopg.AsyncConnection[Any]") -> None:
    cursor = await connection.execute(_POWERS)
    ((power,),) = await cursor.fetchall()
    if power:
        raise ToolError(f"the login of this tool {power}", fix="Give it one that may only read")
