"""Spans in Postgres: the outbox of hosts whose disk does not last, and what each host tells of its spool."""

import zlib
from threading import Event
from uuid import UUID

import psycopg
from psycopg.rows import DictRow

from shared import clock
from shared.db.pool import CONNECT_TIMEOUT, PATIENCE, Database, passes
from shared.db.queries import load

_SQL = load("telemetry")
LEASE = 60.0  # seconds; then another shipper may send the batch, under the same token


async def tell(db: Database, host: str, files: int, oldest: float | None, quarantined: int, shed: int) -> None:
    """Say how a host's spool is; `shed` is added to what it told before."""
    said = {"files": files, "oldest": oldest, "quarantined": quarantined, "shed": shed}
    await db.rows(_SQL["tell"], {"host": host, **said})


async def lease(db: Database) -> list[DictRow]:
    """The oldest batches that nobody has: id, and `file`, as it would be in a spool."""
    rows = await db.rows(_SQL["lease"], {"seconds": LEASE})
    return [{"id": row["id"], "file": zlib.decompress(row["body"])} for row in rows]


async def settle(db: Database, batch: UUID, refused: str | None) -> None:
    """Remove a batch, or set it aside with the reason."""
    await db.rows(_SQL["settle"], {"id": batch, "refused": refused})


class SpanOutbox:
    """The way into the outbox: a connection for one thread, opened when it is needed. `size`: bytes that wait there."""

    def __init__(self, url: str) -> None:
        self._url, self.size = url, 0
        self._connection: psycopg.Connection | None = None

    def put(self, token: str, spans: int, file: bytes) -> None:
        """Store one batch, once, however often it is told. Raises psycopg.Error when Postgres stays away."""
        params = {"id": UUID(token), "spans": spans, "body": zlib.compress(file, 1)}
        until = clock.monotonic() + PATIENCE
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=int(CONNECT_TIMEOUT))
                row = self._connection.execute(_SQL["put"], params, prepare=False).fetchone()
            except psycopg.Error as error:
                if not passes(error) or clock.monotonic() >= until:
                    raise
                Event().wait(0.2)
            else:
                self.size = row[-1] if row else 0
                return
