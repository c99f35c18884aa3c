"""`backbeat dead`, `retention` and the health in `status` against a real database, as a person types them."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from shared.domain.outcome import Dead
from tests.support import tasks
from tests.support.command import Done, command
from tests.support.databases import Database

Run = Callable[..., Done]


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Run:
    def backbeat(*arguments: object) -> Done:
        return command("backbeat", *arguments, home=tmp_path, environ=database.environ)

    return backbeat


async def _die(database: Database, count: int, error_class: str = "timeout") -> list[UUID]:
    async with tasks.worker(database) as db:
        ids = await tasks.add(db, count)
        for task in await tasks.take(db):
            await tasks.settle(db, task, Dead(error_class, "the vendor said nothing"))
        return ids


@pytest.fixture
def letters(database: Database) -> list[UUID]:
    """Three that died of a timeout."""
    return asyncio.run(_die(database, 3))


def test_requeue_by_filter(run: Run, database: Database, letters: list[UUID]) -> None:
    (other,) = asyncio.run(_die(database, 1, "bad_input"))
    out = run("dead", "list").fine().out
    assert [line.split()[:3] for line in out.splitlines()[1:4]] == [
        [str(other), "alpha@1", "bad_input"],
        [str(letters[2]), "alpha@1", "timeout"],
        [str(letters[1]), "alpha@1", "timeout"],
    ]
    assert out.splitlines()[-1] == "alpha@1 timeout 3 · alpha@1 bad_input 1"
    some = ("--workflow", "alpha@1", "--error-class", "timeout", "--text", "VENDOR", "--newer", "1h")
    dry = run("dead", "requeue", *some, "--dry-run").fine()
    assert dry.err == "3 would be requeued\n"
    assert database.value("SELECT count(*) FROM backbeat.simple_tasks") == 0
    done = run("dead", "requeue", *some, "--reason", "it is back", "--per-minute", "60").fine()
    assert done.err == "requeued 3 of 3\n"
    assert database.value("SELECT count(*) FROM backbeat.simple_tasks") == 3
    gone = run("dead", "discard", "--all", "--reason", "hopeless", "-o", "json").fine().json
    assert (gone["matched"], gone["discarded"]) == (1, 1)
    assert run("dead", "list").fine().err == "none\n"
    assert len(run("dead", "list", "--state", "requeued", "-o", "json").json["letters"]) == 3
    shown = run("dead", "show", other, "-o", "json").fine().json
    assert (shown["state"], shown["reason"], shown["payload"]) == ("discarded", "hopeless", None)


def test_what_cannot_be_requeued_is_refused(run: Run, database: Database, letters: list[UUID]) -> None:
    def said(code: int, *arguments: object) -> str:
        return run("dead", "requeue", *arguments, "--reason", "r").refused(code)

    assert said(2) == "backbeat: name task ids or a filter, or else --all. See `backbeat dead requeue --help`"
    assert said(2, letters[0], "--all").startswith("backbeat: name task ids or a filter")
    assert said(2, "--all", "--workflow", "a@1").startswith("backbeat: name task ids or a filter")
    assert "'a@b' is not of the form triage" in said(2, "--workflow", "a@b")
    assert said(3, "--workflow", "beta").startswith("backbeat: no open dead letter matches")
    stranger = uuid4()
    assert said(3, stranger).startswith(f"backbeat: there is no task {stranger}")
    run("dead", "requeue", letters[0], "--reason", "r").fine()
    live = database.value("SELECT id FROM backbeat.simple_tasks")
    assert said(5, live) == f"backbeat: task {live} is not dead: ready. `backbeat task show` says more"
    assert f"It is now {live}" in said(5, letters[1], letters[0])
    run("dead", "discard", letters[1], "--reason", "r").fine()
    assert "was discarded by" in said(5, letters[1])
    refused = run("dead", "requeue", letters[2]).refused(2)
    assert refused.startswith("backbeat: --reason is needed")
    assert database.value("SELECT count(*) FROM backbeat.simple_tasks") == 1
    assert database.value("SELECT count(*) FROM backbeat.dead_letters WHERE resolved_at IS NULL") == 1


def test_a_letter_is_named_by_its_first_digits(run: Run, database: Database, letters: list[UUID]) -> None:
    first, second, third = (str(letter) for letter in letters)
    shorter = next(n for n in range(8, 36) if first[:n] != second[:n] and first[:n] != third[:n])
    # Its history may be gone already.
    database.sql("DELETE FROM backbeat.finished_tasks")
    assert run("dead", "show", first[:shorter], "-o", "json").fine().json["id"] == first
    run("dead", "discard", first[:shorter], second, "--reason", "x").fine()
    left = database.sql("SELECT id::text FROM backbeat.dead_letters WHERE resolved_at IS NULL")
    assert left == [(third,)]
    run("dead", "requeue", third[:10], "--reason", "x").refused(2)
    assert (
        run("dead", "requeue", "ffffffff", "--reason", "x").refused(3).startswith("backbeat: there is no letter whose")
    )


def test_retention_is_shown_and_set(run: Run, database: Database) -> None:
    run("retention", "set", "finished", "30").fine()
    found = {row["policy"]: row["days"] for row in run("retention", "show", "-o", "json").fine().json}
    assert found == {"finished": 30, "outbox": 30, "ticks": 14, "workflows": 365}
    assert database.sql("SELECT action, subject FROM backbeat.audit_log") == [("retention.set", "finished")]
    for wrong in (("finished", "0"), ("letters", "3")):
        run("retention", "set", *wrong).refused(2)


def test_status_shows_the_health_of_a_database_without_a_stack(run: Run, database: Database) -> None:
    database.sql("SELECT backbeat.maintain_partitions()")
    well = run("status", "--check", "-o", "json").fine().json["health"]
    states = {one["check"]: one["state"] for one in well}
    assert set(states) == {
        *("queue", "ticks", "stops", "partitions", "vacuum", "oldest transaction"),
        *("idle in transaction", "index bloat", "overruns", "routes", "dead letters", "notifications", "telemetry"),
        "models",
        *("messages to Temporal", "Temporal workers", "approved effects"),
    }
    assert "wrong" not in states.values()
    assert run("status").fine().out.startswith("check")


def test_status_finds_what_is_wrong(run: Run, database: Database) -> None:
    asyncio.run(_wait(database))
    database.advance(timedelta(hours=3))
    database.sql("ALTER TABLE backbeat.flows SET (autovacuum_enabled = false)")
    found = {one["check"]: one for one in run("status", "-o", "json").fine().json["health"]}
    assert found["queue"]["found"] == "the oldest task waits for 3 h"
    wrong = {check for check, one in found.items() if one["state"] == "wrong"}
    assert wrong == {"queue", "ticks", "vacuum"}
    assert "autovacuum is off for flows" in found["vacuum"]["found"]
    assert run("status", "--check").code == 1


def test_status_names_models_that_end(run: Run, database: Database, tmp_path: Path) -> None:
    tables = [
        "[tiers]",
        'small = ["old"]',
        "[routes.old]",
        'provider = "anthropic"',
        'model = "claude-3-opus-20240229"',
    ]
    (tmp_path / "routes.toml").write_text("\n".join([*tables, "window = 9", "max_output = 9", "bounded = true"]))
    environ = {**database.environ, "BACKBEAT_ROUTES_FILE": str(tmp_path / "routes.toml")}
    status = command("backbeat", "status", "--check", "-o", "json", home=tmp_path, environ=environ)
    found = {one["check"]: one for one in status.json["health"]}["models"]
    assert (status.code, found["state"]) == (1, "wrong")
    assert "claude-3-opus-20240229 ended on 2026-01-05" in found["found"]


@pytest.mark.parametrize(
    ("how", "said", "code"),
    [
        (("tenant", "pause", "default"), "tenant default is paused since ", 0),
        (("workflow", "pause", "alpha"), "workflow alpha is paused since ", 0),
        (("stop", "--all"), "all work is stopped since ", 1),
    ],
)
def test_status_names_what_is_stopped_and_blames_nobody_else(
    run: Run, database: Database, how: tuple[str, ...], said: str, code: int
) -> None:
    asyncio.run(_wait(database))
    run(*how, "--reason", "invoice\nopen").fine()
    database.advance(timedelta(hours=3))
    done = run("status", "--check", "-o", "json")
    found = {one["check"]: one for one in done.json["health"]}
    assert done.code == code
    assert (found["queue"]["found"], found["ticks"]["state"]) == ("nothing waits", "ok")
    assert found["stops"]["found"].startswith(said)
    assert " UTC by " in found["stops"]["found"]
    assert found["stops"]["found"].endswith(": invoice open")
    assert "resume" in found["stops"]["fix"]


async def _wait(database: Database) -> None:
    async with tasks.worker(database) as db:
        await tasks.add(db)


def test_status_names_who_keeps_dead_rows(run: Run, database: Database) -> None:
    with psycopg.connect(database.owner_url, application_name="a long report") as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        pid = reader.execute("SELECT pg_backend_pid(), count(*) FROM backbeat.ticks").fetchall()[0][0]
        found = {one["check"]: one for one in run("status", "-o", "json").fine().json["health"]}
    assert found["oldest transaction"]["found"].startswith(f"pid {pid} (a long report): ")
    # The workers' login does not see what another login's session is doing.
    hidden = found["idle in transaction"]
    assert (hidden["state"], hidden["found"]) == ("unknown", "1 sessions of other logins do not show")
    assert "pg_read_all_stats" in hidden["fix"]
