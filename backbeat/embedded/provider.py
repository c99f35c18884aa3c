"""The simulated provider: an HTTP server that speaks Anthropic Messages, OpenAI Responses and Chat Completions.

    python -m backbeat.embedded.provider --port 8080 --log calls.jsonl --latency 0.2-2

The vendors' own SDKs run against it unmodified with base URL http://127.0.0.1:8080/anthropic, or
http://127.0.0.1:8080/openai/v1; http://127.0.0.1:8080/v1 is an OpenAI-compatible endpoint. Nothing it says comes from
a model: see `backbeat.embedded.simulated`.
Everything it sends is labelled: header `x-simulated: true`, ids that begin with `sim_`.
"""

import argparse
import asyncio
import hashlib
import json
import random
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from backbeat.embedded.simulated import (
    answer,
    batches,
    cache,
    faults,
    latency,
    rules,
    schema,
    server,
    skill,
    tokens,
    wire_anthropic,
    wire_chat,
    wire_openai,
)
from backbeat.embedded.simulated.exchange import Answer, Ask, BadRequestError, Stop, Wire
from backbeat.embedded.simulated.log import JsonLog
from shared.clock import monotonic, sleep, wall
from shared.domain.usage import Usage
from shared.errors import ConfigError

# A minute; announced, not enforced, so what workers keep to must not be what slows them down.
LIMITS = {"requests": 4_000_000, "input": 4_000_000_000, "output": 800_000_000}
WINDOW = 1_000_000  # tokens of input
BATCH_TAKES, BATCH_LIVES = 20.0, 86_400.0  # seconds
_MOST_BODIES = 100_000
_FIRST_BYTE = 0.4  # of the latency, before a stream begins

_Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True)
class Call:
    """One request on its way: who asks, what for, and the dice that decide its luck."""

    wire: Wire
    entry: dict[str, Any]
    dice: random.Random
    started: float

    @property
    def id(self) -> str:
        """The request id, as in the log and in the vendor's header."""
        return str(self.entry["id"])


class Provider:
    """The server's state: prefix store, request log, plan of faults, and counts of the current minute."""

    def __init__(
        self,
        log: JsonLog,
        delay: latency.Latency,
        plan: faults.Plan,
        seed: int,
        window: int,
        batch: tuple[float, float] = (BATCH_TAKES, BATCH_LIVES),
    ) -> None:
        self._log, self._delay, self._plan, self._seed, self._window = log, delay, plan, seed, window
        self.batches = batches.Batches(self._entry, *batch)
        self._prefixes = cache.PrefixStore()
        self._bodies: Counter[str] = Counter()
        self._minute, self._used = "", Counter[str]()

    async def create(self, request: Request, wire: Wire) -> Response:
        """Answer one request, or let it go wrong as asked."""
        raw = await request.body()
        call = self._call(request, wire, raw)
        try:
            ask = _parsed(wire, raw)
        except BadRequestError as problem:
            self._log.write({"event": "start", **call.entry})
            return self._refuse(call, 400, "", str(problem))
        call.entry |= {"model": ask.model, "schema": ask.asks_for, "stream": ask.stream}
        self._log.write({"event": "start", **call.entry, "input_tokens": ask.input_tokens})
        if not wire.key(request.headers):
            return self._refuse(call, 401, "", "No API key was sent")
        try:
            facts = {name: str(call.entry[name] or "") for name in ("method", "path", "model", "schema", "call")}
            fault = self._plan.pick(request.headers.get(faults.HEADER), facts, call.dice)
        except ConfigError as problem:
            return self._refuse(call, 400, "", str(problem))
        call.entry["fault"] = fault.text or None
        if fault.refuses:
            await sleep(fault.seconds)
            return self._refuse(call, fault.status, fault.settings.get("code", ""), "Simulated error", fault)
        if fault.kind == "disconnect-before":
            self._end(call, None)
            return await server.cut(request)
        if ask.input_tokens > self._window:
            return self._refuse(call, 400, *wire.too_long(ask.input_tokens, self._window))
        return await self._deliver(request, call, fault, ask)

    async def _deliver(self, request: Request, call: Call, fault: faults.Fault, ask: Ask) -> Response:
        """Make the answer, let its time pass, log it, send it: it is billed whether or not it arrives."""
        wire, hit = call.wire, self._prefixes.look(ask)
        try:
            made = _answer(call, ask, fault, hit)
        except BadRequestError as problem:
            return self._refuse(call, 400, "", str(problem))
        seconds = self._delay(call.dice.random(), ask.input_tokens, made.usage.output) + fault.seconds
        await sleep(seconds * (_FIRST_BYTE if ask.stream else 1))
        self._prefixes.keep(hit)
        headers = self._end(call, fault.status if fault.after else 200, made)
        if fault.after:
            return JSONResponse(wire.error(fault.status, "", "Simulated error", call.id), fault.status, headers)
        if fault.kind == "disconnect-after":
            return await server.cut(request)
        if ask.stream:
            parts = _stream(wire, made, fault, request, seconds * (1 - _FIRST_BYTE))
            return StreamingResponse(parts, headers=headers, media_type="text/event-stream")
        if fault.kind == "disconnect-mid":
            return server.HalfResponse(json.dumps(wire.document(made)), headers=headers, media_type="application/json")
        return JSONResponse(wire.document(made), headers=headers)

    async def submit(self, request: Request, wire: Wire) -> Response:
        """Take a batch; with `disconnect-after` or an error `after`, and the caller does not hear of it."""
        raw = await request.body()
        call = self._call(request, wire, raw)
        self._log.write({"event": "start", **call.entry})
        if not wire.key(request.headers):
            return self._refuse(call, 401, "", "No API key was sent")
        facts = {name: str(call.entry[name] or "") for name in ("method", "path", "call")}
        fault = self._plan.pick(request.headers.get(faults.HEADER), facts, call.dice)
        call.entry["fault"] = fault.text or None
        await sleep(fault.seconds)
        if fault.refuses:
            return self._refuse(call, fault.status, fault.settings.get("code", ""), "Simulated error", fault)
        if fault.kind == "disconnect-before":
            return await server.cut(request)
        try:
            job = (self.batches.submit_messages if wire is wire_anthropic else self.batches.submit_file)(raw)
        except (BadRequestError, ValueError, LookupError, TypeError) as problem:
            return self._refuse(call, 400, "", str(problem))
        call.entry |= {"batch": job.id, "custom_ids": list(job.entries)}
        headers = self._end(call, 200)
        if fault.kind == "disconnect-after" or fault.after:
            return await server.cut(request)
        return JSONResponse(self.batches.document(job, str(request.base_url).rstrip("/")), headers=headers)

    def _entry(self, wire: Wire, batch: str, name: str, body: Any) -> tuple[int, dict[str, Any]]:
        """The status and the document of one request in a batch, logged as any other."""
        raw = json.dumps(body).encode()
        facts = {"method": "POST", "path": "/batches", "model": body.get("model"), "schema": None, "call": name}
        entry = {"id": f"sim_req_{secrets.token_hex(10)}", "vendor": wire.VENDOR, "batch": batch, **facts}
        call = Call(wire, entry, random.Random(f"{self._seed}:{name}"), monotonic())  # noqa: S311  # repeatable
        self._log.write({"event": "start", **entry})
        try:
            ask = _parsed(wire, raw)
            call.entry["schema"] = ask.asks_for
            fault = self._plan.pick(None, {key: str(value or "") for key, value in call.entry.items()}, call.dice)
            if fault.refuses:
                self._end(call, fault.status)
                error = wire.error(fault.status, fault.settings.get("code", ""), "Simulated error", call.id)
                return fault.status, error
            made = _answer(call, ask, fault, self._prefixes.look(ask))
        except BadRequestError as problem:
            self._end(call, 400)
            return 400, wire.error(400, "", str(problem), call.id)
        self._end(call, 200, made)
        return 200, wire.document(made)

    async def count(self, request: Request, wire: Wire) -> Response:
        """Count the input tokens of a request that is not made."""
        request_id = f"sim_req_{secrets.token_hex(10)}"
        headers = self._headers(wire, request_id)
        try:
            ask = _parsed(wire, await request.body())
        except BadRequestError as problem:
            return JSONResponse(wire.error(400, "", str(problem), request_id), 400, headers)
        return JSONResponse(wire.counted(ask.input_tokens), headers=headers)

    def _call(self, request: Request, wire: Wire, raw: bytes) -> Call:
        body = hashlib.sha256(raw).hexdigest()
        if len(self._bodies) > _MOST_BODIES:
            self._bodies.clear()
        self._bodies[body] += 1
        entry = {
            "id": f"sim_req_{secrets.token_hex(10)}",
            "vendor": wire.VENDOR,
            "method": request.method,
            "path": request.url.path,
            "model": None,
            "schema": None,
            "body_sha256": body,
            "idempotency_key": request.headers.get("idempotency-key"),
            "call": request.headers.get("x-backbeat-call"),
        }
        # The same body again (a retry) draws anew; any other order of requests draws the same.
        dice = random.Random(f"{self._seed}:{body}:{self._bodies[body]}")  # noqa: S311  # repeatable, not secret
        return Call(wire, entry, dice, monotonic())

    def _refuse(self, call: Call, status: int, code: str, message: str, fault: faults.Fault = faults.NONE) -> Response:
        """Log and answer an error that costs nothing, in the vendor's own words."""
        headers = self._end(call, status)
        if retry_after := fault.settings.get("retry-after"):
            headers["retry-after"] = retry_after
        return JSONResponse(call.wire.error(status, code, message, call.id), status, headers)

    def _end(self, call: Call, status: int | None, made: Answer | None = None) -> dict[str, str]:
        """Write the outcome down, then give the headers to answer with."""
        usage = made.usage if made else Usage()
        self._log.write(
            {
                "event": "end",
                **call.entry,
                "status": status,
                "billed": made is not None,
                "stop": made.stop if made else None,
                "answer": made.id if made else None,
                "seconds": round(monotonic() - call.started, 6),
                "input_tokens": usage.input,
                "output_tokens": usage.output,
                "usage": usage.as_dict(),
            }
        )
        return self._headers(call.wire, call.id, usage)

    def _headers(self, wire: Wire, request_id: str, usage: Usage | None = None) -> dict[str, str]:
        minute = f"{wall():%H:%M}"
        if minute != self._minute:
            self._minute, self._used = minute, Counter()
        if usage:
            self._used.update(requests=1, input=usage.uncached + usage.cache_write, output=usage.output)
        left = {name: max(0, limit - self._used[name]) for name, limit in LIMITS.items()}
        return {**wire.headers(request_id, left, LIMITS), **server.SIMULATED}


def _parsed(wire: Wire, raw: bytes) -> Ask:
    try:
        return wire.parse(json.loads(raw))
    except (ValueError, TypeError, AttributeError) as error:
        raise BadRequestError(f"The request body cannot be read: {error}") from error


def _said(ask: Ask) -> str:
    """What the rules say to the prompt, in the shape that was asked for. Raises BadRequestError for a hopeless one."""
    facts = rules.read(skill.taken_in(ask.prompt, ask.model))
    if ask.schema is None:
        return answer.markdown(facts)
    try:
        return json.dumps(schema.build(ask.schema, facts))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadRequestError(f"Invalid schema: {error!r}") from error


def _answer(call: Call, ask: Ask, fault: faults.Fault, hit: cache.Hit) -> Answer:
    """The finished answer, with what the fault does to it, and its bill."""
    said = _said(ask)
    if fault.kind == "invalid-json":
        said = f"Here is the JSON you asked for: {said[:-1]}"
    elif fault.kind == "wrong-schema":
        said = json.dumps({"simulated": "an object of another shape"})
    elif fault.kind == "truncated":
        said = said[: len(said) // 2]
    elif fault.kind == "refusal":
        said = ""
    most = ask.max_output if ask.max_output is not None else 1_000_000
    thinking = min(ask.thinking, most)
    limit = tokens.count(said) // 2 if fault.kind == "length" else most - thinking
    said, over = tokens.cut(said, limit)
    stop: Stop = "refusal" if fault.kind == "refusal" else "length" if over else "end"
    usage = Usage(
        uncached=ask.input_tokens - hit.read - hit.write,
        cache_read=hit.read,
        cache_write=hit.write,
        output=tokens.count(said) + thinking,
        reasoning=thinking,
    )
    answer_id = call.id.replace("sim_req_", "sim_msg_" if call.wire.VENDOR == "anthropic" else "sim_resp_")
    return Answer(answer_id, ask.model, said, stop, usage, hit.hour_writes, wall().timestamp())


async def _stream(
    wire: Wire, made: Answer, fault: faults.Fault, request: Request, seconds: float
) -> AsyncIterator[str]:
    """The events with the rest of the latency spread over them; some faults leave off the last ones."""
    events = list(wire.events(made))
    half = len(events) // 2 if fault.kind in ("truncated", "disconnect-mid") else len(events)
    for event in events[:half]:
        name = f"event: {event['type']}\n" if "type" in event else ""
        yield f"{name}data: {json.dumps(event)}\n\n"
        await sleep(seconds / len(events))
    if half == len(events) and wire is wire_chat:
        yield "data: [DONE]\n\n"
    if fault.kind == "disconnect-mid":
        request.state.transport.close()
        await asyncio.sleep(0)


def application(provider: Provider) -> Starlette:
    """The routes of every wire, under its vendor's prefix and at the root."""
    chat = tuple(f"{prefix}/v1/chat/completions" for prefix in ("", "/openai"))
    wires: tuple[tuple[Wire, tuple[str, ...], str], ...] = (
        (wire_anthropic, ("/anthropic/v1/messages", "/v1/messages"), "count_tokens"),
        (wire_openai, ("/openai/v1/responses", "/v1/responses"), "input_tokens"),
        (wire_chat, chat, ""),
    )
    routes = [Route("/health", _health)]
    for wire, paths, counting in wires:
        create, count = _endpoints(provider, wire)
        for path in paths:
            routes.append(Route(path, create, methods=["POST"]))
            if counting:
                routes.append(Route(f"{path}/{counting}", count, methods=["POST"]))
    for wire, path in ((wire_anthropic, "/v1/messages/batches"), (wire_openai, "/v1/batches")):
        submit = _submission(provider, wire)
        routes += [Route(f"{root}{path}", submit, methods=["POST"]) for root in (f"/{wire.VENDOR}", "")]
    return Starlette(routes=[*routes, *provider.batches.routes()])


def _submission(provider: Provider, wire: Wire) -> _Endpoint:
    async def submit(request: Request) -> Response:
        return await provider.submit(request, wire)

    return submit


def _endpoints(provider: Provider, wire: Wire) -> tuple[_Endpoint, _Endpoint]:
    async def create(request: Request) -> Response:
        return await provider.create(request, wire)

    async def count(request: Request) -> Response:
        return await provider.count(request, wire)

    return create, count


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok", "service": "provider", "simulated": True}, headers=server.SIMULATED)


def main(argv: list[str] | None = None) -> None:
    """Run the server until SIGTERM. Raises ConfigError."""
    parser = argparse.ArgumentParser(prog="backbeat.embedded.provider", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--log", type=Path, required=True, help="request log, JSON lines")
    parser.add_argument("--latency", default="0.2-2", help="seconds, a range such as 0.2-2, or real")
    parser.add_argument("--seed", type=int, default=1, help="of latencies and fault rates")
    parser.add_argument("--faults", help="a plan file, or RATE FAULT, RATE FAULT")
    parser.add_argument("--window", type=int, default=WINDOW, help="input tokens that fit")
    parser.add_argument("--batch-takes", type=float, default=BATCH_TAKES, help="seconds until a batch is answered")
    parser.add_argument("--batch-lives", type=float, default=BATCH_LIVES, help="seconds until the rest of it expires")
    given = parser.parse_args(argv)
    delay, plan = latency.parse(given.latency), faults.load(given.faults)
    batch = given.batch_takes, given.batch_lives
    provider = Provider(JsonLog(given.log), delay, plan, given.seed, given.window, batch)
    server.serve(application(provider), given.port, "provider")


if __name__ == "__main__":
    sys.exit(server.run(main))
