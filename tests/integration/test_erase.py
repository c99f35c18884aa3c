"""`backbeat erase`: what it counts, takes out, leaves, and says that it cannot reach."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from backbeat.cli.main import main
from shared.domain.outcome import Dead, Succeed
from shared.telemetry.shipper import ship_once
from tests.support import approvals, tasks
from tests.support.clickhouse import ask, call, process, spool
from tests.support.databases import Database

SECRET = "c4n4ry of a customer"
TABLES = (
    *("simple_tasks", "finished_tasks", "dead_letters", "model_calls", "agents", "agent_steps", "side_effects"),
    *("orchestrated_workflows", "orchestrated_workflows_steps", "approval_requests", "notifications", "messages"),
    "feedback",
)


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(
    database: Database,
    empty_clickhouse: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Said]:
    """The command line, in this process."""
    monkeypatch.chdir(tmp_path)
    for name, value in {**database.environ, "BACKBEAT_CLICKHOUSE_URL": empty_clickhouse}.items():
        monkeypatch.setenv(name, value)

    def backbeat(*arguments: object) -> Said:
        capsys.readouterr()
        return Said(main(["erase", *map(str, arguments)]), *capsys.readouterr())

    return backbeat


async def _work(database: Database, tenant: str) -> list[UUID]:
    """A task that succeeded, with its answer on record, and one that died; both full of the secret."""
    database.sql("INSERT INTO backbeat.tenants (id) VALUES (%s) ON CONFLICT DO NOTHING", [tenant])
    async with tasks.worker(database) as db:
        ids = []
        for outcome in (Succeed({"said": SECRET}), Dead("refused", SECRET)):
            ids += [
                one.task_id for one in await tasks.submit(db, [{"n": 1, "text": f"{SECRET} {tenant}"}], tenant=tenant)
            ]
            task = await tasks.take_one(db)
            await tasks.answered(db, task, await tasks.opened(db, task))
            database.sql("UPDATE backbeat.model_calls SET response = jsonb_build_object('text', %s::text)", [SECRET])
            assert await tasks.settle(db, task, outcome)
    return ids


def _leaks(database: Database) -> dict[str, int]:
    """Rows by table that still have the secret."""
    counts = {
        name: database.value(f"SELECT count(*) FROM backbeat.{name} t WHERE t::text LIKE %s", [f"%{SECRET}%"])
        for name in TABLES
    }
    return {name: count for name, count in counts.items() if count}


def _rows(done: Said, where: str) -> dict[str, int]:
    assert done.code == 0, done
    return {row["table"]: row["rows"] for row in json.loads(done.out)["rows"] if row["where"] == where}


def test_a_tenant_leaves_and_the_others_stay(
    database: Database, clickhouse: str, run: Callable[..., Said], tmp_path: Path
) -> None:
    mine, others = asyncio.run(_work(database, "leaver")), asyncio.run(_work(database, "stayer"))
    database.sql("UPDATE backbeat.model_calls SET response = jsonb_build_object('text', %s::text)", [SECRET])
    for number, tenant in enumerate(("leaver", "leaver", "stayer")):
        one: dict[str, Any] = {"backbeat__tenant": tenant}
        trace = f"{number:032x}"
        spool(tmp_path / "spool", call(number, **one, backbeat__task_id=str(mine[0])), process())
        assert ship_once(tmp_path / "spool", clickhouse, 20).error == "", trace
    before = database.sql("SELECT id, status, calls, cost_usd, finished_at FROM backbeat.finished_tasks ORDER BY id")

    for tenant in ("leaver", "stayer"):
        ask(
            clickhouse, f"INSERT INTO origins (OriginId, Tenant, Timestamp) VALUES ('o {tenant}', '{tenant}', now64(9))"
        )
        ask(clickhouse, f"INSERT INTO effects (OriginId, Timestamp) VALUES ('o {tenant}', now64(9))")

    looked = run("--tenant", "leaver", "--reason", "GDPR 17", "-o", "json")
    assert json.loads(looked.out)["erased"] is False
    assert "nothing was erased; add --yes" in looked.err
    counted = _rows(looked, "postgres")
    assert (counted["finished_tasks"], counted["dead_letters"], counted["model_calls"]) == (2, 1, 2)
    assert _rows(looked, "clickhouse")["llm_calls"] == 2
    assert _leaks(database) == {"finished_tasks": 4, "dead_letters": 2, "model_calls": 4}

    done = run("--tenant", "leaver", "--reason", "GDPR 17", "--yes", "-o", "json")
    assert _rows(done, "postgres") == counted
    assert _leaks(database) == {"finished_tasks": 2, "dead_letters": 1, "model_calls": 2}
    assert (
        database.sql("SELECT id, status, calls, cost_usd, finished_at FROM backbeat.finished_tasks ORDER BY id")
        == before
    )
    kept = database.sql("SELECT DISTINCT id FROM backbeat.finished_tasks WHERE payload::text LIKE %s", [f"%{SECRET}%"])
    assert {row[0] for row in kept} == set(others)
    assert ask(clickhouse, "SELECT Tenant, count() FROM llm_calls GROUP BY Tenant") == [("stayer", 1)]
    assert (
        ask(clickhouse, "SELECT OriginId FROM effects")
        == ask(clickhouse, "SELECT OriginId FROM origins")
        == [("o stayer",)]
    )
    said = database.sql("SELECT subject, detail FROM backbeat.audit_log WHERE action = 'erased'")
    assert [(subject, detail["reason"], detail["finished_tasks"]) for subject, detail in said] == [
        ("tenant leaver", "GDPR 17", 2)
    ]
    for what in ("backups", "hourly sums", "spool files", "vendors"):
        assert what in done.err
    assert run("--tenant", "leaver", "--reason", "GDPR 17", "--yes").code == 0


def test_a_task_leaves_with_what_came_of_it(database: Database, clickhouse: str, run: Callable[..., Said]) -> None:
    request = approvals.ask(database, seconds=60, title=SECRET, request={"text": SECRET})
    approvals.decide(database, approvals.token(database, "alice"), request.id, "approve", request.hash)
    origin = "SELECT coalesce(parent_task, id) FROM backbeat.orchestrated_workflows WHERE id = %s"
    task = database.value(origin, [request.workflow])
    database.sql("UPDATE backbeat.orchestrated_workflows SET input = jsonb_build_object('text', %s::text)", [SECRET])
    for_it = ("--task", task, "--reason", "asked by mail")
    going_on = run(*for_it, "--yes")
    assert (going_on.code, going_on.err.count("\n")) == (5, 1)
    assert "0 tasks and 1 workflows still go on" in going_on.err
    end = "UPDATE backbeat.orchestrated_workflows SET status = 'completed', result = %s::jsonb, finished_at = now()"
    database.sql(end, [json.dumps({"text": SECRET})])
    done = run(*for_it, "--yes", "-o", "json")
    assert _rows(done, "postgres")["approval_requests"] == 1
    assert _leaks(database) == {}
    assert "Temporal's histories of 1 workflows (approve_effect/" in done.err
    assert "1 decisions with their comments" in done.err


@pytest.mark.parametrize("by", ["tenant", "task"])
def test_nothing_tells_of_the_erased_again(
    database: Database,
    clickhouse: str,
    run: Callable[..., Said],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    """What waits on this disk and in Postgres arrives first; feedback goes; what was erased is told no more."""
    monkeypatch.setenv("BACKBEAT_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("BACKBEAT_TELEMETRY", "spool,postgres")
    first, second = asyncio.run(_work(database, "leaver"))
    for task in (first, second):
        assert main(["feedback", "add", str(task), "wrong", "--finding", SECRET]) == 0
    spool(tmp_path / "spool", call(1, backbeat__tenant="leaver", backbeat__task_id=str(first)))
    assert database.value("SELECT count(*) FROM backbeat.telemetry_outbox") == 2
    whom = [["--tenant", "leaver"]] if by == "tenant" else [["--task", first], ["--task", second]]
    for one in whom:
        done = run(*one, "--reason", "GDPR 17", "--yes", "-o", "json")
        assert _rows(done, "postgres")["feedback"] == 2 / len(whom)
        assert sum(_rows(done, "clickhouse").values()) > 0
    assert _leaks(database) == {}
    for again in ("telemetry ship", "telemetry rebuild", "feedback retell", "telemetry ship"):
        assert main(again.split()) == 0
    for table in ("otel_traces", "llm_calls", "task_runs", "feedback"):
        assert ask(clickhouse, f"SELECT count() FROM {table}") == [(0,)], table
    others = asyncio.run(_work(database, "leaver"))  # of whoever comes back, all is told
    assert main(["telemetry", "rebuild"]) == 0
    told = ask(clickhouse, "SELECT DISTINCT TaskId FROM llm_calls")
    assert {task for (task,) in told} == {str(task) for task in others}


def test_nothing_is_erased_while_spans_of_it_may_still_arrive(
    database: Database, clickhouse: str, run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKBEAT_SPOOL_DIR", str(tmp_path / "spool"))
    asyncio.run(_work(database, "leaver"))
    leaks, for_it = _leaks(database), ("--tenant", "leaver", "--reason", "GDPR 17", "--yes")
    database.sql("SELECT backbeat.put_spans(%s, 1, '')", [UUID(int=1)])
    database.sql("UPDATE backbeat.telemetry_outbox SET leased_until = backbeat.clock() + interval '1 minute'")
    said = run(*for_it)  # somebody else is about to send it
    assert (said.code, said.out, said.err.count("\n")) == (75, "", 1)
    assert "1 batches of spans are still on their way to ClickHouse" in said.err
    database.sql("UPDATE backbeat.telemetry_outbox SET refused = 'broken'")
    spool(tmp_path / "spool", call(1))
    monkeypatch.setenv("BACKBEAT_CLICKHOUSE_URL", "http://127.0.0.1:9/x")
    said = run(*for_it)
    assert (said.code, said.out, said.err.count("\n")) == (75, "", 1)
    assert _leaks(database) == leaks
    monkeypatch.setenv("BACKBEAT_CLICKHOUSE_URL", "")
    assert "remains: spans that wait on disks and in telemetry_outbox\n" in run(*for_it).err
    assert _leaks(database) == {}


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("--tenant", "nobody", "--reason", "x"), 3, "Postgres has nothing of tenant nobody"),
        (("--reason", "x"), 2, "give --tenant or --task"),
        (("--tenant", "a", "--reason", " "), 2, "the reason is empty"),
        (("--tenant", "a"), 2, "Missing option '--reason'"),
    ],
)
def test_what_cannot_be_erased_is_one_line(
    clickhouse: str, run: Callable[..., Said], arguments: tuple[str, ...], code: int, line: str
) -> None:
    said = run(*arguments)
    assert (said.code, said.out, said.err.count("\n")) == (code, "", 1)
    assert line in said.err
