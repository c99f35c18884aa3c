"""`backbeat migrate` from an empty database to its head."""

from pathlib import Path

from backbeat.migration_files import load
from tests.support.command import Done, command
from tests.support.databases import Database

LABELS = [migration.label for migration in load("postgres")]


def test_from_empty_to_head(empty_database: Database, tmp_path: Path) -> None:
    def migrate(*arguments: str) -> Done:
        return command("backbeat", "migrate", *arguments, home=tmp_path, environ=empty_database.environ)

    status = migrate("status", "-o", "json")
    assert (status.code, {row["state"] for row in status.json}) == (1, {"pending"})
    assert migrate("verify").refused(1) == f"backbeat: migration {LABELS[0]} is not applied. Run `backbeat migrate up`"

    planned = migrate("up", "--dry-run").fine()
    assert planned.out.split() == [
        "would",
        "apply",
        "engine",
        "migration",
        *(w for x in LABELS for w in ("postgres", x)),
    ]
    shown = migrate("up", "--dry-run", "--show-sql").fine().out
    assert shown.count("CREATE SCHEMA backbeat;") == 1
    assert [line for line in shown.splitlines() if line.startswith("-- 00")] == [f"-- {label}" for label in LABELS]
    assert migrate("status").code == 1

    done = migrate("up", "-o", "json").fine()
    assert [row["migration"] for row in done.json] == LABELS
    assert done.err.splitlines() == [f"applying {label}" for label in LABELS]
    assert migrate("up").fine().err == "applied: none\n"

    table = migrate("status").fine().out.splitlines()
    assert [line.split()[:3] for line in table[1:]] == [["postgres", *label.split("_", 1)] for label in LABELS]
    assert {row["migration"] for row in migrate("verify", "-o", "json").fine().json} <= set(LABELS)
