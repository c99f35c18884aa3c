"""One chDB directory behind ClickHouse's semantics of a request: database, settings, readonly, typed errors, cancel."""

import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from backbeat.embedded.clickhouse_guard import guarded
from backbeat.embedded.clickhouse_query import EngineError, Query, Result, refusal
from backbeat.embedded.clickhouse_sessions import SessionBusyError, Sessions, SessionUnknownError
from shared.errors import BackbeatError, ConfigError, ConflictError, UnavailableError

_CODE = re.compile(r"Code: (\d+)\. DB::Exception: ")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(
    rb"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"|--[^\n]*|/\*.*?\*/|\w+|[^\w\s]", re.DOTALL
)
_LAST_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*(?:\bSETTINGS\b[^;]*)?;?\s*$", re.IGNORECASE)
_READS = {b"SELECT", b"WITH", b"SHOW", b"DESCRIBE", b"DESC", b"EXISTS", b"EXPLAIN", b"CHECK", b"FROM"}
_INLINE = {b"SELECT", b"WITH", b"VALUES", b"FROM"}
_KILL = re.compile(rb"\s*KILL\s+QUERY\b", re.IGNORECASE)
_QUERY_ID = re.compile(rb"\bquery_id\b")
_UNKNOWN_ERROR = 1002


def new_tag(query_id: str) -> str:
    """A name for one run of a statement: chDB gives it an id of its own, and two clients may choose the same."""
    return f"{uuid.uuid4().hex} {query_id}"


class Engine:
    """Owns a chDB directory until `close`; safe to use from several threads.

    A connection costs 0.1 ms, so a request takes a fresh one and its settings reach no other request; one that
    names a session shares its connection with the others of that session.
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
        self._sessions = Sessions(lambda: connect(self._path))
        self.version = self.execute(Query(b"SELECT version()")).body.decode().strip()

    def close(self) -> None:
        """End what still runs, and let go of the directory."""
        self.cancel("")
        self._sessions.close()
        self._anchor.close()

    def cancel(self, tag: str) -> bool:
        """End the statement of this tag, every one for ''; False when none runs."""
        which = f"Settings['log_comment'] = {_quoted(tag, chr(39))}" if tag else "Settings['log_comment'] != ''"
        connection = self._connect(self._path)
        try:
            return bool(connection.query(f"KILL QUERY WHERE {which}").bytes())
        except RuntimeError:
            return False
        finally:
            connection.close()

    def execute(self, query: Query) -> Result:
        """Run one statement. Raises EngineError."""
        with self._session(query) as connection:
            if query.analyst:
                return _run(connection, replace(query, text=guarded(connection, query).encode()))
            if _KILL.match(query.text):
                query = replace(query, text=_by_tag(query.text))
            insert = split_insert(query.text)
            if insert is None:
                return _run(connection, query)
            with _as_file(insert.rows) as path:
                sql = f"{insert.into} FROM INFILE '{path}' {insert.settings} FORMAT {insert.format}"
                return Result(written_rows=connection.query(sql).rows_written())

    @contextmanager
    def _session(self, query: Query) -> Iterator[Any]:
        try:
            with self._connection(query) as connection:
                if query.database:
                    connection.query(f"USE {_quoted(query.database, '`')}")
                settings = dict(query.settings) | ({"log_comment": query.tag} if query.tag else {})
                readonly = settings.pop("readonly", "1" if query.analyst else "2" if query.readonly else "0")
                readonly = max(readonly, "2") if query.readonly and not query.analyst else readonly
                if settings:
                    connection.query("SET " + ", ".join(_assignment(name, value) for name, value in settings.items()))
                if readonly != "0":
                    connection.query(f"SET {_assignment('readonly', readonly)}")
                try:
                    yield connection
                finally:
                    if query.session and query.settings and readonly == "0":
                        with suppress(RuntimeError):
                            connection.query("SET " + ", ".join(f"{name} = DEFAULT" for name in query.settings))
        except (RuntimeError, UnicodeDecodeError) as error:
            raise self._refused(str(error)) from error

    @contextmanager
    def _connection(self, query: Query) -> Iterator[Any]:
        # What a connection was told with `readonly` it cannot be told otherwise again.
        if query.session and not query.readonly and query.settings.get("readonly", "0") == "0":
            try:
                with self._sessions.use(query.session) as connection:
                    yield connection
            except SessionBusyError:
                raise refusal(373, "SESSION_IS_LOCKED", f"Session {query.session.name} is locked") from None
            except SessionUnknownError:
                raise refusal(372, "SESSION_NOT_FOUND", f"Session {query.session.name} not found") from None
            return
        connection = self._connect(self._path)
        try:
            yield connection
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


def _by_tag(text: bytes) -> bytes:
    """KILL QUERY with the ids that clients gave; an id of chDB's own is left for who names it in another way."""
    return _QUERY_ID.sub(b"substring(Settings['log_comment'], 34)", text)


def _quoted(text: str, mark: str) -> str:
    return mark + text.replace("\\", "\\\\").replace(mark, "\\" + mark) + mark


def _assignment(name: str, value: str) -> str:
    if not _SETTING.fullmatch(name):
        raise refusal(36, "BAD_ARGUMENTS", f"{name!r} is not the name of a setting")
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
