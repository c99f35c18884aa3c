"""`backbeat feedback` as a person types it, and its way to ClickHouse."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from backbeat.cli.main import main
from shared.ids import trace_id
from tests.support import tasks
from tests.support.approvals import start
from tests.support.clickhouse import ask
from tests.support.command import Done, command
from tests.support.databases import Database

Run = Callable[..., Done]
FACTS = "SELECT Workflow, Tenant, TaskId, Finding, Label, SaidBy FROM v_feedback ORDER BY Timestamp, Label"
OLD = "2026-03-29T02:30:00"  # in an hour that Berlin does not have, and too old for raw spans


@pytest.fixture
def run(
    database: Database,
    clickhouse: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    environ = {
        **database.environ,
        "BACKBEAT_CLICKHOUSE_URL": clickhouse,
        "BACKBEAT_TELEMETRY": "spool",
        "BACKBEAT_SPOOL_DIR": str(tmp_path / "spool"),
    }
    monkeypatch.chdir(tmp_path)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    def backbeat(*arguments: object) -> Done:
        code = main([str(argument) for argument in arguments])
        return Done(code, *capsys.readouterr())

    return backbeat


def added(database: Database, count: int) -> list[str]:
    async def some() -> list[str]:
        async with tasks.worker(database) as db:
            return [str(task) for task in await tasks.add(db, count)]

    return asyncio.run(some())


def test_words_from_people_to_clickhouse(
    run: Run, database: Database, clickhouse: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task, other), workflow = added(database, 2), str(start(database))
    said = run("feedback", "add", task, "False positive", "--finding", "a.py:7", "--by", "ann").fine().err
    assert said.startswith("note: `backbeat telemetry ship`")
    assert "there is no task or workflow 0" in run("feedback", "add", "0" * 32, "correct").refused(3)
    assert "label is missing" in run("feedback", "add", task, " ").refused(2)
    file, csv = tmp_path / "words.jsonl", tmp_path / "words.csv"
    words = [
        {"task": task, "label": "correct", "finding": "a.py:7", "by": "bob", "at": f"{OLD}+01:00"},
        {"task": workflow, "label": "wrong", "at": f"{OLD}Z"},
    ]
    file.write_text("\n".join(map(json.dumps, words)))
    assert run("feedback", "import", file, "--by", "cron", "-o", "json").json["new"] == 2
    csv.write_text(f"task,label,by\n{other},missed,ann\n{other},missed,ann\n")
    with monkeypatch.context() as silent:
        silent.setenv("BACKBEAT_TELEMETRY", "off")
        off = run("feedback", "import", csv, "-o", "json").fine()
        assert (off.json["new"], off.json["known"]) == (1, 1)
        assert "telemetry is off, so only Postgres knows" in off.err
    # What is said twice is one word, whoever died in between; retell brings what nobody was told.
    assert run("feedback", "import", file, "--by", "cron", "-o", "json").json["known"] == 2
    run("telemetry", "ship").fine()
    assert len(ask(clickhouse, FACTS)) == 3
    assert run("feedback", "retell", "--since", "900d", "-o", "json").json == {"told": 4}
    run("telemetry", "ship").fine()
    assert ask(clickhouse, FACTS) == [
        ("alpha", "default", task, "a.py:7", "correct", "bob"),
        ("approve_effect", "default", workflow, "", "wrong", "cron"),
        ("alpha", "default", task, "a.py:7", "false_positive", "ann"),
        ("alpha", "default", other, "", "missed", "ann"),
    ]
    # What was said long ago is a fact still, of a span that is too old to keep.
    linked = "SELECT SpanAttributes['backbeat.task_id'], Links.TraceId FROM v_spans WHERE SpanName = 'feedback'"
    assert dict(ask(clickhouse, linked)).items() >= {one: [trace_id("task", one)] for one in (task, other)}.items()
    out = run("feedback", "list", "--task", task).fine().out
    assert [line.split()[1] for line in out.splitlines()[1:]] == ["false_positive"]
    assert len(run("feedback", "list", "--since", "900d", "-o", "json").json) == 4


def test_bad_lines_are_named_and_the_others_kept(run: Run, database: Database, tmp_path: Path) -> None:
    (task,) = added(database, 1)
    good = json.dumps({"task": task, "label": "correct"})
    bad = [
        f'{{"task": "{"0" * 32}", "label": "correct"}}',
        '{"task": "x", "label": "correct"}',
        f'{{"task": "{task}"}}',
        f'{{"task": "{task}", "label": "correct", "at": "2026-03-29T02:30"}}',
        f'{{"task": "{task}", "label": "correct", "lable": "y"}}',
        f'{{"task": "{task}", "label": 7}}',
        f'{{"task": "{task}", "label": "{"x" * 101}"}}',
        "[1]",
        "{",
        "\ud800",
    ]
    file = tmp_path / "words.jsonl"
    file.write_bytes("\n".join([good, *bad, "", good.replace("correct", "missed")]).encode("utf-8", "surrogatepass"))
    refused = run("feedback", "import", file)
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 11)
    assert "10 lines are bad, so nothing was kept. Correct the file, or leave such lines out" in refused.err
    assert database.value("SELECT count(*) FROM backbeat.feedback") == 0
    some = run("feedback", "import", file, "--on-bad", "skip", "-o", "json").fine().json
    assert (some["new"], some["known"], some["bad"]) == (2, 0, 10)
    reasons = {one["line"]: one["reason"] for one in some["bad_lines"]}
    assert sorted(reasons) == list(range(2, 12))
    assert reasons[2] == "there is no task or workflow 00000000-0000-0000-0000-000000000000"
    assert reasons[5] == "at: '2026-03-29T02:30' names no time zone; add Z or +01:00"
    assert reasons[6] == "unknown field 'lable'; there are task, label, finding, by, at"
    assert [reasons[n].partition(":")[0] for n in (3, 7, 8, 9, 10, 11)] == [
        "task", "label is no text", "label has more than 100 characters",
        "it is no object with the fields task and label", "not JSON", "not UTF-8",
    ]  # fmt: skip


def test_a_worker_may_not_speak_for_people(database: Database, tmp_path: Path) -> None:
    workflow = start(database)
    environ = {**database.environ, "BACKBEAT_OPERATOR_URL": database.worker_url}
    said = command("backbeat", "feedback", "add", workflow, "correct", home=tmp_path, environ=environ).refused(4)
    assert "this takes the login of an operator" in said
