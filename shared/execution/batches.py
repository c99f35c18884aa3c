"""Calls by batch: half the price, and an answer within a day.

A batch's tag is committed before it is submitted, and a process may die anywhere after that: from the second look on,
the vendor is asked for the tag before anything is submitted.
"""

import asyncio
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from shared import clock
from shared.db import queue
from shared.db.calls import Closing
from shared.db.queries import load
from shared.execution.ask import Ask
from shared.execution.call import CutError, bill_call, close_call
from shared.execution.environment import Environment
from shared.llm.classify import classify
from shared.llm.prices import Price
from shared.llm.protocol import Request
from shared.llm.routes import Route
from shared.llm.structured import OutputInvalidError

STEP = 200.0  # seconds for one look, well within its lease
AGAIN = 300.0  # seconds, after which a request that was cut off has arrived or never will
LONGEST = 26 * 3600.0  # seconds; vendors promise an end after 24 hours
_SQL = load("batches")


async def advance(env: Environment) -> None:
    """Take every batch that is due one step further. Raises UnavailableError when Postgres is away."""
    until = clock.monotonic() + min(STEP, env.deadline.left)
    due = [SimpleNamespace(**row) for row in await env.db.rows(_SQL["due"], {"providers": list(env.config.providers)})]
    await asyncio.gather(*(_advance(env, batch, until) for batch in due))
    if due:
        await queue.sweep(env.db)


async def _advance(env: Environment, batch: SimpleNamespace, until: float) -> None:
    try:
        async with asyncio.timeout(until - clock.monotonic()):
            await _step(env, batch)
    except Exception as error:
        verdict, status = classify(error), batch.status
        if verdict.kind in ("dead", "context_overflow") and not (verdict.hold_route or batch.vendor_id):
            status = "ended"
        elif not batch.vendor_id or verdict.reason == "not_found":
            status = "unsure"
        await _mark(env, batch, status, note=f"{verdict.reason}: {error}", seconds=AGAIN)


async def _mark(env: Environment, batch: SimpleNamespace, status: str, **more: Any) -> bool:
    said = {"tag": batch.tag, "lease": batch.lease, "status": status, "vendor_id": None, "note": None, "seconds": None}
    return bool((await env.db.row(_SQL["mark"], said | more))["marked"])


async def _step(env: Environment, batch: SimpleNamespace) -> None:
    provider: Any = await env.provider(batch.provider)
    rows = {row["name"]: row for row in await env.db.rows(_SQL["calls"], {"tag": batch.tag})}
    if not batch.vendor_id:
        await _submit(env, batch, provider.batches, {name: Request(**row["request"]) for name, row in rows.items()})
        return
    raw = await provider.batches.vendor.retrieve(batch.vendor_id)
    ended, cancelled, answers = provider.batches.stage(raw)
    if ended:
        found = {name: body async for name, body in provider.batches.answers(raw, rows)}
        await asyncio.gather(*(_close(env, provider, rows[name], found[name]) for name in found.keys() & rows))
        env.telemetry.flush()
        # What has neither answer nor error was not done, unless the vendor says that there is an answer more.
        missing = answers > sum(not isinstance(body, str) for body in found.values())
        await _mark(env, batch, "lost" if missing else "ended")
        return
    if batch.cancel and not cancelled:
        await provider.batches.vendor.cancel(batch.vendor_id)
    age = (clock.wall() - batch.intended_at).total_seconds()
    status, note = ("unsure", f"{batch.vendor_id} has not ended") if age > LONGEST else ("submitted", None)
    await _mark(env, batch, status, note=note, seconds=min(max(age / 10, 5.0), AGAIN))


async def _submit(env: Environment, batch: SimpleNamespace, vendor: Any, requests: dict[str, Request]) -> None:
    found = None
    if batch.looks > 1:
        since = batch.intended_at.timestamp() - 3600.0  # a vendor's clock may be behind
        found = await vendor.find(batch.tag, batch.calls, since, set(batch.others))
        # A person may have decided meanwhile; from here on none can.
        gone = not found and not await _mark(env, batch, "ended" if batch.cancel else "intended", seconds=AGAIN)
        if gone or (batch.cancel and not found):
            return
    if not found and "all" in await queue.switches(env.db):
        return
    found = found or await vendor.submit(batch.tag, requests)
    await _mark(env, batch, "submitted", vendor_id=found, seconds=5.0)


async def _close(env: Environment, provider: Any, row: dict[str, Any], body: Any) -> None:
    """Close one call as its answer, or the vendor's word instead of one, says."""
    request, own, room = Request(**row["request"]), row["price"], row["request"]["max_output_tokens"]
    price = Price(**{part: usd and Decimal(usd) for part, usd in own.items()}) if own else None
    # Whether its route could have said more is for whoever reads a cut answer from the record.
    route = Route(row["route"], row["provider"], row["model"], 0, room + 1, bounded=False, price=price)
    named = {"key": row["call_key"], "tier": row["tier"], "prompt": request.prompt, "output": request.schema}
    ask = Ask(**named, max_output_tokens=room, batch=True)
    task, at = SimpleNamespace(**row), int(row["opened_at"].timestamp() * 1e9)
    call: tuple[Environment, Any, Ask, Route, int, int] = env, task, ask, route, row["seq"], at
    try:
        if isinstance(body, str):
            await close_call(*call, Closing("refused", error_class=body))
        else:
            await bill_call(*call, provider.read(body, None, request))
    except (OutputInvalidError, CutError):
        pass  # who reads it from the record will say so again
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        await close_call(*call, Closing("lost", error_class="reply_unreadable", error=repr(error)))
