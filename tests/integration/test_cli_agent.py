"""`backbeat agent` on agents that ran: list, show, cancel, resume, fork."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.support.agents import DONE, NOTES, job, use
from tests.support.command import Done, command
from tests.support.databases import Database
from tests.support.desk import desk

Run = Callable[..., Done]


@pytest.fixture
def run(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv(NOTES, str(tmp_path))

    def agent(*arguments: object) -> Done:
        return command("backbeat", "agent", *arguments, home=tmp_path, environ=database.environ)

    return agent


async def _agents(database: Database, *payloads: dict[str, Any], turns: int = 100) -> list[UUID]:
    async with desk(database) as work:
        ids = [await work.add("scripted", payload) for payload in payloads]
        for _ in range(turns):
            if not await work.turn():
                break
        return ids


async def test_a_transcript_with_tokens_and_cost(database: Database, run: Run) -> None:
    (one,) = await _agents(database, job(1, use("look_up", word="abc"), DONE))
    (listed,) = run("list", "-o", "json").fine().json
    assert (listed["id"], listed["status"], listed["steps"]) == (str(one), "done", 2)
    told = run("show", str(one)[:13], "-o", "json").fine().json
    first, last = told["steps"]
    assert (first["tool"], first["args"], first["output"]["means"]) == ("look_up", {"word": "abc"}, "cba")
    assert told["agent"]["tokens"] == first["tokens"] + last["tokens"] == listed["tokens"]
    shown = run("show", str(one)).fine().out
    assert f"2 steps, {listed['tokens']:,} tokens, $0.0" in shown
    assert "look_up" in shown


async def test_a_dead_one_is_resumed_and_another_is_not(database: Database, run: Run) -> None:
    dead, done = await _agents(database, job(1, *[{"action": "respond"}] * 9, DONE), job(2, DONE))
    run("resume", dead, "--max-steps", "20", "--reason", "nearly there").fine()
    assert (await _agents(database)) == []
    assert run("list", "--status", "dead", "-o", "json").fine().json == []
    refused = run("resume", done, "--reason", "why")
    assert (refused.code, "is done. Only a dead one is resumed" in refused.err) == (5, True)
    assert run("resume", UUID(int=7), "--reason", "why").code == 3
    assert database.sql("SELECT reason FROM backbeat.dead_letters") == [("nearly there",)]


async def test_cancel_and_fork(database: Database, run: Run) -> None:
    (one,) = await _agents(database, job(1, use("look_up", word="abc"), {"action": "respond"}, DONE), turns=1)
    assert "1 task(s) ended" in run("cancel", one, "--reason", "enough").fine().err
    assert run("cancel", one, "--reason", "enough").code == 5
    refused = run("fork", one, "--at", "9")
    assert (refused.code, "has no step 9 on record. It has taken 1" in refused.err) == (5, True)
    fork = run("fork", one, "--at", "1").fine().out.strip()
    await _agents(database)
    told = run("show", fork, "-o", "json").fine().json
    assert (told["agent"]["status"], told["agent"]["forked_from"], len(told["steps"])) == ("done", str(one), 3)
    actions = [action for (action,) in database.sql("SELECT action FROM backbeat.audit_log ORDER BY id")]
    assert actions[-2:] == ["agent.cancelled", "agent.forked"]
