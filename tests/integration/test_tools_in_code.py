"""Tools that the code of a bounded loop calls: its own list, typed arguments, a span each, writers once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from backbeat import Context, ToolError, bounded_loop, tool
from shared.config import Config
from shared.db.pool import Database as Connection
from shared.definitions import Registry
from shared.domain.outcome import Retry, Succeed
from shared.execution.attempt import attempt
from shared.execution.environment import Environment
from shared.llm.routes import load_routes
from tests.support import tasks
from tests.support.agents import NOTES, fail, hang, look_up, note, written
from tests.support.databases import Database
from tests.support.desk import Notes


class Given(BaseModel):
    n: int = 0


class Made(BaseModel):
    said: list[Any]


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(NOTES, str(tmp_path))
    return tmp_path


def _environment(db: Connection, run: Any, spans: Notes) -> Environment:
    tools = [tool(look_up), note, tool(fail), tool(hang, timeout=0.2)]
    loop = bounded_loop("alpha", version=1, input=Given, output=Made, tier="small", run=run, tools=tools)
    effects = {"note": replace(note.effect, timeout=30.0)} if note.effect else {}
    return Environment(Config(), db, Registry({"alpha@1": loop}, effects), load_routes(), spans)


async def test_tools_of_a_loop(database: Database, notes: Path) -> None:
    tried = 0

    async def run(ctx: Context, _given: Given) -> Any:
        nonlocal tried
        tried += 1
        said = [await ctx.tool("meaning", "look_up", word="abc"), await ctx.tool("write", "note", text="so it is")]
        for step, name, args in (
            ("other", "delete_all", {}),
            ("wrong", "look_up", {"word": 7}),
            ("refused", "fail", {"how": "refuse"}),
            ("no", "note", {"text": "refuse"}),
        ):
            with pytest.raises(ToolError) as refused:
                await ctx.tool(step, name, **args)
            said.append(refused.value.what)
        if tried == 1:
            await ctx.tool("late", "hang")
        return Made(said=said)

    spans = Notes()
    async with tasks.worker(database) as db:
        env = _environment(db, run, spans)
        await tasks.add(db)
        first = await tasks.take_one(db)
        outcome = await attempt(env, first)
        assert isinstance(outcome, Retry)
        assert (outcome.error_class, outcome.error) == ("TimeoutError", "hang did not answer within 0.2 seconds")
        await tasks.settle(db, first, outcome)
        database.sql("UPDATE backbeat.simple_tasks SET status = 'pending', run_after = NULL")
        await db.rows("SELECT backbeat.sweep()")
        again = await attempt(env, await tasks.take_one(db))
    assert again == Succeed(
        {
            "said": [
                {"word": "abc", "means": "cba"},
                {"written": "so it is"},
                "alpha@1 may not call a tool 'delete_all'",
                "the arguments of look_up do not fit: word: Input should be a valid string",
                "no such word",
                "the far side takes no such text",
            ]
        }
    )
    assert (tried, written(notes)) == (2, ["so it is"]), "what was written is not written again"
    called = [
        (one.attributes["gen_ai.tool.name"], bool(one.error)) for one in spans.spans if "execute_tool" in one.name
    ]
    one_run = [("look_up", False), ("note", False), ("look_up", True), ("fail", True), ("note", True)]
    assert called == [*one_run, ("hang", True), *one_run]
