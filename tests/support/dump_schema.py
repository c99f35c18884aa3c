"""Writes `migrations/schema.sql`: the schema that the migrations make, as the wheel's pg_dump prints it.

`python -m tests.support.dump_schema` starts a server of its own for it. Leaves out what differs from run to run:
partitions (made for the days to come), owners, the dump's session settings and random keys.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

from backbeat import migrate
from backbeat.embedded import postgres
from tests.support import databases, servers

SNAPSHOT = Path(__file__).parents[2] / "migrations" / "schema.sql"
_HEAD = "-- Made by `make schema` from migrations/postgres; compared in tests/integration/test_schema_dump.py.\n"
_NOISE = re.compile(r"(--.*|SET .*;|SELECT pg_catalog\.set_config.*|\\(un)?restrict .*)?")
_DOLLARS = re.compile(r"\$[a-z_]*\$")
_PARTITIONS = """
    SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'backbeat' AND c.relispartition AND c.relkind IN ('r', 'p')"""


def dump(url: str) -> str:
    """The normalised schema of a migrated database."""
    with psycopg.connect(url) as connection:
        partitions = [name for (name,) in connection.execute(_PARTITIONS)]
    command = [str(postgres.binary("pg_dump")), "--schema-only", "--no-owner", "--schema=backbeat"]
    command += [f"--exclude-table={name}" for name in partitions]
    text = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    return _HEAD + normalise(text)


def normalise(text: str) -> str:
    """Without comments and settings between statements; a blank line before each that makes something."""
    kept: list[str] = []
    quote = ""
    for line in text.splitlines():
        if not quote and line.startswith(("CREATE ", "ALTER TABLE ")):
            kept.append("")
        if quote or not _NOISE.fullmatch(line):
            kept.append(line)
        for tag in _DOLLARS.findall(line):
            quote = "" if tag == quote else quote or tag
    return "\n".join(kept) + "\n"


def main() -> int:
    """Replace the snapshot; say whether it changed."""
    with tempfile.TemporaryDirectory(prefix="backbeat-schema-") as scratch:
        server = servers.new(Path(scratch) / "postgres")
        try:
            with databases.lent(server, template="template0") as empty:
                migrate.postgres_up(empty.owner_url)
                text = dump(empty.owner_url)
        finally:
            server.stop()
    changed = not SNAPSHOT.exists() or SNAPSHOT.read_text(encoding="utf-8") != text
    SNAPSHOT.write_text(text, encoding="utf-8")
    print(f"{SNAPSHOT.name} {'changed' if changed else 'is unchanged'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
