"""People for a demo nobody sits at: scripted analysts who phone the cardholder, who knows what was planted."""

from collections.abc import Collection
from itertools import cycle
from pathlib import Path

from backbeat import tokens
from backbeat.decide import decide
from backbeat.operate import tokens as stored
from backbeat.operate.approvals import find
from examples.fraud_review.definitions import ANALYSTS
from shared.config import Config
from shared.db.pool import Database, connect
from shared.errors import ConflictError

_AT_ONCE = 1000


class Analysts:
    """Carol and Dave in turn, each with a token of their own."""

    def __init__(self, people: Path, planted: Collection[str]) -> None:
        self._people = people
        self._planted = planted
        self._turns = cycle(ANALYSTS)

    async def enrol(self, config: Config) -> None:
        """Make their tokens; one that is there from an earlier run is kept."""
        self._people.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with connect(config.migrator_url) as owner:
            for person in ANALYSTS:
                if not self._file(person).exists():
                    token = tokens.create()
                    await stored.create(owner, tokens.key(token), person, [], None)
                    self._file(person).write_text(token, encoding="ascii")
                    self._file(person).chmod(0o600)

    async def decide(self, db: Database) -> int:
        """Decide what is pending; how many decisions were taken."""
        pending = await find(db, "pending", _AT_ONCE)
        for request in pending:
            stolen = request.payload["request"]["transaction"] in self._planted
            answer, words = ("approve", "It was not me.") if stolen else ("reject", "That was me.")
            token = self._file(next(self._turns)).read_text(encoding="ascii")
            try:
                await decide(db, token, request.id, answer, request.hash, comment=f"The cardholder says: {words}")
            except ConflictError:
                continue
        return len(pending)

    def _file(self, person: str) -> Path:
        return self._people / f"{person}.token"
