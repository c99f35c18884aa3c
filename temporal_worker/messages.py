"""What crosses between workflows and activities. Ids and states only: contents stay in Postgres, out of histories.

Pure: workflows import it. Recorded histories contain these shapes, so fields are only ever added, with defaults.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Start:
    """A workflow's input: its row, and the last state that row has seen."""

    id: str
    state_seq: int = 0


@dataclass(frozen=True)
class Standing:
    """How an approval request stands, as Postgres says. `seq`: what was projected while it was being asked for.

    State `pending`: wait for a poke or until time does something; `changes`: a new revision of `revision` is wanted.
    """

    request_id: str
    state: str
    seconds_left: float
    seq: int = 0
    revision: int = 1


@dataclass(frozen=True)
class Submission:
    """What somebody sent as a `decide` signal, unread."""

    request_id: str
    decision_id: str
    body: Any = None


@dataclass(frozen=True)
class EffectReport:
    """How the effect stands: done, revoked, or unknown until a person or a read-back says. `detail` is for people."""

    status: str
    outcome: Any = None
    detail: str = ""


@dataclass(frozen=True)
class Projection:
    """What the workflow says of itself; kept where `seq` is newer than the row's."""

    id: str
    seq: int
    status: str
    waiting_for: str | None = None
    result: Any = None
    error: str | None = None
