"""The built-in task `prompt`: enqueued by the command line or by SQL, drained by a tick that was told of no module."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.command import Done, command
from tests.support.databases import Database
from tests.support.simulated import Service, service

SCHEMA = {
    "type": "object",
    "properties": {"summary": {"type": "string"}, "urgent": {"type": "boolean"}},
    "required": ["summary"],
}


class Home:
    """A directory with a configuration, and nothing of Python in it."""

    def __init__(self, path: Path, database: Database, provider: Service) -> None:
        self.path, self.database = path, database
        url = f'base_url = "{provider.url}/anthropic"'
        (path / "backbeat.toml").write_text(f"[providers.anthropic]\n{url}\nsimulated = true\n", encoding="utf-8")

    def run(self, module: str, *arguments: object) -> Done:
        return command(module, *arguments, home=self.path, environ=self.database.environ)

    def tick(self) -> None:
        self.run("cron_worker", "tick", "--budget", "60s", "--grace", "5s").fine()

    def results(self) -> list[Any]:
        return self.database.sql("SELECT status, result FROM backbeat.finished_tasks ORDER BY id")


@pytest.fixture
def home(database: Database, tmp_path: Path) -> Iterator[Home]:
    with service("provider", tmp_path / "calls.jsonl", "--latency", "0") as provider:
        yield Home(tmp_path, database, provider)


def test_a_prompt_from_the_command_line(home: Home) -> None:
    home.run("backbeat", "task", "enqueue", "prompt", "--input", '{"prompt": "Say something."}').fine()
    asked = {"prompt": "Sum up.", "system": "Be brief.", "schema": SCHEMA, "tier": "large", "max_output_tokens": 300}
    home.run("backbeat", "task", "enqueue", "prompt", "--payload", json.dumps(asked)).fine()
    home.tick()
    (_, text), (_, made) = home.results()
    assert isinstance(text["output"], str)
    assert text["output"]
    assert isinstance(made["output"]["summary"], str)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({}, "prompt@1: prompt: Field required. Correct the payload"),
        ({"prompt": ""}, "prompt@1: prompt: String should have at least 1 character"),
        ({"prompt": "x", "max_output_tokens": 0}, "prompt@1: max_output_tokens: Input should be greater than or equal"),
        ({"prompt": "x", "overflow": "cut"}, "prompt@1: overflow: Input should be 'dead' or 'chunk'"),
        ({"prompt": "x", "model": "y"}, "prompt@1: model: Extra inputs are not permitted"),
        ({"prompt": "x", "schema": {"type": "objekt"}}, "prompt@1: schema: Value error, this is no JSON Schema"),
        ({"prompt": "x", "schema": {"type": "object"}}, "prompt@1: schema: Value error, output has no fixed fields"),
        ({"prompt": "x", "schema": 5}, "prompt@1: schema: Input should be a valid dictionary"),
    ],
)
def test_a_bad_payload_is_refused_by_its_field(home: Home, payload: Any, said: str) -> None:
    line = home.run("backbeat", "task", "enqueue", "prompt", "--input", json.dumps(payload)).refused(2)
    assert said in line


def test_prompts_from_sql_before_any_worker_came(empty_database: Database, tmp_path: Path) -> None:
    """Bad payloads, which SQL cannot know, are dead letters that name the field."""
    command("backbeat", "migrate", "up", home=tmp_path, environ=empty_database.environ).fine()
    payloads = [{"prompt": "Say something."}, {"promt": "x"}, {"prompt": "x", "tier": "giant"}]
    with psycopg.connect(empty_database.owner_url) as producer:
        producer.execute("SELECT * FROM backbeat.enqueue('prompt', 1, %s)", [[Jsonb(one) for one in payloads]])
    with service("provider", tmp_path / "calls.jsonl", "--latency", "0") as provider:
        home = Home(tmp_path, empty_database, provider)
        home.tick()
    assert sorted(status for status, _ in home.results()) == ["dead", "dead", "succeeded"]
    dead = empty_database.sql("SELECT error_class, error FROM backbeat.dead_letters ORDER BY error_class")
    assert dead == [
        ("invalid_payload", "prompt: Field required (2 problem(s))"),
        ("unknown_tier", "no tier is called 'giant': use one of small, medium, large"),
    ]


def test_a_team_may_have_a_prompt_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shared.definitions import load_definitions

    (tmp_path / "own_prompt.py").write_text(
        "from pydantic import BaseModel\nfrom backbeat import single_shot\nclass A(BaseModel): x: int\n"
        "p = single_shot('prompt', version=1, input=A, output=A, tier='small', prompt='{x}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load_definitions(["own_prompt"]).newest("prompt").input.__name__ == "A"
    assert load_definitions([]).newest("prompt").input.__name__ == "Prompt"
