"""What commands print: data on stdout as a table or as JSON, talk on stderr.

JSON is the stable form. Text from models and users may stand in any cell, so control characters are shown
as escapes and can do nothing to a terminal.
"""

import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from backbeat.money import dollars
from backbeat.visible import clean

if TYPE_CHECKING:
    from rich.table import Table

    from shared.config import Config
    from shared.db.pool import Database

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

PIPE_WIDTH = 100  # columns at which text is folded where there is no terminal to ask; nothing is cut there
GAP = 2  # blanks between columns
NARROW = 10  # columns that a cell keeps however little room there is
_ENDLESS = 10_000  # columns: what is too long has been cut before


def output_option(function: F) -> F:
    """`-o text|json`, passed to the command as `output`."""
    option = click.option(
        *("-o", "--output"),
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="A table for people, or JSON for programs.",
    )
    return option(function)


def emit(
    data: Any,
    *,
    columns: Sequence[str] | None = None,
    output: str = "text",
    title: str | None = None,
    fold: bool = False,
    as_is: bool = False,
) -> None:
    """Print rows (a sequence of mappings or dataclasses) as a table, or one of them as a sheet of its fields.

    `columns` chooses and orders what text shows (JSON has everything). The first is what the next command takes and
    is never cut, nor is any id; where a terminal's room is scarce, text is cut from the right, or with `fold` goes on
    in the next line. Names of columns lose their underscores, unless they are to stand `as_is`. No rows print no
    table, but a line on stderr.
    """
    if output == "json":
        click.echo(json.dumps(_plain(data), indent=2))
    elif _is_rows(data) and not data:
        talk(f"{title}: none" if title else "none")
    elif _is_rows(data):
        rows = [_mapping(row) for row in data]
        _print(_table(rows, columns or list(rows[0]), fold, as_is), title, _ENDLESS)
    else:
        sheet = _mapping(data)
        _print(_sheet({name: sheet.get(name) for name in columns or sheet}), title, _width())


def talk(message: str) -> None:
    """Say something to the person at the terminal."""
    click.echo(clean(message), err=True)


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end."""
    import asyncio

    return asyncio.run(main)


def say_what_is_simulated(config: "Config") -> None:
    """Before figures: answers and costs of simulated providers are made up."""
    made_up = sorted(provider.name for provider in config.providers.values() if provider.simulated)
    if made_up:
        talk(f"note: simulated provider, no real money: {', '.join(made_up)}")


def os_user() -> str:
    """Who the operating system says runs this command: for the record, not for permission."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


@asynccontextmanager
async def database(
    config: "Config", *, owner: bool = False, operator: bool = False, connections: int = 1
) -> AsyncIterator["Database"]:
    """Postgres for the length of a block; as the login that runs the migrations, or as that of people who operate.

    Raises ConfigError when none is configured, UnavailableError when it does not answer: at once, a person waits.
    """
    import psycopg

    from shared.db.pool import connect, translate
    from shared.errors import ConfigError

    url = config.migrator_url if owner else config.operating_url if operator else config.database_url
    if not url:
        raise ConfigError("database_url is not set", fix="Set BACKBEAT_DATABASE_URL, or run `backbeat up` here")
    try:
        await (await psycopg.AsyncConnection.connect(url, connect_timeout=5)).close()
    except psycopg.Error as error:
        raise translate(error, config.postgres_away) from error
    async with connect(url, max_size=connections, patience=5.0, away=config.postgres_away) as db:
        yield db


def _is_rows(data: Any) -> bool:
    return isinstance(data, list | tuple) and not hasattr(data, "_asdict")


def _mapping(row: Any) -> Mapping[str, Any]:
    if is_dataclass(row):
        return {field.name: getattr(row, field.name) for field in fields(row)}
    named: Mapping[str, Any] = row._asdict() if hasattr(row, "_asdict") else row
    return named


def _plain(value: Any) -> Any:
    """JSON: numbers stay exact (a Decimal is a string), moments are ISO 8601 in UTC."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping) or is_dataclass(value) or hasattr(value, "_asdict"):
        return {str(key): _plain(item) for key, item in _mapping(value).items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else str(value)


def _text(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
        case Decimal():
            return dollars(value)
        case float():
            return f"{value:,.2f}"
        case list() | tuple() if all(isinstance(item, str) for item in value):
            return ", ".join(value) or "-"
        case dict() | list() | tuple():
            return json.dumps(_plain(value), indent=2, ensure_ascii=False, sort_keys=True)
        case _:
            return str(value)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], fold: bool, as_is: bool = False) -> "Table":
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    cells = [[clean(" ".join(_text(row.get(name)).split())) for name in columns] for row in rows]
    heads = list(columns) if as_is else [name.replace("_", " ") for name in columns]
    numeric = [all(isinstance(row.get(name), int | float | Decimal | None) for row in rows) for name in columns]
    fixed = [
        number or name == "key" or any(isinstance(row.get(name), datetime | UUID) for row in rows)
        for number, name in zip(numeric, columns, strict=True)
    ]
    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    room = _width() if fold or sys.stdout.isatty() else _ENDLESS
    excess = sum(widths) + GAP * (len(widths) - 1) - room
    for at in range(len(columns) - 1, 0, -1):
        cut = 0 if fixed[at] else min(max(excess, 0), max(widths[at] - NARROW, 0))
        widths[at], excess = widths[at] - cut, excess - cut
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for head, number, width in zip(heads, numeric, widths, strict=True):
        table.add_column(head, justify="right" if number else "left", no_wrap=not fold, width=width)
    for line in cells:
        table.add_row(*map(Text, line))
    return table


def _sheet(values: Mapping[str, Any]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(Text(name.replace("_", " ")), Text(clean(_text(value))))
    return table


def _print(table: "Table", title: str | None, width: int) -> None:
    from rich.console import Console

    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        if title:
            console.print(clean(title), style="bold", markup=False)
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _width() -> int:
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else PIPE_WIDTH
