"""The reports there are: SQL files, and what their headers say."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import MappingProxyType

from shared.errors import InputError, NotFoundError

FILES = Path(__file__).parent
KEYS: Mapping[str, str] = MappingProxyType(
    {
        "total": "'total'",
        "workflow": "Workflow",
        "version": "Version",
        "tenant": "Tenant",
        "tier": "Tier",
        "runtime": "Runtime",
        "provider": "Provider",
        "model": "Model",
        "day": "toDate(Timestamp, {zone})",
        "week": "toMonday(toDate(Timestamp, {zone}))",
        "month": "toStartOfMonth(toDate(Timestamp, {zone}))",
    }
)
TIMES = ("day", "week", "month")
_FIELD = re.compile(r"-- (title|units|by|labels|default|chart|n|source|since): +(.+)")
_DAYS = re.compile(r"(\d+)d")
_PARAMETERS = {
    "since": "{since:DateTime64(9, 'UTC')}",
    "until": "{until:DateTime64(9, 'UTC')}",
    "zone": "{zone:String}",
}


@dataclass(frozen=True, slots=True)
class Report:
    """One file. `units` by column, `keys` their SQL by name; `chart` is a kind and its columns.

    `n` is the column that counts what the figures are about: summed, or with `max` or `most` before it the largest,
    where rows are about the same things (`most`: not quite).
    """

    name: str
    title: str
    units: Mapping[str, str]
    keys: Mapping[str, str]
    default: tuple[str, ...]
    chart: tuple[str, ...]
    n: tuple[str, ...]
    sources: tuple[str, ...]
    since: timedelta
    notes: tuple[str, ...]
    sql: str

    def query(self, by: Sequence[str], parameters: Mapping[str, str] = _PARAMETERS) -> str:
        """The SQL grouped by these keys; `parameters` is what stands for the period's ends and the zone."""
        text = self.sql.replace("{by}", ", ".join(f"{self.keys.get(key, key)} AS {key}" for key in by))
        text = text.replace("{keys}", ", ".join(by))
        for name, value in parameters.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def choose(self, by: Sequence[str] = ()) -> tuple[str, ...]:
        """These keys, or the report's own when there are none. Raises InputError for one that it does not have."""
        if unknown := [key for key in by if key not in self.keys]:
            may = f"It goes by {', '.join(self.keys)}" if self.keys else "It has no keys"
            raise InputError(f"report {self.name} does not go by {unknown[0]!r}", fix=may)
        return tuple(dict.fromkeys(by)) or self.default


def names() -> list[str]:
    """The reports there are."""
    return sorted(path.stem for path in FILES.glob("*.sql"))


@cache
def find(name: str) -> Report:
    """The report of that name. Raises NotFoundError."""
    if name not in names():
        raise NotFoundError(f"there is no report {name!r}", fix=f"Reports: {', '.join(names())}")
    return read(name, (FILES / f"{name}.sql").read_text(encoding="utf-8"))


def read(name: str, text: str) -> Report:
    """A file's header and query. Raises ValueError for what the header lacks or cannot mean."""
    said: dict[str, str] = {}
    for line in text.splitlines():
        if match := _FIELD.fullmatch(line):
            said[match[1]] = f"{said[match[1]]}, {match[2]}" if match[1] in said else match[2]
    if missing := {"title", "units", "chart", "n", "source"} - said.keys():
        raise ValueError(f"report {name} does not say its {min(missing)}")
    keys = dict(_key(part) for part in _parts(said.get("by", "")))
    labels = tuple(_parts(said.get("labels", "")))
    default = labels or tuple(_parts(said.get("default", ""))) or tuple(keys)[:1]
    days = _DAYS.fullmatch(said.get("since", "7d"))
    if days is None or not (labels or set(default) <= keys.keys()):
        raise ValueError(f"report {name} has a wrong since or default")
    units = dict(_unit(part) for part in _parts(said["units"]))
    chart, n = tuple(said["chart"].split()), tuple(said["n"].split())
    if unknown := {*chart[1:], n[-1]} - units.keys():
        raise ValueError(f"report {name} shows {min(unknown)}, which has no unit")
    sources = tuple(_parts(said["source"]))
    sql = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    notes = tuple(line[3:] for line in text.splitlines() if line.startswith("-- ") and not _FIELD.fullmatch(line))
    since = timedelta(days=int(days[1]))
    return Report(name, said["title"], units, keys, default, chart, n, sources, since, notes, sql)


def _parts(text: str) -> list[str]:
    """Split at commas outside parentheses."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def _key(text: str) -> tuple[str, str]:
    name, _, sql = text.partition("=")
    return name.strip(), sql.strip() or KEYS[name.strip()]


def _unit(text: str) -> tuple[str, str]:
    column, unit = text.split(maxsplit=1)
    return column, unit
