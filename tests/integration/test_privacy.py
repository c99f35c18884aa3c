"""What must not leave: canaries in prompts, answers and errors, looked for in spool files, logs and ClickHouse."""

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel

from shared.config import Config, ProviderConfig, load
from shared.definitions import Definition, Registry
from shared.domain.outcome import Succeed
from shared.domain.usage import Usage
from shared.errors import ConfigError
from shared.execution.attempt import attempt
from shared.execution.context import Context
from shared.execution.environment import Environment
from shared.llm.protocol import Reply, Request
from shared.llm.routes import Route, Routes
from shared.security.redact import LONGEST, redacted
from shared.telemetry.recorder import SpoolTelemetry
from shared.telemetry.shipper import ship_once
from tests.support import tasks
from tests.support.clickhouse import ask
from tests.support.databases import Database

ROUTE = Route("haiku", "anthropic", "claude-haiku-4-5", 200_000, 8_000, True)
CANARIES = {
    "key": "sk-ant-api03-c4n4ryc4n4ryc4n4ry",
    "password": "c4n4ry-hunter2",
    "mail": "canary.person+tag@example.co.uk",
    "card": "4111 1111 1111 1111",
    "url": "c4n4ryuser:c4n4rypass",
}
TEXT = (
    "Dear {mail}, my card is {card} and the header Authorization: Bearer {key}. "
    "password={password} at postgres://{url}@db.example.com/x. PLAIN-PROMPT"
).format(**CANARIES)


class Answer(BaseModel):
    n: int
    note: str = ""


class Leaky:
    """A vendor that answers with what it was told, and the second time fails with all of it in its message."""

    def __init__(self) -> None:
        self.sent = 0

    async def send(self, request: Request) -> Reply:
        self.sent += 1
        if self.sent > 1:
            raise RuntimeError(f"cannot handle {request.prompt}")
        text = Answer(n=1, note=TEXT).model_dump_json()
        return Reply(text, Usage(uncached=5, output=5), "end", request.model, "sim")

    async def aclose(self) -> None:
        pass


async def _run(database: Database, spool: Path, capture: str) -> None:
    async def first(ctx: Context, _value: Answer) -> Answer:
        return await ctx.llm("a", output=Answer, prompt=TEXT, system=TEXT, tier="small", max_output_tokens=99)

    async def fails(ctx: Context, _value: Answer) -> Answer:
        await ctx.llm("b", output=Answer, prompt=TEXT, tier="small", max_output_tokens=99)
        raise AssertionError

    async def breaks(_ctx: Context, _value: Answer) -> Answer:
        raise ValueError(TEXT)

    vendor, outcomes = Leaky(), []
    telemetry = SpoolTelemetry(spool, "cron-worker")
    async with tasks.worker(database) as db:
        for run in (first, fails, breaks):
            definition = Definition(name="alpha", version=1, input=Answer, output=Answer, tier="small", run=run)
            simulated = ProviderConfig("anthropic", api_key="k", base_url="", simulated=True)
            config = Config(providers={"anthropic": simulated}, capture=capture)
            routes = Routes({"small": (ROUTE,)}, "a test")
            env = Environment(config, db, Registry({"alpha@1": definition}, {}), routes, telemetry)
            env._providers["anthropic"] = vendor
            await tasks.submit(db, [{"n": 1, "note": TEXT}])
            outcomes.append(await attempt(env, await tasks.take_one(db)))
    telemetry.close()
    assert isinstance(outcomes[0], Succeed)
    assert "PLAIN-PROMPT" in str(outcomes[1:])


def _leaks(text: str) -> list[str]:
    bare = text.replace(" ", "")
    return [name for name, canary in CANARIES.items() if canary.replace(" ", "") in bare]


@pytest.mark.parametrize("capture", ["off", "redacted"])
async def test_canaries_reach_neither_spool_nor_logs_nor_clickhouse(
    database: Database, clickhouse: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capture: str
) -> None:
    caplog.set_level(logging.DEBUG)
    spool = tmp_path / "spool"
    await _run(database, spool, capture)
    written = "".join(path.read_text() for path in spool.rglob("*") if path.is_file())
    assert "chat claude-haiku-4-5" in written
    assert _leaks(written) == []
    assert _leaks(caplog.text) == []
    assert ship_once(spool, clickhouse, 20).error == ""
    for table in ("otel_traces", "llm_calls", "task_runs"):
        rows = ask(clickhouse, f"SELECT toJSONString(tuple(*)) FROM {urlsplit(clickhouse).path.strip('/')}.{table}")
        assert rows, table
        assert _leaks(str(rows)) == []
    prompts = (
        "SELECT SpanAttributes['gen_ai.input.messages'], SpanAttributes['gen_ai.output.messages'] FROM otel_traces"
    )
    found: Any = [row for row in ask(clickhouse, prompts) if any(row)]
    if capture == "off":
        assert found == []
    else:
        marks = {"[secret]", "[e-mail]", "[card]", "PLAIN-PROMPT"}
        assert all(marks <= {mark for mark in marks if mark in row[0]} for row in found)
        assert any(mark in row[1] for row in found for mark in ("[card]",))


def test_the_redactor_knows_its_kinds_and_leaves_the_rest() -> None:
    assert _leaks(redacted(TEXT)) == []
    assert redacted("-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----") == "[secret]"
    assert redacted('{"api_key": "abcdef123456", "n": 2}') == '{"[secret]", "n": 2}'
    plain = "12 apples for 3.50 at 10:30, task 01a203b6-a07d-7bfb-8827-564de37ba04f, rate 429 @ noon"
    assert redacted(plain) == plain
    edge = "x" * (LONGEST - 4) + " " + CANARIES["mail"]
    assert "canary" not in redacted(edge)
    assert len(redacted("a" * 10**6)) == LONGEST
    assert len(redacted("a@" * 10**6)) <= LONGEST


def test_the_setting_has_two_values() -> None:
    assert load({}).capture == "off"
    assert load({"BACKBEAT_CAPTURE": "redacted"}).capture == "redacted"
    with pytest.raises(ConfigError, match="capture is 'on'"):
        load({"BACKBEAT_CAPTURE": "on"})
