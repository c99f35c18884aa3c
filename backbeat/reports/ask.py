"""One report over one period, asked of ClickHouse."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from backbeat.clickhouse import session
from backbeat.reports.catalog import Report
from shared import clock
from shared.errors import SchemaError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_DECIMAL = re.compile(r"Decimal\(\d+, (\d+)\)")
_NO_VIEW = 46  # a view with parameters is called like a function
_EXACT = {"output_format_json_quote_decimals": 1, "output_format_json_quote_64bit_integers": 0}
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` up to and without `until`; days and weeks are those of `zone`, a name of the tz database."""

    since: datetime
    until: datetime
    zone: str = "UTC"

    @classmethod
    def last(cls, length: timedelta) -> "Period":
        """Up to now."""
        return cls((now := clock.wall()) - length, now)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a report says. Money is Decimal, what is unknown is None.

    `by` are the keys, which are the first columns. `watermark` is when the newest record begins, of the source that is
    furthest behind, None without any; `empty` are the sources that have no records at all.
    """

    report: Report
    period: Period
    by: tuple[str, ...]
    columns: tuple[str, ...]
    rows: list[Row]
    watermark: datetime | None
    empty: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """How many things the figures are about."""
        counts = [count or 0 for count in self.column(self.report.n[-1])]
        return max(counts, default=0) if len(self.report.n) > 1 else sum(counts)

    def column(self, name: str) -> list[Any]:
        """One column's values."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]

    def records(self) -> list[dict[str, Any]]:
        """The rows by column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def ask(
    client_or_url: "Client | str",
    report: Report,
    period: Period,
    by: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Answer:
    """Ask. Raises InputError for keys that the report does not have, and what `session` raises."""
    from clickhouse_connect.driver.exceptions import DatabaseError

    keys = report.choose(by)
    opened = session(client_or_url) if isinstance(client_or_url, str) else nullcontext(client_or_url)
    given = {"since": period.since, "until": period.until, "zone": period.zone}
    with opened as client:
        # JSON names the columns even when there are no rows, and keeps decimals exact.
        try:
            said = client.raw_query(report.query(keys), given, {**_EXACT, **(settings or {})}, fmt="JSONCompact")
        except DatabaseError as error:
            if error.code != _NO_VIEW:
                raise
            raise SchemaError("ClickHouse lacks a view of the reports", fix="Run `backbeat migrate up`") from error
        reach = {source: _reach(client, source) for source in report.sources}
    answer = json.loads(said)
    types = [column["type"] for column in answer["meta"]]
    rows = [tuple(map(_typed, types, row)) for row in answer["data"]]
    watermark = min((moment for moment in reach.values() if moment), default=None)
    empty = tuple(source for source, moment in reach.items() if moment is None)
    return Answer(report, period, keys, tuple(column["name"] for column in answer["meta"]), rows, watermark, empty)


def _reach(client: "Client", source: str) -> datetime | None:
    """When the newest record of a table begins."""
    rows = client.query(
        "SELECT toUnixTimestamp64Micro(max(Timestamp)), count() FROM {source:Identifier}", {"source": source}
    ).result_rows
    micros, count = rows[0]
    return datetime.fromtimestamp(micros / 1e6, UTC) if count else None


def _typed(type_name: str, value: Any) -> Any:
    if value is None:
        return None
    if decimal := _DECIMAL.search(type_name):
        return Decimal(value).quantize(Decimal(1).scaleb(-int(decimal[1])))
    if "Float" in type_name:
        return float(value)
    return date.fromisoformat(value) if "Date" in type_name and len(str(value)) == 10 else value
