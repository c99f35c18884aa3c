"""One chDB directory behind ClickHouse's semantics of a request: database, settings, readonly, typed errors."""

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import BackbeatError, ConfigError, ConflictError, UnavailableError

_CODE = re.compile(r"Code: (\d+)\. DB::Exception: ")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(
    rb"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"|--[^\n]*|/\*.*?\*/|\w+|[^\w\s]", re.DOTALL
)
_LAST_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*(?:\bSETTINGS\b[^;]*)?;?\s*$", re.IGNORECASE)
_READS = {b"SELECT", b"WITH", b"SHOW", b"DESCRIBE", b"DESC", b"EXISTS", b"EXPLAIN", b"CHECK", b"FROM"}
_INLINE = {b"SELECT", b"WITH", b"VALUES", b"FROM"}
_UNKNOWN_ERROR = 1002
_BAD_ARGUMENTS = 36


class EngineError(Exception):
    """A statement was refused. `code` is ClickHouse's number, the text is what ClickHouse would answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Query:
    """One request. `text` is SQL, followed by the rows when it is `INSERT … FORMAT name`."""

    text: bytes
    format: str = "TabSeparated"
    database: str = ""
    readonly: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What one request answered. `format` is None when the statement has no result set."""

    body: bytes = b""
    format: str | None = None
    read_rows: int = 0
    written_rows: int = 0


class Engine:
    """Owns a chDB directory until `close`; safe to use from several threads.

    A connection costs 0.1 ms, so every request takes a fresh one and its settings reach no other request.
    """

    def __init__(self, path: Path) -> None:
        try:
            from chdb.state.sqlitelike import connect
        except ImportError as error:
            raise ConfigError("the package chdb is not installed", fix="pip install 'backbeat[embedded]'") from error
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._connect, self._path, self.version = connect, str(path.resolve()), ""
        try:
            self._anchor = connect(self._path)
        except RuntimeError as error:
            raise _not_opened(path, error) from error
        self.version = self.execute(Query(b"SELECT version()")).body.decode().strip()

    def close(self) -> None:
        """Let go of the directory."""
        self._anchor.close()

    def execute(self, query: Query) -> Result:
        """Run one statement. Raises EngineError."""
        with self._session(query) as connection:
            insert = split_insert(query.text)
            if insert is None:
                return _run(connection, query)
            with _as_file(insert.rows) as path:
                sql = f"{insert.into} FROM INFILE '{path}' {insert.settings} FORMAT {insert.format}"
                return Result(written_rows=connection.query(sql).rows_written())

    @contextmanager
    def _session(self, query: Query) -> Iterator[Any]:
        connection = self._connect(self._path)
        try:
            if query.database:
                connection.query(f"USE {_quoted(query.database, '`')}")
            settings = dict(query.settings) | ({"readonly": "2"} if query.readonly else {})
            if settings:
                connection.query("SET " + ", ".join(_assignment(name, value) for name, value in settings.items()))
            yield connection
        except (RuntimeError, UnicodeDecodeError) as error:
            raise self._refused(str(error)) from error
        finally:
            connection.close()

    def _refused(self, text: str) -> EngineError:
        found = _CODE.search(text)
        code = int(found[1]) if found else _UNKNOWN_ERROR
        text = text[found.start() :].strip() if found else f"Code: {code}. DB::Exception: {text}"
        return EngineError(code, text if "(version " in text[-40:] else f"{text} (version {self.version})")


class Insert(NamedTuple):
    """`INSERT INTO … [SETTINGS …] FORMAT …`, and the rows that stood behind it."""

    into: str
    settings: str
    format: str
    rows: bytes


def split_insert(text: bytes) -> Insert | None:
    """Take an insert apart that carries its rows; None for every other statement."""
    depth, before, start, settings = 0, b"", 0, 0
    for token in _TOKEN.finditer(text):
        word = token[0].upper()
        if word.startswith((b"--", b"/*")):
            continue
        depth += (word == b"(") - (word == b")")
        if (not before and word != b"INSERT") or (depth == 0 and word in _INLINE):
            return None
        if depth == 0 and before == b"FORMAT":
            cut = settings or start
            rows = re.sub(rb"\A[ \t]*\r?\n?", b"", text[token.end() :], count=1)
            return Insert(text[:cut].decode(), text[cut:start].decode(), token[0].decode(), rows)
        if depth == 0 and word == b"SETTINGS":
            settings = token.start()
        before, start = word, token.start()
    return None


@contextmanager
def _as_file(rows: bytes) -> Iterator[str]:
    """Rows as a file in memory. chDB's own streaming insert does not report that a materialized view failed."""
    handle = os.memfd_create("rows", os.MFD_CLOEXEC)
    try:
        remaining = memoryview(rows)
        while remaining:
            remaining = remaining[os.write(handle, remaining) :]
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


def _run(connection: Any, query: Query) -> Result:
    answer = connection.query(query.text.decode(), query.format, params=dict(query.params))
    words = (token[0].upper() for token in _TOKEN.finditer(query.text))
    first = next((word for word in words if word[:1].isalpha()), b"")
    named = _LAST_FORMAT.search(query.text[-500:])
    shown = (named[1].decode() if named else query.format) if first in _READS else None
    return Result(answer.bytes(), shown, answer.storage_rows_read(), answer.rows_written())


def _quoted(text: str, mark: str) -> str:
    return mark + text.replace("\\", "\\\\").replace(mark, "\\" + mark) + mark


def _assignment(name: str, value: str) -> str:
    if not _SETTING.fullmatch(name):
        message = f"Code: {_BAD_ARGUMENTS}. DB::Exception: {name!r} is not the name of a setting. (BAD_ARGUMENTS)"
        raise EngineError(_BAD_ARGUMENTS, message)
    return f"{name} = {_quoted(value, chr(39))}"


def _not_opened(path: Path, error: Exception) -> BackbeatError:
    """chDB writes the owner's pid into its status file, and holds a lock on it while that process lives."""
    try:
        with (path / "status").open() as status:
            facts = dict(line.split(": ", 1) for line in status.read().splitlines() if ": " in line)
            try:
                fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, since = facts.get("PID", "?"), facts.get("Started at", "?")
                return ConflictError(
                    f"the ClickHouse directory {path} is held by process {pid}{_command(pid)} since {since} UTC",
                    fix="Only one process may own it: use that server, or stop it first",
                )
    except OSError:
        pass
    return UnavailableError(f"the ClickHouse directory {path} cannot be opened: {str(error).splitlines()[0]}")


def _command(pid: str) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return f" ({b' '.join(words).decode(errors='replace').strip()})"
