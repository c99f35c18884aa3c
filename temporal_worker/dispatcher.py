"""Starts workflows: each row once, however many dispatchers there are and whatever they hear back."""

from typing import Any

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from shared.db import outbox
from shared.db.outbox import Message
from shared.db.pool import Database
from shared.errors import InputError
from shared.execution.environment import Environment
from shared.execution.payloads import checked
from shared.execution.spans import escalate_span
from shared.orchestration.messages import KNOWN_WORKFLOWS
from temporal_worker.delivery import RefusedError, drain
from temporal_worker.messages import Start
from temporal_worker.orchestrations import type_name


class Dispatcher:
    """Takes `start` messages from the outbox to Temporal."""

    def __init__(self, db: Database, client: Client, task_queue: str, env: Environment | None = None) -> None:
        self._db = db
        self._client = client
        self._task_queue = task_queue
        self._env = env
        self._made = env.registry.orchestrations if env else {}

    async def beat(self) -> bool:
        """Deliver one batch of what this process has loaded; True when there may be more. Raises UnavailableError."""
        own = [f"{name}@{n + 1}" for name, newest in KNOWN_WORKFLOWS.items() for n in range(newest)]
        return await drain(self._db, ["start"], self.start, [*own, *self._made])

    async def start(self, message: Message) -> str | None:
        """Start a workflow, or learn that it was started; returns its run.

        Raises RefusedError when nobody has it loaded, or its input is not what it takes.

        A row past `starting` is not started again: Temporal forgets ids after its retention, the row does not.
        """
        if message.status != "starting":
            return None
        name, argument = await self._what(message)
        try:
            handle = await self._client.start_workflow(
                name,
                argument,
                id=message.temporal_id,
                task_queue=self._task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
        except WorkflowAlreadyStartedError as error:
            return error.run_id
        return handle.first_execution_run_id

    async def _what(self, message: Message) -> tuple[str, Any]:
        """The type to start, and with what."""
        if KNOWN_WORKFLOWS.get(message.workflow, 0) >= message.version:
            return message.workflow, Start(str(message.stream), message.state_seq)
        found = self._made.get(f"{message.workflow}@{message.version}")
        if not self._env or not found:
            known = ", ".join([*(f"{name}@{version}" for name, version in KNOWN_WORKFLOWS.items()), *self._made])
            raise RefusedError(f"no worker runs {message.workflow}@{message.version}; this one runs {known}")
        row = await outbox.workflow(self._db, message.stream)
        self._env.telemetry.record(escalate_span(self._env, row))
        try:
            return type_name(found), checked(found, row.input, complete=True)
        except InputError as error:
            raise RefusedError(str(error)) from error
