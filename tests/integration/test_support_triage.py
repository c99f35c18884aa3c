"""`examples/support_triage`: the definition by itself, and `backbeat eval tiers` on its data through the real queue."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backbeat.evaluate.drain import drained, enqueue
from backbeat.evaluate.score import infrastructure_fault, matches
from backbeat.evaluate.variants import variant
from backbeat.testing import canned
from examples.support_triage import generate
from examples.support_triage.definitions import Triage, triage
from shared.telemetry.spans import NullTelemetry
from tests.support import tasks
from tests.support.command import Done, command
from tests.support.databases import Database
from tests.support.simulated import Service, service

CASES = [json.loads(line) for line in generate.FILE.read_text(encoding="utf-8").splitlines()[1:]]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service("provider", tmp_path_factory.mktemp("provider") / "log", "--latency", "0") as running:
        yield running


def evaluate(database: Database, provider: Service, home: Path, *arguments: object) -> Done:
    vendors = f'[providers.anthropic]\nbase_url = "{provider.url}/anthropic"\nsimulated = true\n'
    (home / "backbeat.toml").write_text(vendors, encoding="utf-8")
    environ = {**database.environ, "BACKBEAT_DEFINITIONS": "examples.support_triage.definitions"}
    return command("backbeat", "eval", "tiers", *arguments, home=home, environ=environ, within=170)


def test_the_definition_without_a_model() -> None:
    with canned({"answer": {"category": "bug", "urgent": True}}) as models:
        assert models.run(triage, CASES[0]["input"]).result == Triage(category="bug", urgent=True)


def test_the_data_is_what_its_generator_writes() -> None:
    assert generate.FILE.read_text(encoding="utf-8") == "\n".join(generate.lines()) + "\n"
    about = json.loads(generate.lines()[0])["about"]
    assert "simulated" in about
    assert "wrong on purpose, by tier" in about


def test_every_tier_answers_the_same_sample(database: Database, provider: Service, tmp_path: Path) -> None:
    before = len(provider.ends())
    picture = tmp_path / "tiers.svg"
    words = ("--dataset", generate.FILE, "--sample", 60, "--target", 0.7, "--svg", picture, "-o", "json")
    done = evaluate(database, provider, tmp_path, *words).fine()
    found: dict[str, Any] = done.json
    scores = {one["tier"]: one for one in found["tiers"]}
    assert list(scores) == ["small", "medium", "large"]
    assert [one["answered"] for one in scores.values()] == [60, 60, 60]
    assert len(provider.ends()) - before == 180
    correct = [scores[tier]["correct"] for tier in ("small", "medium", "large")]
    assert correct == sorted(correct)
    assert correct[0] < correct[2]
    assert found["recommended"] in scores
    assert "simulated" in found["about"]
    assert "simulated provider" in done.err
    assert picture.read_text(encoding="utf-8").count(">simulated<") == 3
    costs = [float(scores[tier]["usd_per_correct"]) for tier in ("small", "medium", "large")]
    assert costs == sorted(costs)
    workflows = {row[0] for row in database.sql("SELECT DISTINCT workflow FROM backbeat.finished_tasks")}
    assert workflows == {f"support_triage_eval_{tier}" for tier in scores}


async def test_what_is_not_finished_when_time_is_up_is_ended(database: Database) -> None:
    """Nobody pays for it afterwards, even where the evaluation was killed: it expires by itself."""
    async with tasks.worker(database) as db:
        payloads, made = [case["input"] for case in CASES[:3]], variant(triage, "small")
        ids = await enqueue(db, NullTelemetry(), made, payloads, "salt", within=0.0)
        rows = await drained(db, ids, (), 0.0, print)
    assert {infrastructure_fault(rows[one]) for one in ids} == {"not finished: expired"}
    assert database.value("SELECT count(*) FROM backbeat.simple_tasks") == 0


def test_a_grader_agrees_where_it_must_and_what_it_could_not_grade_is_apart(database: Database, tmp_path: Path) -> None:
    """Planted: two tasks that the vendor calls invalid requests, three gradings too."""
    plan = [({"schema": "^Triage"}, 2), ({"schema": "^Grade"}, 3)]
    lines = [json.dumps({"fault": "400", "times": times, "where": where}) for where, times in plan]
    (tmp_path / "faults.jsonl").write_text("\n".join(lines))
    flags = ("--latency", "0", "--faults", str(tmp_path / "faults.jsonl"))
    words = ("--dataset", generate.FILE, "--sample", 40, "--tier", "small", "--scorer", "model", "-o", "json")
    with service("provider", tmp_path / "log", *flags) as provider:
        done = evaluate(database, provider, tmp_path, *words)
    (found,) = done.json["tiers"]
    assert (found["infrastructure"], found["answered"]) == ({"bad_request": 2, "not graded": 3}, 35)
    expected = {json.dumps(case["input"], sort_keys=True): case["expected"] for case in CASES}
    ended = "SELECT {} FROM backbeat.finished_tasks WHERE workflow LIKE '%%eval_{}' AND status = 'succeeded'"
    rows = [
        (json.dumps(given, sort_keys=True), made)
        for given, made in database.sql(ended.format("payload, result", "small"), [])
    ]
    exact = {given: matches(made, expected[given]) for given, made in rows}
    graded = database.sql(ended.format("payload ->> 'asked', result -> 'correct'", "grade"), [])
    assert len(graded) == 35
    assert {exact[json.dumps(json.loads(asked), sort_keys=True)] == right for asked, right in graded} == {True}
    assert 0 < found["correct"] < 35, "both kinds of answers were there to agree on"


def test_feedback_is_a_dataset_too(database: Database, provider: Service, tmp_path: Path) -> None:
    small = ("--from-feedback", "--tier", "small", "-o", "json")
    assert "no labelled case" in evaluate(database, provider, tmp_path, *small).refused(2)
    environ = {**database.environ, "BACKBEAT_DEFINITIONS": "examples.support_triage.definitions"}
    payload = json.dumps({"subject": "Invoice", "body": "A refund, please."})
    words = ("task", "enqueue", "support_triage", "--payload", payload, "-o", "json")
    ((task,),) = [command("backbeat", *words, home=tmp_path, environ=environ).fine().json]
    said = "INSERT INTO backbeat.feedback (origin_id, task_id, finding, label, said_by) VALUES (%s, %s, %s, %s, 'ann')"
    for finding, label in (("category", "billing"), ("urgent", "false")):
        database.sql(said, [task["task_id"], task["task_id"], finding, label])
    done = evaluate(database, provider, tmp_path, *small)
    assert done.code == 1, done
    assert [(one["answered"], one["correct"]) for one in done.json["tiers"]] == [(1, 1)]
    assert done.json["why"].startswith("sample too small: 0.9 takes 35 answers")
