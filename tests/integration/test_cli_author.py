"""`backbeat init`, `run` and `definitions check`; without `--local` a run is a task of the queue."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.command import Done, clean_environ, command
from tests.support.databases import Database
from tests.support.simulated import Service, service

TICKET = '{"subject": "Invoice", "body": "You charged me twice."}'
BROKEN = """from pydantic import BaseModel
from backbeat import single_shot

class In(BaseModel):
    text: str

class Out(BaseModel):
    anything: dict[str, int]

one = single_shot("one", version=0, input=In, output=In, tier="small", prompt="{text}")
two = single_shot("two", version=1, input=In, output=In, tier="small", prompt="{missing}")
three = single_shot("three", version=1, input=In, output=In, tier="tiny", prompt="{text}")
four = single_shot("four", version=1, input=In, output=Out, tier="small", prompt="{text}")
"""


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service("provider", tmp_path_factory.mktemp("provider") / "log", "--latency", "0") as running:
        yield running


@pytest.fixture
def project(tmp_path: Path, provider: Service) -> Path:
    command("backbeat", "init", "mytasks", home=tmp_path).fine()
    vendors = f'[providers.anthropic]\nbase_url = "{provider.url}/anthropic"\nsimulated = true\n'
    (tmp_path / "mytasks/backbeat.toml").write_text(vendors, encoding="utf-8")
    return tmp_path / "mytasks"


def run(
    home: Path,
    *arguments: object,
    definitions: str = "mytasks",
    stdin: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Done:
    environ = {**(environ or {}), "BACKBEAT_DEFINITIONS": definitions}
    environ["PYTHONPATH"] = f"{home}:{clean_environ()['PYTHONPATH']}"
    return command("backbeat", *arguments, home=home, environ=environ, stdin=stdin)


def test_a_new_project_is_sound_and_its_tests_pass(project: Path) -> None:
    said = run(project, "definitions", "check", "-o", "json").fine().json
    assert said == {"declared": ["support_triage@1"], "problems": []}
    environ = clean_environ()
    environ["PYTHONPATH"] = f"{project}:{environ['PYTHONPATH']}"
    tested = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "."]
    done = subprocess.run(tested, cwd=project, env=environ, capture_output=True, text=True)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert len((project / "README.md").read_text(encoding="utf-8").splitlines()) <= 40


def test_init_replaces_nothing(project: Path) -> None:
    before = {path: path.read_bytes() for path in project.iterdir() if path.is_file()}
    assert "mytasks exists" in command("backbeat", "init", "mytasks", home=project.parent).refused(5)
    assert before == {path: path.read_bytes() for path in project.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["my-tasks", "json", "backbeat", "pydantic", "tests", "../x", "class", ""])
def test_a_name_that_no_module_can_have(tmp_path: Path, name: str) -> None:
    command("backbeat", "init", "--", name, home=tmp_path).refused(2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", ["argument", "file", "stdin"])
def test_a_local_run_says_what_it_cost_and_that_it_is_simulated(project: Path, way: str) -> None:
    (project / "ticket.json").write_text(TICKET, encoding="utf-8")
    given = {"argument": TICKET, "file": "@ticket.json", "stdin": "-"}[way]
    done = run(project, "run", "support_triage", "--local", "--input", given, "-o", "json", stdin=TICKET).fine()
    said = done.json
    assert (said["outcome"], said["result"]["category"], said["calls"]) == ("succeed", "billing", 1)
    assert float(said["cost_usd"]) > 0
    assert said["input_tokens"] > 0
    assert said["output_tokens"] > 0
    assert said["simulated"] is True
    assert "simulated" in done.err


def test_what_a_local_run_refuses(project: Path) -> None:
    assert "database_url is not set" in run(project, "run", "support_triage", "--input", TICKET).refused(2)
    assert "not JSON" in run(project, "run", "support_triage", "--local", "--input", "{").refused(2)
    assert "subject" in run(project, "run", "support_triage", "--local", "--input", "{}").refused(2)
    assert "Loaded: prompt, support_triage" in run(project, "run", "other", "--local", "--input", "{}").refused(2)
    assert "@9" in run(project, "run", "support_triage", "--version", 9, "--local", "--input", TICKET).refused(3)


def test_without_local_a_run_is_a_task_that_is_waited_for(project: Path, database: Database) -> None:
    words = ("run", "support_triage", "--input", TICKET, "-o", "json")
    late = run(project, *words, "--within", 1, environ=database.environ)
    assert (late.code, late.json["ended"]) == (75, False)
    assert "it goes on: `backbeat task show" in late.err
    flags = ["tick", "--every", "200ms", "--budget", "60s"]
    worker = [sys.executable, "-m", "cron_worker", *flags]
    environ = clean_environ(**database.environ, BACKBEAT_DEFINITIONS="mytasks")
    environ["PYTHONPATH"] = f"{project}:{environ['PYTHONPATH']}"
    with subprocess.Popen(worker, cwd=project, env=environ, stderr=subprocess.DEVNULL) as beat:
        try:
            done = run(project, *words, environ=database.environ).fine()
        finally:
            beat.terminate()
    said = done.json
    assert (said["task_id"], said["status"], said["ended"]) == (late.json["task_id"], "succeeded", True)
    assert (said["result"]["category"], float(said["cost_usd"]) > 0) == ("billing", True)
    assert "it was there before" in done.err
    assert "simulated" in done.err


MISTAKES = """
from pydantic import BaseModel
from backbeat import agent, bounded_loop, orchestrator, single_shot, tool, writing_tool

class In(BaseModel): x: str
class Out(BaseModel): y: str
class Free(BaseModel): d: dict[str, str]
def untyped(q): "Untyped."
async def plan(ctx, value): return []

two = tool(untyped)
a = agent("a", version=1, goal="", input=In, output=Out, tier="small", tools=[two])
b = agent("b", version=1, goal="g", input=In, output=Out, tier="huge")
c = agent("c", version=1, goal="g", input=In, output=Free, tier="small")
d = orchestrator("d", version=0, input=In, output=Out, tier="small", plan=plan, merge=plan)
e = single_shot("e", version=1, input=In, output=Out, tier="small", prompt="{x}", bogus=1)
f = single_shot("f", version=1, input=In, output=Out, tier="small", prompt="{x} {}")
g = single_shot("g", version=1, input=In, output=Out, tier="small", prompt="{x.nope}")
h = single_shot("h", version=1, input=In, output=Free, tier="small", prompt="{x}")
i = bounded_loop("i", version=1, input=In, output=Out, tier="small")
j = single_shot("j", version=1, input=In, output=Out, tier="large",
                prompt="{x}")
"""
FOUND = {
    11: "the argument 'q' of the tool 'untyped' needs a name and a type",
    12: "its goal is empty",
    13: "has no tier 'huge'",
    14: "Free.d has no fixed fields",
    15: "versions start at 1",
    16: "it has no option 'bogus'",
    17: "its prompt is no valid template: a placeholder has no name",
    18: "its prompt asks for 'x.nope', which In has not",
    19: "Free.d has no fixed fields",
    20: "missing 1 required keyword-only argument: 'run'",
}


def test_every_mistake_stands_where_the_author_made_it(project: Path) -> None:
    (project / "mistakes.py").write_text(MISTAKES, encoding="utf-8")
    done = run(project, "definitions", "check", "-o", "json", definitions="mistakes")
    assert (done.code, done.json["declared"]) == (2, ["b@1", "j@1"])
    found = {one["line"]: one["problem"] for one in done.json["problems"]}
    assert {one["file"] for one in done.json["problems"]} == {str(project / "mistakes.py")}
    assert {line: said for line, said in FOUND.items() if said not in found.get(line, "")} == {}, found
    assert len(found) == len(done.json["problems"]) == len(FOUND)


@pytest.mark.parametrize("line", sorted(FOUND.keys() - {13}))
def test_what_is_wrong_at_load_is_refused_at_load(project: Path, line: int) -> None:
    lines = MISTAKES.splitlines()
    kept = lines[:10] + ["two = untyped"] * (line not in (11, 12)) + [lines[line - 1]]
    if line == 12:
        kept[-1] = kept[-1].replace("tools=[two]", "tools=[]")
    (project / "mistakes.py").write_text("\n".join(kept), encoding="utf-8")
    words = ("run", "x", "--local", "--input", "{}")
    said = run(project, *words, definitions="mistakes").refused(2)
    assert f"{project}/mistakes.py:{len(kept)}: " in said
    assert FOUND[line] in said


def test_every_problem_is_listed_with_its_line(project: Path) -> None:
    (project / "broken.py").write_text(BROKEN, encoding="utf-8")
    (project / "worse.py").write_text("import json\nraise ValueError('no')\n", encoding="utf-8")
    done = run(project, "definitions", "check", "-o", "json", definitions="broken,worse,gone,mytasks")
    assert done.code == 2
    assert done.json["declared"] == ["three@1", "support_triage@1"]
    found = [(one["module"], one["definition"], one["line"], one["problem"]) for one in done.json["problems"]]
    expected = [
        ("broken", "one", 10, "versions start at 1"),
        ("broken", "two", 11, "its prompt asks for 'missing', which In has not"),
        ("broken", "four", 13, "its output: Out.anything has no fixed fields"),
        ("broken", "three@1", 12, "has no tier 'tiny'"),
        ("worse", None, 2, "ValueError: no"),
        ("gone", None, None, "there is no definition module 'gone'"),
    ]
    assert [one[:3] for one in found] == [one[:3] for one in expected]
    assert all(want[3] in got[3] for got, want in zip(found, expected, strict=True)), found
    assert all(one["fix"] for one in done.json["problems"])
    text = run(project, "definitions", "check", definitions="broken")
    assert f"{project}/broken.py:10: 'one': versions start at 1. Correct the definition" in text.out
