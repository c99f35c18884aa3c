"""The prefix of a definition is the same bytes at every tick, kept as long as the beat needs, its misses explained."""

import os
import subprocess
import sys
from typing import Any

import pytest

from shared.db import calls, queue
from shared.execution.prefixes import Prefixes, ttl_for
from shared.llm.protocol import Request
from shared.llm.providers.anthropic import BLOCK, payload
from shared.llm.routes import load_routes
from tests.integration.test_routes_said import Refusing, _environment, _once
from tests.support import tasks
from tests.support.databases import Database
from tests.support.tree import ROOT

PREFIX = """
import json
from shared.llm.protocol import Request
from shared.llm.providers import {vendor}
from shared.llm.structured import json_schema
from tests.support.triage import Triage, triage
limits = dict(max_output_tokens=9, timeout=9.0)
made = {vendor}.payload(Request(model="m", prompt="p", system="s" * 2000, schema=json_schema(Triage), **limits))
print(json.dumps(made, default=str))
"""


@pytest.mark.parametrize("vendor", ["anthropic", "openai"])
def test_every_process_sends_the_same_bytes(vendor: str) -> None:
    """Hashes of a process are seeded anew at its start; nothing of them may reach the wire."""
    sent = set()
    for seed in ("1", "2"):
        environ = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", PREFIX.format(vendor=vendor)]
        sent.add(subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True).stdout)
    assert len(sent) == 1
    assert "s" * 2000 in sent.pop()


@pytest.mark.parametrize(
    ("beat", "ttl"), [(None, "5m"), (60.0, "5m"), (240.0, "5m"), (300.0, "1h"), (900.0, "1h"), (3600.0, "5m")]
)
def test_a_prefix_is_kept_until_the_next_beat_where_an_hour_reaches_it(beat: float | None, ttl: str) -> None:
    assert ttl_for(beat) == ttl


def _request(system: str = "s" * 2000, **changed: Any) -> Request:
    return Request(model="m", prompt="p", system=system, max_output_tokens=1, timeout=1.0, **changed)


def test_what_the_cache_should_do_is_known_before() -> None:
    prefixes = Prefixes.of(60.0, [{"workflow": "old", "model": "m", "prefix": "x", "age": 20.0}])
    assert prefixes.expect("a", _request(cache=None))[1] == "off"
    assert prefixes.expect("a", _request("s"))[1] == "short"
    hash_, said = Prefixes().expect("a", _request())
    assert said == "first"
    assert prefixes.expect("old", _request())[1] == "changed"
    assert prefixes.expect("old", _request())[1] == "warm"
    for age, told in ((299.0, "warm"), (301.0, "expired")):
        again = Prefixes.of(60.0, [{"workflow": "a", "model": "m", "prefix": hash_, "age": age}])
        assert again.expect("a", _request())[1] == told


def test_a_prompt_that_grows_is_marked_where_the_next_one_finds_it() -> None:
    def blocks(length: int) -> list[dict[str, Any]]:
        content = payload(_grown("".join(str(n % 10) for n in range(length))))["messages"][0]["content"]
        return [{"text": content}] if isinstance(content, str) else content

    assert len(blocks(BLOCK - 1)) == 1
    before, after = blocks(3 * BLOCK + 5), blocks(4 * BLOCK + 7)
    assert [block["text"] for block in before[:3]] == [block["text"] for block in after[:3]]
    assert [n for n, block in enumerate(before) if "cache_control" in block] == [2]
    assert [n for n, block in enumerate(after) if "cache_control" in block] == [3]
    assert "".join(block["text"] for block in after) == "".join(str(n % 10) for n in range(4 * BLOCK + 7))


def _grown(prompt: str) -> Request:
    return Request(model="m", prompt=prompt, max_output_tokens=1, timeout=1.0, grows=True)


async def test_the_beat_and_the_prefixes_of_ticks_before_are_read_from_postgres(database: Database) -> None:
    async with tasks.worker(database) as db:
        assert await calls.beat(db) is None
        await queue.start_tick(db, "w")
        database.sql("UPDATE backbeat.ticks SET started_at = started_at - interval '10 minutes'")
        await queue.start_tick(db, "w")
        assert await calls.beat(db) in (600.0, 660.0), "in whole minutes"
        env = _environment(db, load_routes(), Refusing("", Exception()))
        await _once(env)
        (row,) = database.sql("SELECT prefix, cache FROM backbeat.model_calls")
        assert row[1] == "short"
        (told,) = await calls.last_prefixes(db)
        assert (told["workflow"], told["prefix"]) == ("alpha", row[0])
