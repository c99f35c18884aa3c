"""Tells running workflows that something changed. A poke carries nothing: the workflow reads Postgres."""

from temporalio.client import Client

from shared.db.outbox import Message
from shared.db.pool import Database
from temporal_worker.delivery import drain


class Relay:
    """Takes every message but `start` from the outbox to Temporal."""

    def __init__(self, db: Database, client: Client) -> None:
        self._db = db
        self._client = client

    async def beat(self) -> bool:
        """Deliver one batch; True when there may be more. Raises UnavailableError."""
        return await drain(self._db, ["poke", "wake", "cancel"], self.send)

    async def send(self, message: Message) -> None:
        """Signal or cancel the latest run of the workflow."""
        handle = self._client.get_workflow_handle(message.temporal_id)
        if message.kind == "cancel":
            await handle.cancel()
        else:
            await handle.signal("poke")
