"""What a tick may use, and what it did with it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tick may use. Durations in seconds; `max_tasks` None: as many as fit."""

    budget: float = 50.0
    grace: float = 30.0
    max_tasks: int | None = None
    concurrency: int = 16
    lease: float = 60.0


@dataclass(slots=True)
class Report:
    """What one tick did. `hanging` names tasks that would not end: the process must not wait for them."""

    claimed: int = 0
    settled: int = 0
    refused: int = 0
    recovered: int = 0
    stopped: str = ""
    hanging: list[str] = field(default_factory=list)
