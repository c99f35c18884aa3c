"""`migrations/schema.sql` is what the migrations make: reviewed as one text, and no migration changes it unseen."""

from backbeat import migrate
from tests.support.databases import Database
from tests.support.dump_schema import SNAPSHOT, dump, normalise


def test_dump_equals_the_snapshot(empty_database: Database) -> None:
    migrate.postgres_up(empty_database.owner_url)
    assert dump(empty_database.owner_url) == SNAPSHOT.read_text(encoding="utf-8"), "run `make schema` and read the diff"


def test_normalising_touches_no_function_body() -> None:
    body = "CREATE FUNCTION f() RETURNS void\n    AS $_$\n-- why\n\nSET x = 1;\nSELECT '$$';\n$_$;"
    noise = "\\restrict abc\n--\n-- Name: f\n--\nSET lock_timeout = 0;\n\n"
    assert normalise(noise + body + "\n\nSET x = 2;\n") == "\n" + body + "\n"
