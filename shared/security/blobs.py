"""Payloads too large for a history: files that every worker of a queue sees, named by the hash of what is in them.

They are stored as the codec left them, so encrypted where payloads are, in a directory for each workflow. A file is
written whole or not at all and never changed; storing the same payload again is the same file. `backbeat retention
payloads` removes those of workflows that Temporal has forgotten: histories refer to them.
"""

import asyncio
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
    StorageDriverWorkflowInfo,
)

from shared.errors import UnavailableError


class Blobs(StorageDriver):
    """A directory. What is wrong with it stops no workflow: tasks and activities are tried again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def name(self) -> str:
        """Stands in histories: never changed."""
        return "backbeat.files"

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        """Raises UnavailableError when the directory takes nothing."""
        of = quote((isinstance(context.target, StorageDriverWorkflowInfo) and context.target.id) or "-", safe="")
        return [await asyncio.to_thread(self._store, of, payload.SerializeToString()) for payload in payloads]

    async def retrieve(
        self,
        context: StorageDriverRetrieveContext,  # noqa: ARG002
        claims: Sequence[StorageDriverClaim],
    ) -> list[Payload]:
        """Raises UnavailableError when a file is gone or is not what was stored."""
        return [await asyncio.to_thread(self._retrieve, **claim.claim_data) for claim in claims]

    def _store(self, of: str, data: bytes) -> StorageDriverClaim:
        digest = hashlib.sha256(data).hexdigest()
        path, draft = self._directory / of / digest, self._directory / of / f".{digest}.{uuid4().hex}"
        try:
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                with draft.open("wb") as file:
                    file.write(data)
                    os.fsync(file.fileno())
                draft.replace(path)
        except OSError as error:
            raise UnavailableError(f"{path} cannot be written: {error}", fix="Is payload_dir there?") from error
        return StorageDriverClaim({"of": of, "sha256": digest})

    def _retrieve(self, of: str, sha256: str) -> Payload:
        path = self._directory / Path(of).name / Path(sha256).name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UnavailableError(f"{path} cannot be read: {error}", fix="Restore it, or mount payload_dir") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise UnavailableError(f"{path} is not what was stored", fix="Restore it")
        return Payload.FromString(data)
