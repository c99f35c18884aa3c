"""How a task's attempt can end. Each is a value; none is an exception."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Succeed:
    """Done. `result` is JSON and is what the same payload will answer from now on."""

    result: Any


@dataclass(frozen=True, slots=True)
class Retry:
    """Failed this time; the attempt counts. Runs again after `after` seconds, or dies when attempts are used up."""

    error_class: str
    error: str
    after: float = 0.0  # seconds


@dataclass(frozen=True, slots=True)
class Release:
    """Nothing was provably done (refused, stopped, out of time): run again, the attempt does not count."""

    reason: str
    after: float = 0.0  # seconds


@dataclass(frozen=True, slots=True)
class Snooze:
    """Not yet: look again at `until`; the attempt does not count."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait until somebody or something lifts `reason`/`key` (a budget, a route, a version); no attempt counts."""

    reason: str
    key: str
    until: datetime | None = None
    why: str | None = None  # for people, where the key does not say it


@dataclass(frozen=True, slots=True)
class Dead:
    """Will not work however often it is tried; a person must look."""

    error_class: str
    error: str


@dataclass(frozen=True, slots=True)
class Escalate:
    """Continue as an orchestrated workflow. `result` is what the task itself found."""

    workflow: str
    input: dict[str, Any]
    result: Any = field(default=None)


@dataclass(frozen=True, slots=True)
class Child:
    """A task to be made: a definition's name and version, and its payload as JSON."""

    workflow: str
    version: int
    payload: Any


@dataclass(frozen=True, slots=True)
class FanOut:
    """Done, and other tasks go on: made in the transaction that ends this one, of its origin, tenant and class."""

    children: Sequence[Child]
    result: Any = None


Outcome = Succeed | Retry | Release | Snooze | Hold | Dead | Escalate | FanOut
