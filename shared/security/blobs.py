"""Payloads too large for a history: files that every worker of a queue sees, named by the hash of what is in them.

They are stored as the codec left them, so encrypted where payloads are. A file is written whole or not at all and never
changed; storing the same payload again is the same file. Retention is an operator's: histories refer to them.
"""

import asyncio
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)

from shared.errors import UnavailableError


class Blobs(StorageDriver):
    """A directory. What is wrong with it stops no workflow: tasks and activities are tried again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def name(self) -> str:
        """Stands in histories: never changed."""
        return "backbeat.files"

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:  # noqa: ARG002
        """Raises UnavailableError when the directory takes nothing."""
        return [await asyncio.to_thread(self._store, payload.SerializeToString()) for payload in payloads]

    async def retrieve(
        self,
        context: StorageDriverRetrieveContext,  # noqa: ARG002
        claims: Sequence[StorageDriverClaim],
    ) -> list[Payload]:
        """Raises UnavailableError when a file is gone or is not what was stored."""
        return [await asyncio.to_thread(self._retrieve, claim.claim_data["sha256"]) for claim in claims]

    def _store(self, data: bytes) -> StorageDriverClaim:
        digest = hashlib.sha256(data).hexdigest()
        path, draft = self._directory / digest, self._directory / f".{digest}.{uuid4().hex}"
        try:
            if not path.exists():
                with draft.open("wb") as file:
                    file.write(data)
                    os.fsync(file.fileno())
                draft.replace(path)
        except OSError as error:
            raise UnavailableError(f"{path} cannot be written: {error}", fix="Is payload_dir there?") from error
        return StorageDriverClaim({"sha256": digest})

    def _retrieve(self, digest: str) -> Payload:
        path = self._directory / Path(digest).name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UnavailableError(f"{path} cannot be read: {error}", fix="Restore it, or mount payload_dir") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise UnavailableError(f"{path} is not what was stored", fix="Restore it")
        return Payload.FromString(data)
