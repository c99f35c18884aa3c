"""Files of a stack: written whole or not at all, secrets for their owner only."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from shared.errors import ConfigError, UnavailableError

_OF_A_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file atomically."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def secret(path: Path) -> str:
    """The password this file holds; generated (192 bits, URL-safe, mode 0600) the first time."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8").strip()
    word = secrets.token_urlsafe(24)
    write(path, word + "\n", 0o600)
    return word


@contextlib.contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Turn the operating system's refusals into lines for a person: disk full, not writable, not there."""
    try:
        yield
    except OSError as error:
        place = error.filename or directory
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(place) from error
        if error.errno not in _OF_A_PATH:
            raise
        raise ConfigError(f"{place}: {error.strerror}", fix="Name a directory you may write with --dir") from error


def no_space(place: Path | str) -> UnavailableError:
    """The disk is full."""
    return UnavailableError(f"no space left on the disk of {place}", fix="Free some, or use another --dir")
