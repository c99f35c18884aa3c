"""One effect that people decide on: ask, wait for a decision or the deadline, then do it exactly once.

Postgres decides, this only positions. A poke says "look"; what counts is what `close_if_pending` answers, on a
poke as on the deadline, so a lost, doubled or forged signal changes nothing.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from temporal_worker import constants
    from temporal_worker.messages import EffectReport, Projection, Standing, Start, Submission

T = TypeVar("T")
_RETRY = RetryPolicy(initial_interval=constants.RETRY_FIRST, maximum_interval=constants.RETRY_LONGEST)
_REVISE = RetryPolicy(
    initial_interval=constants.RETRY_FIRST,
    maximum_interval=constants.RETRY_LONGEST,
    maximum_attempts=constants.REVISE_ATTEMPTS,
)


@workflow.defn(name="approve_effect")
class ApproveEffect:
    """Signals: `poke` (look at Postgres) and `decide` (a request to decide, see `submit_decision`)."""

    @workflow.init
    def __init__(self, start: Start) -> None:
        self._start = start
        self._seq = start.state_seq
        self._pokes = 0
        self._seen = 0
        self._request = ""
        self._over = False

    @workflow.run
    async def run(self, start: Start) -> dict[str, Any]:
        """The result is what people and the reconciler read: the decision and, if it came to that, the effect."""
        try:
            standing = await self._decision(start)
            result: dict[str, Any] = {"decision": standing.state}
            if standing.state == "approved":
                report = await _to_the_end(self._effect(standing))
                result = {"decision": "revoked"} if report.status == "revoked" else {**result, "effect": report.outcome}
        except (ActivityError, asyncio.CancelledError) as error:
            await self._end("cancelled" if is_cancelled_exception(error) else "failed", error=_reason(error))
            raise
        await self._end("completed", result=result)
        return result

    @workflow.signal
    def poke(self, *_: Any) -> None:
        """Something changed in Postgres."""
        self._pokes += 1

    @workflow.signal(dynamic=True)
    async def decide(self, name: str, bodies: Sequence[RawValue]) -> None:
        """A request to decide: the body of `backbeat approval sign`. Postgres commits it, or refuses and audits it.

        What cannot be read, or is more than one, is refused like any other garbage and does not stop the workflow; what
        is called otherwise is nobody's.
        """
        if name != "decide":
            return
        body = None
        with contextlib.suppress(Exception):
            (body,) = (workflow.payload_converter().from_payload(one.payload) for one in bodies)
        await workflow.wait_condition(lambda: bool(self._request) or self._over)
        if not self._request:
            return
        try:
            await _quick("submit_decision", Submission(self._request, str(workflow.uuid4()), body), bool)
        except ActivityError as error:
            workflow.logger.warning("a decide signal could not be submitted: %s", _reason(error))
        self._pokes += 1

    async def _decision(self, start: Start) -> Standing:
        standing = await _quick("create_request", start, Standing)
        self._request, self._seq = standing.request_id, max(self._seq, standing.seq)
        if standing.state == "pending":
            await self._project("waiting", waiting_for=f"approval {standing.request_id}")
        revised = 0
        while standing.state in ("pending", "changes"):
            if standing.state == "changes" and standing.revision != revised:
                revised = standing.revision
                await self._revise(standing.request_id)
            else:
                await self._wait(timedelta(seconds=max(standing.seconds_left, 0.05)), "deadline of the approval")
            standing = await _quick("close_if_pending", standing.request_id, Standing)
        return standing

    async def _revise(self, request_id: str) -> None:
        """Ask for the next revision, once; where none comes, people edit it themselves or the deadline comes."""
        try:
            await workflow.execute_activity(
                "revise_request", request_id, start_to_close_timeout=constants.REVISE_LIMIT, retry_policy=_REVISE
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("no revision of %s: %s", request_id, _reason(error))

    async def _effect(self, standing: Standing) -> EffectReport:
        pause = constants.RECHECK_FIRST
        while True:
            report: EffectReport = await workflow.execute_activity(
                "perform_effect",
                standing.request_id,
                result_type=EffectReport,
                start_to_close_timeout=constants.EFFECT_LIMIT,
                heartbeat_timeout=constants.EFFECT_HEARTBEAT,
                retry_policy=_RETRY,
            )
            if report.status in ("done", "revoked"):
                return report
            await self._project("waiting", waiting_for=f"the effect's outcome is unknown: {report.detail}")
            await self._wait(pause, "look at the effect again")
            pause = min(pause * 2, constants.RECHECK_LONGEST)

    async def _wait(self, limit: timedelta, summary: str) -> None:
        """Until a poke that no read has followed yet, or the limit."""
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._pokes > self._seen, timeout=limit, timeout_summary=summary)
        self._seen = self._pokes

    async def _project(self, status: str, **fields: Any) -> None:
        self._seq += 1
        await _quick("project", Projection(self._start.id, self._seq, status, **fields), bool)

    async def _end(self, status: str, **fields: Any) -> None:
        self._over = True
        await self._project(status, **fields)
        await workflow.wait_condition(workflow.all_handlers_finished)


async def _quick(activity: str, argument: Any, result: type[T]) -> T:
    answer: T = await workflow.execute_activity(
        activity, argument, result_type=result, start_to_close_timeout=constants.QUICK, retry_policy=_RETRY
    )
    return answer


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """What was approved is finished, even when the workflow is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                raise


def _reason(error: BaseException) -> str | None:
    if is_cancelled_exception(error):
        return None
    return str(error.__cause__ or error)
