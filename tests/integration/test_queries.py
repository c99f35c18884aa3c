"""Every named query is one statement that the migrated schema understands, under the workers' login."""

import re

import psycopg
import pytest
from psycopg.pq import ExecStatus

from shared.db import queries
from tests.support import every_postgres
from tests.support.databases import Database
from tests.support.tree import query_files

pytestmark = every_postgres
# Parts that are put together, as backbeat/operate/dead.py does.
COMPOSED = {"dead": [("letters", "matching", "newest"), ("counts", "matching", "largest"), ("ids", "matching", "next")]}
_PLACEHOLDER = re.compile(r"%(?:\((\w+)\)s|%)")


def _numbered(query: str) -> str:
    """With $1, $2 … for %(name)s, as the server takes it."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] is None:
            return "%"
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return _PLACEHOLDER.sub(number, query)


@pytest.mark.parametrize(("package", "noun"), query_files())
def test_the_server_parses_it(database: Database, package: str, noun: str) -> None:
    refused = {}
    asked: dict[str | tuple[str, ...], str] = dict(queries.load(noun, package).items())
    for parts in COMPOSED.get(noun, []):
        asked[parts] = "\n".join(asked[part] for part in parts)
    asked = {name: query for name, query in asked.items() if not any(name in parts for parts in COMPOSED.get(noun, []))}
    with psycopg.connect(database.direct_worker_url, autocommit=True) as worker:
        worker.execute("CREATE TEMPORARY TABLE backbeat_stage (payload jsonb, key bytea)")
        for name, query in asked.items():
            parsed = worker.pgconn.prepare(b"", _numbered(query).encode())
            if parsed.status != ExecStatus.COMMAND_OK:
                refused[name] = parsed.get_error_message()
    assert refused == {}
