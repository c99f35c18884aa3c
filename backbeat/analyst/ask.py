"""One SQL statement, asked as the analyst: exact numbers back, and one line when ClickHouse refuses."""

import csv
import io
import json
from decimal import Decimal
from typing import Any, NamedTuple

from backbeat.clickhouse import session
from backbeat.visible import for_sheet
from shared.errors import AuthError, BackbeatError, InputError

_DENIED = {164, 497}
_LIMITS = {158, 159, 241, 307, 396}


class Answer(NamedTuple):
    """What a query answered. Decimals are exact, the unknown is None."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def ask(url: str, sql: str) -> Answer:
    """Ask ClickHouse one statement that reads.

    Raises AuthError for one that does not only read, InputError for one that is wrong or too much for the
    analyst's limits, and what `session` raises.
    """
    from clickhouse_connect.driver.exceptions import Error

    statement = sql.strip().rstrip(";").rstrip()
    if not statement:
        raise InputError("there is no SQL to ask", fix="Give one statement, or - to read it from stdin")
    try:
        with session(url) as client:
            # No settings: an analyst on a real server may change none.
            answer = client.raw_query(f"{statement}\nFORMAT JSONCompact")
    except Error as error:
        raise refused(error) from error
    try:
        found = json.loads(answer, parse_float=Decimal)
    except ValueError as error:
        what = "the answer is no table that JSON can carry"
        raise InputError(what, fix="Leave FORMAT and SETTINGS out; ask for columns that are text or numbers") from error
    types = [column["type"] for column in found["meta"]]
    rows = [tuple(_typed(name, value) for name, value in zip(types, row, strict=True)) for row in found["data"]]
    return Answer(tuple(column["name"] for column in found["meta"]), rows)


def refused(error: Any) -> BackbeatError:
    """ClickHouse's refusal of a statement as a line for people."""
    said = " ".join(str(error).replace("HTTPDriver", "").split())
    if "DB::Exception: " in said:
        said = said.rpartition("DB::Exception: ")[2]
    for noise in (" (version ", " (for url ", ". Expected one of", ". Maybe you meant"):
        said = said.partition(noise)[0]
    said = said.strip(" .").removesuffix("FORMAT JSONCompact").rstrip()[:400]
    if error.code in _DENIED:
        return AuthError(
            f"the analyst may only read, within limits: {said}", fix="Ask with one SELECT, without SETTINGS"
        )
    if error.code in _LIMITS:
        return InputError(f"the query takes more than an analyst may: {said}", fix="Narrow it: fewer days, fewer rows")
    return InputError(f"ClickHouse refuses the query: {said}", fix="Correct the SQL")


def as_csv(answer: Answer) -> str:
    """The answer as RFC 4180 text with a header; the unknown is empty, and no cell is a formula."""
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    writer.writerow(answer.columns)
    writer.writerows([["" if cell is None else _flat(cell) for cell in row] for row in answer.rows])
    return sheet.getvalue()


def _flat(cell: Any) -> Any:
    if isinstance(cell, Decimal):
        return format(cell, "f")
    if isinstance(cell, str):
        return for_sheet(cell)
    return json.dumps(cell, default=str, ensure_ascii=False) if isinstance(cell, dict | list) else cell


def _typed(name: str, value: Any) -> Any:
    """Whole numbers that JSON carries as text, and floats, which are no money."""
    bare = name.removeprefix("Nullable(").removeprefix("LowCardinality(")
    if isinstance(value, str) and bare.startswith(("Int", "UInt")):
        return int(value)
    if bare.startswith("Float") and value is not None:
        return float(value)
    return Decimal(value) if bare.startswith("Decimal") and isinstance(value, int | str) else value
