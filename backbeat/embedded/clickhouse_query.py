"""One request to ClickHouse and its answer, as every door and room of the embedded server knows them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from backbeat.embedded.clickhouse_sessions import SessionRef


class EngineError(Exception):
    """A statement was refused. `code` is ClickHouse's number, the text is what ClickHouse would answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def refusal(code: int, name: str, text: str) -> EngineError:
    """An error in ClickHouse's own wording."""
    return EngineError(code, f"Code: {code}. DB::Exception: {text}. ({name})")


@dataclass(frozen=True, slots=True)
class Query:
    """One request. `text` is SQL, followed by the rows when it is `INSERT … FORMAT name`.

    `tag` is what `Engine.cancel` knows it by; an analyst's is looked at before it runs,
    and reads `only` that database, if there is one.
    """

    text: bytes
    format: str = "TabSeparated"
    database: str = ""
    readonly: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    tag: str = ""
    analyst: bool = False
    only: str = ""
    session: SessionRef | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What one request answered. `format` is None when the statement has no result set."""

    body: bytes = b""
    format: str | None = None
    read_rows: int = 0
    written_rows: int = 0
