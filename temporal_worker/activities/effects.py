"""The effect that was approved, through the same ledger as a task's."""

from datetime import timedelta
from uuid import UUID

from temporalio import activity
from temporalio.exceptions import ApplicationError

from shared.db import approvals
from shared.db.effects import Intent
from shared.execution.effects import EffectRefusedError, perform_effect
from shared.execution.environment import Environment
from temporal_worker.activities import heartbeat, known, temporal_errors
from temporal_worker.messages import EffectReport

REFUSALS = 12  # attempts, at doubling intervals for about an hour, after which the far side's "no" is final


class Effects:
    """The activity that writes to the world outside."""

    def __init__(self, env: Environment) -> None:
        self._env = env

    @activity.defn(name="perform_effect")
    async def perform_effect(self, request_id: str) -> EffectReport:
        """Do exactly what was approved, or learn that it is done. The hash is taken again from what will be sent."""
        with temporal_errors():
            request = await approvals.get(self._env.db, UUID(request_id))
            intent = Intent(
                key=f"{request.workflow_id}:effect",
                kind=request.payload["effect"],
                request=request.payload["request"],
                request_hash=request.content_hash,
                owner_kind="workflow",
                owner=request.workflow_id,
                lease=None,
                origin=request.origin_id,
                traceparent=request.traceparent,
                approval=request.id,
            )
            try:
                async with heartbeat():
                    result = await perform_effect(self._env, intent)
            except EffectRefusedError as error:
                attempt = activity.info().attempt
                raise ApplicationError(
                    str(error),
                    type="EffectRefused",
                    non_retryable=attempt >= REFUSALS,
                    next_retry_delay=timedelta(seconds=2.0 ** min(attempt - 1, REFUSALS)),
                ) from error
            finally:
                self._env.telemetry.flush()
            if result.status == "refused" and (await approvals.get(self._env.db, request.id)).state == "revoked":
                return EffectReport("revoked")
        found = known(result)
        return EffectReport(found.status, found.outcome, found.detail)
