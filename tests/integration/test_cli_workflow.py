"""`backbeat workflow` against a real database and a real Temporal server."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4
from xml.etree import ElementTree

import pytest
from psycopg.types.json import Jsonb

from backbeat.cli.output import os_user
from tests.integration.test_orchestrations import MODULE, begin, connected, loaded
from tests.support.approvals import start
from tests.support.command import Done, command
from tests.support.databases import AUDIT_PROBLEMS, Database
from tests.support.temporal import FarSide, Server, environment, eventually, finished, request_of, row, working

Run = Callable[..., Done]
ORDER = '{"customer": "acme"}'


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Run:
    def backbeat(*arguments: object, **environ: str) -> Done:
        environ = {**database.environ, "BACKBEAT_DEFINITIONS": MODULE, **environ}
        return command("backbeat", "workflow", *arguments, home=tmp_path, environ=environ)

    return backbeat


def count(database: Database) -> int:
    found: int = database.value("SELECT count(*) FROM backbeat.orchestrated_workflows")
    return found


async def test_a_run_from_start_to_picture(
    database: Database, temporal_server: Server, run: Run, tmp_path: Path
) -> None:
    client = await connected(temporal_server)
    at = {"BACKBEAT_TEMPORAL_ADDRESS": temporal_server.address}
    started = run("start", "spread", "--input", '{"customer": "acme", "weight": 3}', "--key", "k", "-o", "json").fine()
    workflow = UUID(started.json["id"])
    again = run("start", "spread", "--input", '{"customer": "acme", "weight": 3}', "--key", "k", "-o", "json").fine()
    assert (started.json["created"], again.json) == (True, {"id": str(workflow), "created": False})
    assert run("show", workflow, "-o", "json").fine().json["undelivered"][0]["kind"] == "start"
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        await eventually(lambda: row(database, workflow)["status"] == "waiting")
        shown = run("show", str(workflow)[:13], "-o", "json", **at).fine().json
        assert shown["workflow"]["status"] == "waiting"
        assert shown["waits"][0]["waits_for"] == "tasks of 'parcels', 3 of them"
        assert shown["waits"][0]["since"]
        assert shown["temporal"]["status"] == "running"
        assert "waits for" in run("show", workflow, **at).fine().out
        (listed,) = run("list", "--status", "waiting", "-o", "json").fine().json
        assert listed["id"] == str(workflow)
        text = run("graph", workflow).fine().out
        assert "… parcels (fan_out)  waits for tasks of 'parcels', 3 of them" in text
        run("cancel", workflow, "--reason", "wrong").fine()
        assert (await finished(database, workflow))["status"] == "cancelled"
        run("retry", workflow).fine()
        await eventually(lambda: row(database, workflow)["status"] == "waiting")
        assert row(database, workflow)["generation"] == 2
        run("reconcile", workflow).fine()
    picture = tmp_path / "run.svg"
    run("graph", workflow, "--svg", picture).fine()
    drawn = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    assert "… parcels" in "".join(drawn.itertext())


async def test_show_says_what_a_run_waits_for_and_since_when(
    database: Database, temporal_server: Server, run: Run
) -> None:
    """An approval; an effect that no worker has loaded; one whose outcome nobody knows; a region that is cut off."""
    client = await connected(temporal_server)
    at = {"BACKBEAT_TEMPORAL_ADDRESS": temporal_server.address}

    def waits(workflow: UUID) -> list[str]:
        shown = run("show", workflow, "-o", "json", **at).fine().json["waits"]
        assert all(one["since"] for one in shown)
        return [one["waits_for"] for one in shown]

    async def settled(workflow: UUID) -> list[str]:
        """Once no activity is under way: rows are written before Temporal hears of that activity's end."""

        def still() -> list[str]:
            found = waits(workflow)
            return [] if any("under way" in one for one in found) else found

        return cast("list[str]", await eventually(still, within=60))

    far = FarSide(troubles=["lose answer"], can_look=False)
    async with environment(database, far) as env, working(await loaded(env), client) as options:
        lost = begin(database, "ship")
        await eventually(lambda: row(database, lost)["status"] == "waiting")
        (unknown,) = await settled(lost)
        assert unknown.startswith("the outcome of 'book' is unknown: resolve it: backbeat effect resolve")
        asking, unloaded, far_away = start(database), start(database, effect="nobody's"), begin(database, "twice")
        await eventually(lambda: row(database, asking)["status"] == "waiting")
        request = request_of(database, asking)
        assert request
        assert await settled(asking) == [f"approval {request[0]}"]
        await eventually(lambda: row(database, unloaded)["status"] == "waiting")
        first, *_ = waits(unloaded)
        assert first == 'a worker that has loaded the effect "nobody\'s"'
        since = run("show", unloaded, "-o", "json", **at).fine().json["waits"][0]["since"]
        seq = row(database, unloaded)["state_seq"]
        await eventually(lambda: row(database, unloaded)["state_seq"] > seq)
        assert run("show", unloaded, "-o", "json", **at).fine().json["waits"][0]["since"] == since
        cut_off = [f"write, for a worker of task queue {options.task_queue}-eu"]
        await eventually(lambda: waits(far_away) == cut_off)
        assert "waits for" in run("show", far_away, **at).fine().out
        async with (
            working(await loaded(env), client, replace(options, region="eu")),
            working(await loaded(env), client, replace(options, region="us")),
        ):
            assert (await finished(database, far_away, within=60))["status"] == "completed"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("start", "nothing", "--input", ORDER),
            2,
            "no loaded module defines the orchestration 'nothing'. Loaded: ask_abroad",
        ),
        (("start", "ship", "--input", "{}"), 2, "ship@1: customer: Field required"),
        (("start", "ship", "--input", '{"customer": 7}'), 2, "ship@1: customer: Input should be a valid string"),
        (("start", "ship", "--input", "]"), 2, "this is not JSON"),
        (("start", "ship", "--input", '"text"'), 2, "ship@1: the payload: Input should be"),
        (("start", "ship"), 2, "give one of --input and --file"),
        (("start", "ship", "--input", ORDER, "--version", "9"), 2, "no loaded module defines ship@9. Newest: ship@1"),
        (("start", "ship", "--input", ORDER, "--tenant", "nobody"), 3, "tenant nobody does not exist"),
        (("start", "ship", "--input", ORDER, "--key", ""), 2, "a key has 1 to 500 characters"),
        (("show", uuid4()), 3, "there is no workflow"),
        (("graph", uuid4()), 3, "there is no workflow"),
        (("cancel", uuid4(), "--reason", "x"), 3, "there is no workflow"),
        (("retry", uuid4()), 3, "there is no workflow"),
        (("reconcile", uuid4()), 3, "there is no workflow"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(
    database: Database, run: Run, words: tuple[object, ...], code: int, said: str
) -> None:
    assert said in run(*words).refused(code)
    assert count(database) == 0


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("nothing", ("--input", ORDER), "no loaded module defines the orchestration 'nothing'"),
        ("ship", ("--input", ORDER, "--version", "9"), "no loaded module defines ship@9"),
        ("ship", ("--input", '{"customer": 7}'), "ship@1: customer: Input should be a valid string"),
        ("ship", ("--input", ORDER, "--tenant", "nobody"), "tenant nobody does not exist"),
        ("ship", ("--input", '{"customer": "b"}', "--key", "taken"), "with another input"),
    ],
)
def test_a_start_that_is_refused_is_in_the_audit_log(
    database: Database, run: Run, name: str, words: tuple[str, ...], said: str
) -> None:
    run("start", "ship", "--input", ORDER, "--key", "taken").fine()
    assert run("start", name, *words).code in {2, 3, 5}
    kept = "SELECT subject, detail->>'error', detail->>'by' FROM backbeat.audit_log WHERE action = 'workflow.refused'"
    ((subject, error, by),) = database.sql(kept)
    assert (subject, by) == (name, os_user())
    assert said in error
    assert count(database) == 1
    assert database.sql(AUDIT_PROBLEMS) == []


def test_what_stands_against_it_is_said_and_nothing_changes(database: Database, run: Run) -> None:
    workflow = begin(database, "ship", key="k")
    other = run("start", "ship", "--input", '{"customer": "b"}', "--key", "k").refused(5)
    assert f"key 'k' started ship {workflow} with another input" in other
    assert "is starting, not failed or cancelled" in run("retry", workflow).refused(5)
    ended = "SET status = 'completed', result = '{}', finished_at = now()"
    database.sql(f"UPDATE backbeat.orchestrated_workflows {ended}")
    tables = "TABLE backbeat.orchestrated_workflows", "TABLE backbeat.temporal_outbox"
    before = [database.sql(table) for table in tables]
    assert "has already ended: completed" in run("cancel", workflow, "--reason", "x").refused(5)
    assert "is completed, not failed or cancelled" in run("retry", workflow).refused(5)
    assert "has ended: completed" in run("reconcile", workflow).refused(5)
    assert before == [database.sql(table) for table in tables]
    database.sql("UPDATE backbeat.orchestrated_workflows SET status = 'failed', result = NULL, error = 'x'")
    undone = (
        "INSERT INTO backbeat.side_effects (key, mark, kind, status, owner_kind, owner, origin_id, request,"
        " request_hash, token, fires, fire_until, traceparent, intended_at)"
        " SELECT id || ':undo:a', 'm', 'note', 'intended', 'workflow', id, id, '{}', 'h', 1, 1, now(),"
        " traceparent, now() FROM backbeat.orchestrated_workflows"
    )
    database.sql(undone)
    assert "has compensated what it did" in run("retry", workflow).refused(5)


def test_operating_on_runs_takes_an_operators_login(database: Database, tmp_path: Path) -> None:
    workflow = begin(database, "ship")
    environ = {"BACKBEAT_DATABASE_URL": database.worker_url}
    for words in (("cancel", workflow, "--reason", "x"), ("retry", workflow), ("reconcile", workflow)):
        done = command("backbeat", "workflow", *words, home=tmp_path, environ=environ)
        assert "this takes the login of an operator" in done.refused(4)


def test_a_new_version_takes_its_share_of_new_tasks_and_is_rolled_back(database: Database, run: Run) -> None:
    def add(version: int) -> list[int]:
        call = "SELECT task_id FROM backbeat.enqueue('triage', %s, %s, p_salt => %s)"
        ids = [one for (one,) in database.sql(call, [version, [Jsonb(n) for n in range(300)], str(len(seen))])]
        rows = database.sql("SELECT version FROM backbeat.simple_tasks WHERE id = ANY (%s)", [ids])
        return [found for (found,) in rows]

    def share(versions: list[int]) -> float:
        seen.append(versions)
        return versions.count(4) / len(versions)

    seen: list[list[int]] = []
    known = [{"name": "triage", "version": n, "tier": tier} for n, tier in ((3, "small"), (4, "small"), (5, "large"))]
    database.sql(
        "SELECT backbeat.register_definitions('cron', %s)", [Jsonb([one | {"max_attempts": 3} for one in known])]
    )
    assert share(add(4)) == 1
    run("canary", "triage", "4", "--percent", "20").fine()
    assert 0.1 < share(add(4)) < 0.3
    assert 0.1 < share(add(3)) < 0.3
    assert set(add(5)) == {5}
    (shown,) = [one for one in run("definitions", "-o", "json").fine().json if one["canary"] is not None]
    assert (shown["version"], shown["canary"], shown["stable"]) == (4, 20, 3)
    said = "SELECT count(*) FROM backbeat.set_canary('triage', %s, %s, 'me')"
    assert database.value(said, [4, 0]) == 1
    assert share(add(4)) == 0
    assert "runs in the same tier" in run("canary", "triage", "5", "--percent", "9").refused(5)
    assert database.value(said, [3, 9]) == 0
    assert share(add(4)) == 0, "what is refused changes nothing"
    run("canary", "triage", "--off").fine()
    assert share(add(4)) == 1
    assert "has no canary" in run("canary", "triage", "--off").refused(5)
    trail = "SELECT detail ->> 'percent' FROM backbeat.audit_log WHERE action = 'workflow.canary' ORDER BY id"
    assert database.sql(trail) == [("20",), ("0",), (None,)]
