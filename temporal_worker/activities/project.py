"""The projector: what a workflow says of itself, written to its row for people to see."""

from uuid import UUID

from temporalio import activity

from shared.db import outbox
from shared.db.outbox import State
from shared.execution.environment import Environment
from temporal_worker.activities import temporal_errors
from temporal_worker.messages import Projection


class Projector:
    """One activity, at waits and at the end."""

    def __init__(self, env: Environment) -> None:
        self._env = env

    @activity.defn(name="project")
    async def project(self, state: Projection) -> bool:
        """Write the state where it is news; False when the row knows something newer."""
        run_id = activity.info().workflow_run_id
        fields = State(state.seq, state.status, run_id, state.waiting_for, state.result, state.error)
        with temporal_errors():
            return await outbox.project(self._env.db, UUID(state.id), fields)
