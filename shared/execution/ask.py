"""What an author asks of a model."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from shared.db.text import clean
from shared.domain.outcome import Dead
from shared.execution.interrupt import Interrupt
from shared.llm.structured import json_schema

LONGEST_KEY = 500  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question; `key` names the call within its task and must not depend on time or chance.

    `output` is a Pydantic model, a raw JSON Schema, or None for plain text. `escalate`: what is invalid twice goes to
    the next tier up. `batch`: it waits for a batch, where its route can do that (None: where the route says so). The
    rest is set on the way: a `final` answer is not kept when invalid, nor a `longer` one when cut off again; `window`
    is what it needs.
    """

    key: str
    output: type[BaseModel] | Mapping[str, Any] | None
    prompt: str
    system: str = ""
    tier: str
    max_output_tokens: int = 1024
    grows: bool = False  # its prompt begins with the whole one of a call before
    escalate: bool = True
    batch: bool | None = None
    final: bool = False
    longer: bool = False
    window: int = 0

    @property
    def schema(self) -> dict[str, Any] | None:
        """As it is sent."""
        return None if self.output is None else json_schema(self.output)

    @property
    def request_hash(self) -> str:
        """What must be equal for a recorded answer to count as an answer to this."""
        body = [self.tier, self.system, self.prompt, self.schema, self.max_output_tokens]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def check(self) -> None:
        """A key that Postgres cannot store would be refused at every attempt: raises Interrupt with Dead."""
        size = len(self.key.encode("utf-8", "surrogatepass"))
        if not 0 < size <= LONGEST_KEY:
            error = f"a call's key has 1 to {LONGEST_KEY} bytes, this one {size}: {self.key[:60]!r}"
        elif clean(self.key) != self.key:
            error = f"a call's key holds NUL or a lone surrogate: {self.key[:60]!r}"
        else:
            return
        raise Interrupt(Dead("invalid_key", error))
