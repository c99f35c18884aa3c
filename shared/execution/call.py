"""One model call, from asking leave to the closed bill. The one path of ticks and activities.

    fit -> route -> recall -> deadline -> admit -> reserve -> send -> bill -> validate

The row is `open` before the bytes leave and closed before the answer is used, so a process may die anywhere:
a call that was answered is never paid again, and one whose answer was lost is on record as presumed spent.
"""

import asyncio
import json
import math
from dataclasses import asdict, replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from shared import clock
from shared.db import calls
from shared.db.queue import Task
from shared.domain.outcome import Dead, Hold, Release, Retry, Snooze
from shared.execution.admission import CIRCUIT, Slot
from shared.execution.ask import Ask
from shared.execution.environment import Environment
from shared.execution.interrupt import Interrupt
from shared.execution.overflow import TooLong, answer_fitting
from shared.execution.routing import PATIENCE
from shared.execution.spans import Payer, call_span, recovered_call_span
from shared.llm import prices
from shared.llm.classify import Verdict, backoff, classify
from shared.llm.protocol import Reply, Request
from shared.llm.routes import Route
from shared.llm.structured import OutputInvalidError, parse, reask_prompt

TRIES_IN_TICK = 4  # sends of one call before its task is given back to the queue
LADDER = ("small", "medium", "large")  # what is answered wrongly twice climbs it; tiers of one's own do not
AGAIN = "#again"  # behind the key of a call whose answer was sent back
ROOM = 4  # times the output that was asked for, where that was too little
CALL_TIMEOUT = 600.0  # seconds; the tick's own end is nearly always sooner
RESERVATION_WAIT = 0.25  # seconds between looks while only other calls' reservations are in the way
RESERVATION_PATIENCE = 5.0  # seconds of such looks before the task is snoozed

# Whoever asks for a call that is under way waits for its end, and finds the answer on record.
_under_way: WeakValueDictionary[tuple[UUID, str], asyncio.Lock] = WeakValueDictionary()


class CutError(Exception):
    """The answer was cut off at its limit of output tokens; `most` is the route's."""

    def __init__(self, model: str, limit: int, most: int) -> None:
        super().__init__(f"{model} was cut off at {limit} output tokens")
        self.final = limit >= most


async def model_call(env: Environment, task: Payer, ask: Ask) -> Any:
    """Answer `ask`, from the record or from a model; an invalid answer goes back once with its errors, then a tier up.

    Returns what `ask.output` makes of it. Raises Interrupt with the attempt's outcome when it cannot be had now.
    """
    ask.check()
    await env.routing.read()
    if ask.tier not in (tiers := env.routing.routes.tiers):
        line = f"no tier is called {ask.tier!r}: use one of {', '.join(tiers)}"
        raise Interrupt(Dead("unknown_tier", line))
    higher = LADDER[LADDER.index(ask.tier) + 1 :] if ask.escalate and ask.tier in LADDER else ()
    have = env.config.providers
    above = next(
        (tier for tier in higher if any(one.provider in have for one in env.routing.routes.tiers.get(tier, ()))), None
    )
    rungs = [ask, replace(ask, key=f"{ask.key}{AGAIN}")]
    if above:
        rungs.append(replace(ask, key=f"{ask.key}#{above}", tier=above))
    # What is wrong for the last time may not stand on record, where every later attempt would find it.
    rungs[-1] = replace(rungs[-1], final=True, batch=False)
    wrong: OutputInvalidError | None = None
    async with _under_way.setdefault((task.id, ask.key), asyncio.Lock()):
        for rung in rungs:
            again = wrong and rung.tier == ask.tier
            asked = replace(rung, prompt=reask_prompt(ask.prompt, wrong)) if again and wrong else rung
            try:
                return await answer_fitting(env, asked, partial(_uncut, env, task))
            except OutputInvalidError as error:
                wrong = error
    raise Interrupt(Retry("invalid_output", f"call {ask.key!r}: {wrong}", backoff(task.attempts, env.rng)))


async def _uncut(env: Environment, task: Payer, ask: Ask) -> Any:
    """One valid answer; one that was cut off is asked for once more, with more room."""
    longer = replace(ask, max_output_tokens=ask.max_output_tokens * ROOM, longer=True, batch=False)
    for asked in (ask, longer):
        try:
            return await _answer(env, task, asked)
        except CutError as cut:
            if asked is longer or cut.final:
                line = f"call {ask.key!r}: {cut}: ask for less at once, or raise max_output_tokens"
                raise Interrupt(Dead("output_truncated", line)) from cut
    raise AssertionError


async def _answer(env: Environment, task: Payer, ask: Ask) -> Any:
    """One valid answer, sending again in this tick what may be sent again. Raises OutputInvalidError."""
    sent = 0
    for turn in range(1, TRIES_IN_TICK + 1):
        route = await env.routing.choose(ask.tier, task.id, env.deadline.patience(0.0), ask.window)
        ask = replace(ask, batch=await _by_batch(env, task, ask, route))
        if ask.batch:
            return _recorded(ask, route, await _leave(env, task, ask, route))
        # Loading a vendor's SDK takes a second: not while money is reserved, nor inside the call's span.
        desk = env.routing.desk(route, await env.provider(route.provider))
        slot = await desk.slot(_wish(env, task, ask, route))
        if slot is None:
            continue
        try:
            verdict = await _leave(env, task, ask, route)
        except BaseException:
            slot.give_back()
            raise
        if verdict.verdict == "memo":
            slot.give_back()
            return _recorded(ask, route, verdict)
        sent += 1
        if verdict.seq > sent:
            await _tell_of_lost(env, task, ask)
        result = await _send(env, task, ask, route, slot, verdict.seq)
        if not isinstance(result, Verdict):
            return result
        delay = result.delay if result.delay is not None else backoff(sent, env.rng)
        again = result.kind == "immediate" and result.free
        if env.routing.elsewhere(ask.tier, task.id, route):
            again, delay = again or result.hold_route, 0.0
        if not again or turn == TRIES_IN_TICK or not env.deadline.allows(delay + _expected(env, route)):
            raise Interrupt(_outcome(result, route, delay, slot.opened))
        await clock.sleep(delay)
    raise Interrupt(Release("rate", after=backoff(TRIES_IN_TICK, env.rng)))


def _recorded(ask: Ask, route: Route, verdict: calls.Verdict) -> Any:
    if verdict.response.get("cut"):
        raise _cut(ask, route)
    return parse(ask.output, verdict.response["text"])


async def _by_batch(env: Environment, task: Payer, ask: Ask, route: Route) -> bool:
    able = "batch" in route.capabilities or env.config.providers[route.provider].adapter != "compatible"
    if not (route.batch if ask.batch is None else ask.batch and able) or env.runtime == "local":
        return False
    return await calls.batch_failures(env.db, task.id, ask.key) < 2  # then it is sent alone


def _wish(env: Environment, task: Payer, ask: Ask, route: Route) -> dict[str, Any]:
    """What is asked of the route's rate."""
    request = _request(env, task, ask, route, 0)
    named = {"owner": str(task.id), "call_key": ask.key, "request_hash": ask.request_hash}
    tokens = {"input": prices.upper_tokens(*request.texts), "output": request.max_output_tokens}
    return named | tokens | {"patience": min(env.deadline.patience(_expected(env, route)), PATIENCE)}


async def _tell_of_lost(env: Environment, task: Payer, ask: Ask) -> None:
    """The spans of calls opened by an asking whose answer never came: nobody else knows of them."""
    run = task._asdict() if isinstance(task, Task) else asdict(task)
    for call in await calls.calls_of_lease(env.db, task.id, task.lease):
        if call["call_key"] == ask.key and call["status"] == "lost":
            env.telemetry.record(recovered_call_span(env, run, call))


async def _leave(env: Environment, task: Payer, ask: Ask, route: Route) -> calls.Verdict:
    """Postgres' leave to send, or the recorded answer. Raises Interrupt for every other verdict."""
    request = _request(env, task, ask, route, 0)
    tokens, takes = prices.upper_tokens(*request.texts), 0.0 if ask.batch else _expected(env, route)
    prefix, expected = (None, "off") if ask.batch else env.prefixes.expect(task.workflow, request)
    sizes = tokens, request.max_output_tokens
    full = prices.ceiling(route.provider, route.model, *sizes, clock.wall(), cache=request.cache, price=route.price)
    ceiling = prices.by_batch(full) if ask.batch else full
    usd_share, tokens_share = env.likely_shares.get((task.workflow, route.name), (Decimal(1), Decimal(1)))
    reservation = calls.Reservation(
        owner=task.id,
        lease=task.lease,
        key=ask.key,
        request_hash=ask.request_hash,
        route=route.name,
        tier=ask.tier,
        provider=route.provider,
        model=route.model,
        usd=ceiling.usd,
        tokens=tokens + request.max_output_tokens,
        price_version=ceiling.version,
        likely_usd=None if ceiling.usd is None else ceiling.usd * usd_share,
        likely_tokens=math.ceil((tokens + request.max_output_tokens) * tokens_share),
        meets=f"{task.tenant}/{task.workflow}",
        prefix=prefix,
        cache=expected,
        batch="" if ask.batch else None,
        request=_kept(request, route) if ask.batch else None,
    )
    if not env.deadline.allows(takes):
        raise Interrupt(Release("out_of_time"))
    patience = clock.monotonic() + RESERVATION_PATIENCE
    while True:
        verdict = await calls.open_call(env.db, reservation)
        match verdict.verdict:
            case "batch" | "open" if ask.batch or verdict.verdict == "batch":
                raise Interrupt(Hold("batch", str(task.id)))
            case "open" | "memo":
                return verdict
            case "fenced":
                raise Interrupt(None)
            case "stopped":
                raise Interrupt(Snooze(clock.wall() + timedelta(seconds=5)))
            case "held":
                raise Interrupt(Hold("budget", verdict.detail, verdict.until))
            case "route":
                raise Interrupt(Hold("route", verdict.detail, verdict.until))
            case "over":
                scope = "agent" if verdict.detail.startswith("agent/") else "task"
                raise Interrupt(Dead(f"over_{scope}_budget", verdict.detail))
            case "unpriced":
                until = clock.wall() + timedelta(hours=1)
                raise Interrupt(Hold("price", f"{route.model} under {verdict.detail}", until))
        if clock.monotonic() > patience or not env.deadline.allows(takes):
            raise Interrupt(Snooze(clock.wall() + timedelta(seconds=2)))
        await clock.sleep(RESERVATION_WAIT * (0.5 + env.rng.random()))


async def _send(env: Environment, task: Payer, ask: Ask, route: Route, slot: Slot, seq: int) -> Any:
    """Send one reserved call and close its row: the valid answer, or the verdict on why there is none."""
    started = clock.wall_ns()
    try:
        reply = await slot.send(_request(env, task, ask, route, seq))
    except asyncio.CancelledError:
        end = calls.Closing("lost", error_class="cut_off", error="the attempt ended while the call was under way")
        await close_call(env, task, ask, route, seq, started, end)
        raise
    except Exception as error:
        verdict = classify(error)
        status = "lost" if verdict.lost else "refused"
        end = calls.Closing(status, error_class=verdict.reason, error=str(error))
        await close_call(env, task, ask, route, seq, started, end)
        return verdict
    return await bill_call(env, task, ask, route, seq, started, reply)


async def bill_call(env: Environment, task: Payer, ask: Ask, route: Route, seq: int, started: int, reply: Reply) -> Any:
    """Book what a reply cost, whatever it is worth; then say what it is worth. Raises OutputInvalidError."""
    verdict = classify(reply)
    value: Any = None
    invalid: OutputInvalidError | None = None
    if verdict.kind == "ok":
        try:
            value = parse(ask.output, reply.text)
        except OutputInvalidError as error:
            invalid = error
    cut = _cut(ask, route) if verdict.reason == "output_truncated" else None
    # The last answer that may be asked for is not kept when invalid, or every later attempt would end with it too.
    kept = not (ask.longer or cut.final) if cut else verdict.kind == "ok" and not (invalid and ask.final)
    cache = None if ask.batch else env.prefixes.ttl
    bill = prices.cost(route.provider, route.model, reply.usage, clock.wall(), cache=cache, price=route.price)
    bill = prices.by_batch(bill) if ask.batch else bill
    end = calls.Closing(
        "done",
        usage=reply.usage,
        cost=bill.usd,
        price_version=bill.version,
        response={"text": reply.text} | ({"cut": True} if cut else {}) if kept else None,
        valid=verdict.kind == "ok" and invalid is None,
        stop=reply.stop,
        model_answered=reply.model,
        response_id=reply.response_id,
        error_class="invalid_output" if invalid else None if verdict.kind == "ok" else verdict.reason,
        error=str(invalid) if invalid else None if verdict.kind == "ok" else reply.detail or None,
        tools_called=int(getattr(value, "action", None) == "tool_call"),  # an agent's step says so in its answer
    )
    await close_call(env, task, ask, route, seq, started, end)
    if problem := invalid or cut:
        raise problem
    return verdict if verdict.kind != "ok" else value


def _cut(ask: Ask, route: Route) -> CutError:
    return CutError(route.model, min(ask.max_output_tokens, route.max_output), route.max_output)


async def close_call(
    env: Environment, task: Payer, ask: Ask, route: Route, seq: int, started: int, end: calls.Closing
) -> None:
    """Close the row even while the task is being cancelled: the bill is real."""
    said = {"input": f"{ask.system or ''}\n\n{ask.prompt}".strip(), "output": (end.response or {}).get("text", "")}
    env.telemetry.record(call_span(env, task, ask.key, ask.tier, route, seq, started, end, **said))
    closing = asyncio.ensure_future(calls.close_call(env.db, task.id, ask.key, seq, end))
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await closing
        raise


def _request(env: Environment, task: Payer, ask: Ask, route: Route, seq: int) -> Request:
    return Request(
        model=route.model,
        prompt=ask.prompt,
        system=ask.system,
        max_output_tokens=min(ask.max_output_tokens, route.max_output),
        schema=ask.schema,
        schema_name=str((ask.schema or {}).get("title", "output")),
        cache=None if ask.batch else env.prefixes.ttl,
        grows=ask.grows,
        timeout=0.0 if ask.batch else max(min(env.deadline.left, CALL_TIMEOUT), 0.1),
        capabilities=route.capabilities,
        metadata={"owner": str(task.id), "key": ask.key, "seq": str(seq), "workflow": task.workflow},
    )


def _kept(request: Request, route: Route) -> dict[str, Any]:
    return asdict(request) | {"price": json.loads(json.dumps(route.price and asdict(route.price), default=str))}


def _expected(env: Environment, route: Route) -> float:
    """Seconds that 95 % of this route's recent calls took; 0 while nobody knows."""
    return env.expected_seconds.get(route.name, 0.0)


def _outcome(verdict: Verdict, route: Route, delay: float, opened: bool) -> Any:
    """How an attempt ends when one of its calls did not come off; of many on a route at fault the first dies."""
    error = f"{route.model}: {verdict.reason}"
    if verdict.hold_route and not (opened and verdict.kind == "dead"):
        why = f"{route.name}: {verdict.reason}"
        return Hold("route", route.name, clock.wall() + timedelta(seconds=CIRCUIT), why)
    match verdict.kind:
        case "context_overflow":
            raise TooLong(None, route.window)
        case "dead":
            return Dead(verdict.reason, error)
        case "immediate" if verdict.free:
            return Release(verdict.reason, after=delay)
        case "immediate":
            return Retry(verdict.reason, error, after=verdict.delay or 0.0)
        case _:
            return Retry(verdict.reason, error, after=max(delay, 0.0))
