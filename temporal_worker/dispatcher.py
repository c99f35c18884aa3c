"""Starts workflows: each row once, however many dispatchers there are and whatever they hear back."""

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from shared.db.outbox import Message
from shared.db.pool import Database
from temporal_worker.constants import KNOWN_WORKFLOWS
from temporal_worker.delivery import UnknownWorkflowError, drain
from temporal_worker.messages import Start


class Dispatcher:
    """Takes `start` messages from the outbox to Temporal."""

    def __init__(self, db: Database, client: Client, task_queue: str) -> None:
        self._db = db
        self._client = client
        self._task_queue = task_queue

    async def beat(self) -> bool:
        """Deliver one batch; True when there may be more. Raises UnavailableError."""
        return await drain(self._db, ["start"], self.start)

    async def start(self, message: Message) -> str | None:
        """Start a workflow, or learn that it was started; returns its run. Raises UnknownWorkflowError.

        A row past `starting` is not started again: Temporal forgets ids after its retention, the row does not.
        """
        if message.status != "starting":
            return None
        if KNOWN_WORKFLOWS.get(message.workflow, 0) < message.version:
            known = ", ".join(f"{name}@{version}" for name, version in KNOWN_WORKFLOWS.items())
            raise UnknownWorkflowError(f"no worker runs {message.workflow}@{message.version}; this one runs {known}")
        try:
            handle = await self._client.start_workflow(
                message.workflow,
                Start(str(message.stream), message.state_seq),
                id=message.temporal_id,
                task_queue=self._task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
        except WorkflowAlreadyStartedError as error:
            return error.run_id
        return handle.first_execution_run_id
