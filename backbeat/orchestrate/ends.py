"""Around each orchestration of an author's: how it ended goes to its row, whatever happens inside."""

import asyncio
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from backbeat.orchestrate.run import current
from shared.orchestration.messages import KNOWN_WORKFLOWS


class Ends(Interceptor):
    """Workers and replayers take it."""

    def workflow_interceptor_class(
        self,
        input: WorkflowInterceptorClassInput,  # noqa: A002, ARG002
    ) -> type[WorkflowInboundInterceptor] | None:
        """Asked by the SDK."""
        return _Inbound


class _Inbound(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002
        # Our own workflows speak for themselves.
        if workflow.info().workflow_type in KNOWN_WORKFLOWS:
            return await super().execute_workflow(input)
        run = current()
        try:
            result = await super().execute_workflow(input)
        except (FailureError, asyncio.CancelledError) as error:
            await run.end(error)
            raise
        await run.end(None, result)
        return result
