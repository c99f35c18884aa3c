"""All three adapters, with the vendors' real SDKs, over real HTTP, held to one behaviour.

`simulated` is Backbeat's own simulated provider as a process; `raw` serves whatever bytes a test gives it,
for what no honest server would send.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from anthropic import AsyncAnthropic
from pydantic import BaseModel, Field

from backbeat.embedded.simulated import log
from shared.clock import monotonic
from shared.config import ProviderConfig
from shared.domain.usage import Usage
from shared.llm.classify import Verdict, classify
from shared.llm.prices import upper_tokens
from shared.llm.protocol import Pools, Provider, Reply, Request, UnreadableReplyError, make_provider
from shared.llm.structured import OutputInvalidError, json_schema, parse

WINDOW = 3_000  # tokens the simulated provider takes
MODELS = {"anthropic": "claude-haiku-4-5", "openai": "gpt-6-luna", "compatible": "qwen3-32b"}
PATHS = {"anthropic": "/anthropic", "openai": "/openai/v1", "compatible": "/v1"}
VENDORS = sorted(MODELS)
COUNTERS = ["anthropic", "openai"]
DIFF = """diff --git a/a.py b/a.py
--- a/a.py
+++ b/a.py
@@ -0,0 +1,4 @@
+try:
+    f()
+except:
+    pass
"""


class Finding(BaseModel):
    severity: Literal["low", "medium", "high"]
    message: str = Field(min_length=1)
    line: int = Field(ge=1)


class Review(BaseModel):
    summary: str
    findings: list[Finding]


@dataclass(frozen=True)
class Simulated:
    """The running process: its address and its request log."""

    url: str
    file: Path

    def ends(self, call: str) -> list[dict[str, Any]]:
        """The outcomes it wrote down for one call."""
        return [one for one in log.read(self.file) if one["event"] == "end" and one["call"] == f"call={call}"]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    file = tmp_path_factory.mktemp("provider") / "calls.jsonl"
    arguments = ["--port", "0", "--log", str(file), "--latency", "0", "--window", str(WINDOW)]
    command = [sys.executable, "-m", "backbeat.embedded.provider", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield Simulated(line.split()[-1], file)
        process.terminate()


@pytest.fixture(params=VENDORS)
def vendor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def provider(vendor: str, simulated: Simulated) -> AsyncIterator[Provider]:
    async with aclosing(make_provider(config(vendor, simulated.url + PATHS[vendor]))) as made:
        yield made


def config(vendor: str, url: str) -> ProviderConfig:
    return ProviderConfig(vendor, url, "key", kind="compatible" if vendor == "compatible" else "")


def ask(vendor: str, call: str, *, fault: str = "", **fields: Any) -> Request:
    """A request with the schema of a Review, named `call` in the provider's log."""
    defaults: dict[str, Any] = {
        "model": MODELS[vendor],
        "system": "You review code.",
        "prompt": DIFF,
        "schema": json_schema(Review),
        "schema_name": "review",
        "max_output_tokens": 2_000,
        "timeout": 20.0,
        "metadata": {"call": f"{call}-{vendor}"},
        "headers": {"x-simulated-fault": fault} if fault else {},
    }
    return Request(**{**defaults, **fields})


async def judge(provider: Provider, request: Request) -> tuple[Verdict, BaseException | Reply]:
    """Send, and judge whatever came of it."""
    try:
        outcome: BaseException | Reply = await provider.send(request)
    except Exception as error:
        outcome = error
    return classify(outcome), outcome


async def test_a_structured_answer(vendor: str, provider: Provider, simulated: Simulated) -> None:
    request = ask(vendor, "structured")
    reply = await provider.send(request)
    review = parse(Review, reply.text)
    assert review.findings
    assert (reply.stop, reply.model, classify(reply).kind) == ("end", MODELS[vendor], "ok")
    (end,) = simulated.ends(f"structured-{vendor}")
    assert (end["vendor"], end["id"], end["answer"]) == (vendor, reply.request_id, reply.response_id)
    assert end["usage"] == reply.usage.as_dict()
    assert 0 < reply.usage.input <= upper_tokens(*request.texts)
    assert 0 < reply.usage.output <= request.max_output_tokens


async def test_plain_text_without_system_or_schema(vendor: str, provider: Provider) -> None:
    reply = await provider.send(ask(vendor, "plain", system="", schema=None, cache=None))
    assert reply.stop == "end"
    assert reply.text


async def test_the_system_prompt_is_cached(vendor: str, provider: Provider) -> None:
    request = ask(vendor, "cached", system="You review code. " * 400)
    first = (await provider.send(request)).usage
    again = (await provider.send(request)).usage
    assert first.cache_write > 1_000 > first.cache_read == 0
    assert again.cache_read > 1_000 > again.cache_write == 0
    assert again.input == first.input == again.uncached + again.cache_read
    unmarked = (await provider.send(replace(request, cache=None, prompt="other", system="A" + request.system))).usage
    assert (unmarked.cache_write > 0) is (vendor != "anthropic")  # the others cache without being asked


@pytest.mark.parametrize("able", [(), ("json_object", "usage", "seed", "cache", "max_completion_tokens")])
async def test_an_endpoint_that_takes_no_schema_is_told_it(simulated: Simulated, able: tuple[str, ...]) -> None:
    async with aclosing(make_provider(config("compatible", f"{simulated.url}/v1"))) as provider:
        request = ask("compatible", f"told{len(able)}", capabilities=able)
        reply = await provider.send(request)
    assert parse(Review, reply.text).findings
    assert 0 < reply.usage.input <= upper_tokens(*request.texts)


async def test_a_cache_mark_is_sent_where_the_endpoint_wants_one(simulated: Simulated) -> None:
    async with aclosing(make_provider(config("compatible", f"{simulated.url}/v1"))) as provider:
        request = ask("compatible", "marked", system="Marked. " * 400, capabilities=("json_schema", "usage", "cache"))
        first, again = [(await provider.send(request)).usage for _ in range(2)]
    assert again.cache_read == first.cache_write > 900


@pytest.mark.parametrize("vendor", COUNTERS)
async def test_a_request_is_counted_without_being_made(vendor: str, provider: Provider, simulated: Simulated) -> None:
    request = ask(vendor, "counted")
    assert isinstance(provider, Pools)
    counted = await provider.count(request)
    assert not simulated.ends(f"counted-{vendor}")
    assert counted == (await provider.send(request)).usage.input


async def test_where_nobody_counts_beforehand(simulated: Simulated) -> None:
    async with aclosing(make_provider(config("compatible", f"{simulated.url}/v1"))) as provider:
        assert isinstance(provider, Pools)
        assert await provider.count(ask("compatible", "uncounted")) is None


STATUSES = {
    "400": "dead",
    "401": "dead",
    "402": "hold_route",
    "403": "dead",
    "404": "dead",
    "408": "immediate",
    "409": "immediate",
    "413": "context_overflow",
    "422": "dead",  # in the words that they use for what they refuse
    "429": "immediate",
    "429;code=insufficient_quota": "hold_route",
    "500": "backoff",
    "502": "backoff",
    "503": "immediate",
    "504": "immediate",
    "529": "immediate",
}
CODES = {
    "anthropic": {
        "429;code=ramp_limit_exceeded": "immediate",
        "429;code=enforced_spend_limit_reached": "hold_route",
        "429;code=contract_spend_limit_reached": "hold_route",
        "402;code=linked_organization_spend_limit_reached": "hold_route",
        "400;code=organization_on_hold": "hold_route",
    },
    "openai": {
        "400;code=context_length_exceeded": "context_overflow",
        "400;code=content_policy_violation": "dead",
        "400;code=invalid_prompt": "dead",
        "404;code=model_not_found": "dead",
        "429;code=rate_limit_exceeded": "immediate",
    },
    "compatible": {
        "400;code=exceed_context_size_error": "context_overflow",
        "400;code=content_filter": "dead",
        "404;code=model_not_found": "dead",
    },
}


async def test_every_error_is_judged_and_none_is_retried(vendor: str, provider: Provider, simulated: Simulated) -> None:
    table = STATUSES | CODES[vendor]
    for fault, kind in table.items():
        verdict, error = await judge(provider, ask(vendor, fault, fault=f"{fault};retry-after=7"))
        assert (verdict.kind, verdict.delay) == (kind, 7.0), (fault, error)
        assert verdict.free is (fault[:3] in ("429", "503", "529") or kind == "hold_route"), fault
        assert verdict.hold_route is (kind == "hold_route" or fault[:3] in ("401", "403", "404")), fault
        (end,) = [
            one
            for one in log.read(simulated.file)
            if one["event"] == "end" and one["fault"] == f"{fault};retry-after=7" and one["vendor"] == vendor
        ]
        assert not end["billed"]


async def test_a_prompt_beyond_the_window(vendor: str, provider: Provider) -> None:
    verdict, _ = await judge(provider, ask(vendor, "long", prompt="word " * WINDOW))
    assert verdict.kind == "context_overflow"


@pytest.mark.parametrize(
    ("fault", "stop", "kind"),
    [("refusal", "refusal", "dead"), ("length", "length", "backoff"), ("truncated", "end", "ok")],
)
async def test_a_billed_reply_that_is_no_answer(
    vendor: str, provider: Provider, fault: str, stop: str, kind: str
) -> None:
    reply = await provider.send(ask(vendor, fault, fault=fault))
    assert (reply.stop, classify(reply).kind) == (stop, kind)
    assert reply.usage.input
    with pytest.raises(OutputInvalidError):
        parse(Review, reply.text)


@pytest.mark.parametrize("fault", ["invalid-json", "wrong-schema"])
async def test_an_invalid_answer_keeps_its_usage(vendor: str, provider: Provider, fault: str) -> None:
    reply = await provider.send(ask(vendor, fault, fault=fault))
    assert reply.usage.output
    with pytest.raises(OutputInvalidError) as caught:
        parse(Review, reply.text)
    assert classify(caught.value).reason == "output_invalid"


@pytest.mark.parametrize("fault", ["disconnect-before", "disconnect-after", "disconnect-mid"])
async def test_a_cut_connection_is_a_lost_call(vendor: str, provider: Provider, fault: str) -> None:
    verdict, error = await judge(provider, ask(vendor, fault, fault=fault))
    assert (verdict.reason, verdict.lost, verdict.free) == ("connection_lost", True, False), repr(error)


async def test_a_call_that_takes_too_long_is_lost(vendor: str, provider: Provider) -> None:
    verdict, _ = await judge(provider, ask(vendor, "slow", fault="delay=30", timeout=2.0))
    assert (verdict.reason, verdict.lost, verdict.free) == ("timeout", True, False)


async def test_a_refused_connection_is_free(vendor: str, unused_tcp_port: int) -> None:
    async with aclosing(make_provider(config(vendor, f"http://127.0.0.1:{unused_tcp_port}"))) as provider:
        verdict, _ = await judge(provider, ask(vendor, "refused"))
    assert (verdict.reason, verdict.lost, verdict.free) == ("not_sent", False, True)


async def test_text_that_is_no_unicode_never_leaves(vendor: str, provider: Provider, simulated: Simulated) -> None:
    verdict, _ = await judge(provider, ask(vendor, "surrogate", prompt="\udcff"))
    assert (verdict.kind, verdict.lost) == ("dead", False)
    assert not simulated.ends(f"surrogate-{vendor}")


async def test_thirty_calls_at_once_share_one_pool(vendor: str, provider: Provider) -> None:
    replies = await asyncio.gather(*(provider.send(ask(vendor, f"n{n}")) for n in range(30)))
    assert len({reply.response_id for reply in replies}) == 30


@dataclass
class Raw:
    """A server that answers every request on a connection with the same bytes, a piece at a time."""

    pieces: list[bytes] = field(default_factory=list)
    pause: float = 0.0  # seconds before each piece
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    def reply(self, body: bytes | str, kind: str = "application/json", status: str = "200 OK") -> None:
        """Answer with one whole response."""
        data = body.encode() if isinstance(body, str) else body
        head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n"
        self.pieces = [head.encode() + data]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line[15:]) for line in head.decode().lower().splitlines() if "content-length:" in line
                )
                await reader.readexactly(length)
                for piece in self.pieces:
                    await asyncio.sleep(self.pause)
                    writer.write(piece)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            writer.close()


@pytest.fixture
async def raw() -> AsyncIterator[Raw]:
    made = Raw()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    await server.wait_closed()


@pytest.fixture
async def blunt(vendor: str, raw: Raw) -> AsyncIterator[Provider]:
    async with aclosing(make_provider(config(vendor, f"http://127.0.0.1:{raw.port}"))) as made:
        yield made


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<html>welcome to the hotel</html>", "text/html"),
        ("", "application/json"),
        ('{"id": "x", "model": "m", "content": [{"type": "te', "application/json"),
        ("[]", "application/json"),
        ('"hello"', "application/json"),
        ('{"id": "x", "model": "m", "content": [], "output": [], "status": "completed"}', "application/json"),
        ('{"id": "x", "model": "m", "choices": [{"message": {"content": "hi"}}]}', "application/json"),
        (b"\xff\xfe{}", "application/json"),
    ],
)
async def test_a_200_that_is_no_reply_is_lost(vendor: str, blunt: Provider, raw: Raw, body: bytes, kind: str) -> None:
    raw.reply(body, kind)
    verdict, error = await judge(blunt, ask(vendor, "unreadable"))
    assert isinstance(error, UnreadableReplyError), repr(error)
    assert vendor in str(error)
    assert (verdict.kind, verdict.lost, verdict.free) == ("backoff", True, False)


async def test_a_proxys_html_error_is_judged_by_its_status(vendor: str, blunt: Provider, raw: Raw) -> None:
    raw.reply("<html>502 Bad Gateway</html>", "text/html", "502 Bad Gateway")
    assert (await judge(blunt, ask(vendor, "gateway")))[0] == Verdict("backoff", "gateway_error", lost=True)


async def test_a_reply_that_drips_ends_at_the_deadline(vendor: str, blunt: Provider, raw: Raw) -> None:
    raw.pieces, raw.pause = [b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n", *[b" "] * 999], 0.05
    started = monotonic()
    verdict, _ = await judge(blunt, ask(vendor, "drip", timeout=2.0))
    assert (verdict.reason, verdict.lost) == ("timeout", True)
    assert monotonic() - started < 20


ANSWERS = {
    "anthropic": {
        "id": "msg",
        "model": "m",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
    "openai": {
        "id": "resp",
        "model": "m",
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}],
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
    "compatible": {
        "id": "chat",
        "model": "m",
        "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    },
}


async def test_one_connection_serves_call_after_call_and_aclose_ends_it(vendor: str, raw: Raw) -> None:
    raw.reply(json.dumps(ANSWERS[vendor]))
    provider = make_provider(config(vendor, f"http://127.0.0.1:{raw.port}"))
    for _ in range(3):
        assert (await provider.send(ask(vendor, "pooled"))).usage == Usage(uncached=1, output=1)
    assert raw.connections == 1
    assert not raw.closed.is_set()
    await provider.aclose()
    await asyncio.wait_for(raw.closed.wait(), 30)


async def test_output_limits_beyond_the_sdks_own_timeout_are_sent(vendor: str, blunt: Provider, raw: Raw) -> None:
    raw.reply(json.dumps(ANSWERS[vendor]))
    assert (await blunt.send(ask(vendor, "large", max_output_tokens=128_000))).text == "hi"


async def test_anthropics_own_spans_are_off() -> None:
    async with AsyncAnthropic(api_key="key") as untouched:
        assert untouched._tracer is not None
    async with aclosing(make_provider(ProviderConfig("anthropic", api_key="key"))) as provider:
        assert provider.client._tracer is None  # type: ignore[attr-defined]  # inside one adapter on purpose
