"""Sessions by id: a connection kept between requests, for temporary tables and SET."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shared import clock

MOST_SESSIONS = 200
MOST_SECONDS = 3600.0


class SessionRef(NamedTuple):
    """What a request says of its session: whose it is, how long it is kept, whether it must exist or ends now."""

    user: str
    name: str
    seconds: float = 60.0
    must_exist: bool = False
    close: bool = False


@dataclass(slots=True)
class _Kept:
    connection: Any
    until: float
    busy: threading.Lock = field(default_factory=threading.Lock)


class SessionBusyError(Exception):
    """Another request of the same session is at work."""


class SessionUnknownError(Exception):
    """The session must exist and does not."""


class Sessions:
    """Connections by user and name. The ones that rested longest go first when there are too many."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect, self._kept, self._lock = connect, dict[tuple[str, str], _Kept](), threading.Lock()

    @contextmanager
    def use(self, ref: SessionRef) -> Iterator[Any]:
        """The session's connection, for this request alone. Raises SessionBusyError, SessionUnknownError."""
        key = (ref.user, ref.name)
        with self._lock:
            self._expire()
            kept = self._kept.get(key)
            if kept is None:
                if ref.must_exist:
                    raise SessionUnknownError
                kept = self._kept[key] = _Kept(self._connect(), 0.0)
            if not kept.busy.acquire(blocking=False):
                raise SessionBusyError
        try:
            yield kept.connection
        finally:
            with self._lock:
                kept.until = clock.monotonic() + min(ref.seconds, MOST_SECONDS)
                if ref.close:
                    self._drop(key)
                kept.busy.release()

    def close(self) -> None:
        """End them all."""
        with self._lock:
            for key in list(self._kept):
                self._drop(key)

    def _expire(self) -> None:
        idle = sorted((kept.until, key) for key, kept in self._kept.items() if not kept.busy.locked())
        surplus = len(self._kept) - MOST_SESSIONS + 1
        for position, (until, key) in enumerate(idle):
            if until < clock.monotonic() or position < surplus:
                self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        self._kept.pop(key).connection.close()
