"""One write to the world outside, exactly once: intent on record, write, outcome on record.

The far write must end by a moment that was fixed before the intent was recorded; the ledger's window ends later, by
the time the far side may take to make up its mind. So nobody looks, or fires again, while the first may still happen.

A writer that does not come back leaves its intent behind. Whoever comes next looks at the far side first
(`read_back`) and fires only when it certainly is not there; where nobody can look, a person must. What a write leaves
for that look is a mark that only the ledger knows, so that no text in a request can pass for it.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from shared import clock
from shared.db import effects as ledger
from shared.db.effects import Intent, Verdict
from shared.definitions import Effect
from shared.errors import BackbeatError, ConflictError, DefinitionError
from shared.execution.environment import Environment
from shared.execution.spans import effect_span


class EffectRefusedError(BackbeatError):
    """Raised by `perform` when the far side said no: the write certainly did not happen."""


@dataclass(frozen=True, slots=True)
class EffectOutcome:
    """How it stands. `wait`: look again in `wait_seconds`. `unknown`: a person must say (detail says why).

    `refused`: no approval, or the kill switch; `fenced`: the task is somebody else's.
    """

    status: Literal["done", "wait", "unknown", "refused", "stopped", "fenced"]
    outcome: Any = None
    wait_seconds: float = 0.0
    detail: str = ""


async def perform_effect(env: Environment, intent: Intent) -> EffectOutcome:
    """Make the effect happen, or learn that it did. Safe to repeat with the same intent, by anybody, at any time.

    Raises EffectRefusedError when the far side refused, ConflictError when the key stands for another request,
    DefinitionError when this process cannot make it (then the intent is on record, with that reason).
    """
    effect = env.registry.effects.get(intent.kind)
    started = clock.wall_ns()
    window = None if effect is None else effect.timeout + effect.settle
    ends = asyncio.get_running_loop().time() + (0.0 if effect is None else effect.timeout)
    verdict = await ledger.begin_effect(env.db, intent, window)
    match verdict.verdict:
        case "fire" if effect is not None:
            result = await _fire(env, effect, intent, verdict, ends)
        case "done":
            result = EffectOutcome("done", verdict.outcome)
        case "look" if effect is not None:
            result = await _look(env, effect, intent, verdict)
        case "noted":
            known = ", ".join(sorted(env.registry.effects)) or "none"
            error = DefinitionError(f"no loaded module defines the effect {intent.kind!r}", fix=f"Loaded: {known}")
            await ledger.note_effect(env.db, intent.key, str(error))
            raise error
        case "wait":
            return EffectOutcome("wait", wait_seconds=verdict.wait_seconds)
        case "conflict":
            raise ConflictError(
                f"effect {intent.key} stands for another request", fix="Give the second write a key of its own"
            )
        case "refused":
            return EffectOutcome("refused", detail="no approval of exactly this request stands")
        case "stopped":
            return EffectOutcome("stopped", wait_seconds=5.0, detail=verdict.detail)
        case _:
            return EffectOutcome("fenced")
    env.telemetry.record(effect_span(env, intent, started, result.status))
    return result


async def _fire(env: Environment, effect: Effect, intent: Intent, leave: Verdict, ends: float) -> EffectOutcome:
    if asyncio.get_running_loop().time() >= ends:
        # This process slept through its window: somebody else may be at it by now.
        return EffectOutcome("wait", wait_seconds=effect.settle, detail="it took too long to begin")
    try:
        async with asyncio.timeout_at(ends):
            outcome = await effect.perform(intent.request, leave.mark)
    except EffectRefusedError as error:
        await ledger.refire_effect(env.db, intent.key, leave.token, 0.0, str(error))
        raise
    except Exception as error:
        # Sent or not, nobody knows: the intent stays, and the next one to come looks first.
        return await _wait(env, effect, intent, f"{type(error).__name__}: {error}")
    await ledger.finish_effect(env.db, intent.key, outcome)
    return EffectOutcome("done", outcome)


async def _look(env: Environment, effect: Effect, intent: Intent, leave: Verdict) -> EffectOutcome:
    if effect.read_back is None:
        return EffectOutcome("unknown", detail=f"resolve it: backbeat effect resolve {intent.key}")
    try:
        async with asyncio.timeout(effect.timeout):
            found = await effect.read_back(intent.request, leave.mark)
    except Exception as error:
        return await _wait(env, effect, intent, f"read-back: {type(error).__name__}: {error}")
    if found is not None:
        await ledger.finish_effect(env.db, intent.key, found, read_back=True)
        return EffectOutcome("done", found)
    ends, window = asyncio.get_running_loop().time() + effect.timeout, effect.timeout + effect.settle
    if await ledger.refire_effect(env.db, intent.key, leave.token, window, "read-back found nothing"):
        return await _fire(env, effect, intent, leave, ends)
    return EffectOutcome("wait", wait_seconds=window)


async def _wait(env: Environment, effect: Effect, intent: Intent, why: str) -> EffectOutcome:
    await ledger.note_effect(env.db, intent.key, why)
    return EffectOutcome("wait", wait_seconds=effect.timeout + effect.settle, detail=why)
