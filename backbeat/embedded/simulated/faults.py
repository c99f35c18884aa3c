"""What goes wrong on purpose.

A fault is written as a kind, optionally with settings: `429;retry-after=2;code=ramp_limit_exceeded`.

    400 … 599             that status with the service's own error body; `after=1`: the work is done first
    delay=3               the answer is 3 seconds later
    disconnect-before     the connection is cut before anything is done
    disconnect-after      everything is done (and billed, or recorded), then the connection is cut
    disconnect-mid        as before, but half of the answer arrives
    truncated             the text stops half-way, nothing says so (a stream ends without its last events)
    invalid-json          the text is not JSON
    wrong-schema          the text is JSON of another shape
    refusal, length       the model refuses, or stops at its output limit

One request asks for it with the header `x-simulated-fault`. `--faults` takes rates
(`0.1 429;retry-after=1, 0.02 disconnect-after`) or a file of JSON lines, where the first line that
applies wins: `{"fault": "529", "where": {"schema": "Comments"}, "skip": 1, "times": 2, "rate": 0.5}`.
`where` holds regular expressions over method, path, model, schema and call.
"""

import json
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from shared.errors import ConfigError

HEADER = "x-simulated-fault"
KINDS = (
    "delay",
    "disconnect-before",
    "disconnect-after",
    "disconnect-mid",
    "truncated",
    "invalid-json",
    "wrong-schema",
    "refusal",
    "length",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong; `text` is how it was written. An empty one is no fault."""

    text: str = ""
    kind: str = ""
    status: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a fault. Raises ConfigError naming it."""
        head, *rest = (part.strip() for part in text.strip().split(";"))
        kind, _, value = head.partition("=")
        settings = dict(part.partition("=")[::2] for part in rest)
        if kind == "delay":
            settings["seconds"] = value
        status = int(kind) if re.fullmatch(r"[45]\d\d", kind) else 0
        if not status and kind not in KINDS:
            raise ConfigError(f"fault {text!r} is unknown", fix=f"Use a status or one of {', '.join(KINDS)}")
        try:
            float(settings.get("seconds", 0))
        except ValueError as error:
            raise ConfigError(f"fault {text!r} has no number of seconds", fix="Write it as delay=3") from error
        return cls(text.strip(), kind, status, settings)

    @property
    def seconds(self) -> float:
        """How much later the answer comes."""
        return float(self.settings.get("seconds", 0))

    @property
    def refuses(self) -> bool:
        """Whether the request is turned down before any work."""
        return bool(self.status) and not self.after

    @property
    def after(self) -> bool:
        """Whether a status is answered although the work was done."""
        return self.settings.get("after", "0") == "1"


NONE = Fault()


@dataclass(slots=True)
class Rule:
    """A line of a plan. `skip` and `times` count the requests that fit `where`."""

    fault: Fault
    rate: float = 1.0
    where: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    skip: int = 0
    times: int | None = None

    def applies(self, facts: Mapping[str, str], dice: float) -> bool:
        """Whether this request gets the fault; counts it."""
        if not all(pattern.search(facts.get(key, "")) for key, pattern in self.where.items()):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times == 0 or dice >= self.rate:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Plan:
    """Which request gets which fault. Rates are drawn per request from the seed, so a run can be repeated."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = list(rules)

    def pick(self, header: str | None, facts: Mapping[str, str], dice: random.Random) -> Fault:
        """The header's fault, else that of the first rule that applies, else none. Raises ConfigError."""
        if header:
            return Fault.parse(header)
        return next((rule.fault for rule in self._rules if rule.applies(facts, dice.random())), NONE)


def load(source: str | None) -> Plan:
    """A plan from a file of JSON lines, or from `RATE FAULT, RATE FAULT`. Raises ConfigError."""
    if not source:
        return Plan()
    if Path(source).is_file():
        lines = Path(source).read_text(encoding="utf-8").splitlines()
        return Plan(_scripted(line, number) for number, line in enumerate(lines, 1) if line.strip())
    return Plan(_rated(item) for item in source.split(","))


def _rated(item: str) -> Rule:
    rate, _, fault = item.strip().partition(" ")
    try:
        return Rule(Fault.parse(fault), float(rate))
    except ValueError as error:
        raise ConfigError(f"fault {item!r} has no rate", fix="Write it as 0.1 429;retry-after=1") from error


def _scripted(line: str, number: int) -> Rule:
    try:
        entry: dict[str, Any] = json.loads(line)
        where = {key: re.compile(value) for key, value in entry.get("where", {}).items()}
        rate, skip, times = entry.get("rate", 1.0), entry.get("skip", 0), entry.get("times")
        return Rule(Fault.parse(entry["fault"]), rate, where, skip, times)
    except (ValueError, KeyError, AttributeError, TypeError, re.error) as error:
        what = f"line {number} of the fault plan is wrong: {error!r}"
        raise ConfigError(what, fix='Write it as {"fault": "529", "times": 1}') from error
