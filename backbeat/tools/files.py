"""Tools that list, read and write files below one directory, and nothing anywhere else.

A path is walked from the root's descriptor a name at a time, no link followed, so nobody can move a part of it under
the walk. Only regular files with one name, on the root's own device, are read or replaced.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from backbeat.tools.function import in_thread, tool, writing_tool
from shared.definitions import Tool
from shared.execution.effects import EffectRefusedError
from shared.execution.tools import ToolError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DEEPEST, _MOST_LISTED = 16, 500


class Written(BaseModel):
    """The arguments of `write_file`."""

    model_config = ConfigDict(extra="forbid")
    path: str = Field(description="Relative, with / between its parts.")
    text: str


def files(root: str | Path, *, write: bool = False, max_bytes: int = 200_000, quota: int = 10_000_000) -> list[Tool]:
    """`list_files` and `read_file` below `root`, and with `write` also `write_file`, which goes through the ledger.

    `max_bytes` bounds one file, `quota` all that lie below the root after a write. The root is opened at each call.
    """
    if max_bytes < 1 or quota < 1:
        raise ValueError("files are bounded by 1 byte at least")
    box = _Box(Path(root), max_bytes, quota)

    def list_files(path: str = "") -> list[dict[str, Any]]:
        """List a directory of files; an empty path is its root."""
        return box.listing(path)

    def read_file(path: str) -> str:
        """Read a text file by its path."""
        return box.read(path).decode(errors="replace").replace("\0", "")

    async def perform(request: dict[str, Any], mark: str) -> dict[str, Any]:
        try:
            await in_thread(lambda: box.write(request["path"], request["text"].encode(), mark))
        except ToolError as error:
            raise EffectRefusedError(error.what, fix=error.fix) from error
        return {"written": request["path"], "bytes": len(request["text"].encode())}

    async def read_back(request: dict[str, Any], _mark: str) -> dict[str, Any] | None:
        text = request["text"].encode()
        try:
            found = await in_thread(lambda: box.read(request["path"]))
        except ToolError:
            return None
        return {"written": request["path"], "bytes": len(text)} if found == text else None

    made = [tool(list_files), tool(read_file)]
    if write:
        told = "Write a text file, in place of what was there."
        made.append(writing_tool("write_file", description=told, args=Written, perform=perform, read_back=read_back))
    return made


class _Box:
    def __init__(self, root: Path, most: int, quota: int) -> None:
        self._root, self._most, self._quota = root, most, quota

    def listing(self, path: str) -> list[dict[str, Any]]:
        with self._directory(_parts(path) if path not in ("", ".") else []) as (directory, device):
            found = []
            for name in sorted(os.listdir(directory))[:_MOST_LISTED]:  # noqa: PTH208  # a descriptor
                what = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if what.st_dev == device and (_plain(what) or stat.S_ISDIR(what.st_mode)):
                    place = "/".join([*_parts(path), name]) if path not in ("", ".") else name
                    kind = "directory" if stat.S_ISDIR(what.st_mode) else "file"
                    found.append({"path": place, "kind": kind, "bytes": what.st_size})
            return found

    def read(self, path: str) -> bytes:
        *above, name = _parts(path)
        with self._directory(above) as (directory, device):
            self._regular(directory, name, device)
            with open(_open(name, _FILE, directory), "rb") as file:  # a descriptor, not a path
                what = os.fstat(file.fileno())
                if not _plain(what) or what.st_dev != device:
                    raise ToolError(f"{path!r} is no regular file with one name")
                found = file.read(self._most + 1)
        if len(found) > self._most:
            raise ToolError(f"{path!r} is larger than {self._most} bytes")
        return found

    def write(self, path: str, text: bytes, mark: str) -> None:
        *above, name = _parts(path)
        if len(text) > self._most:
            raise ToolError(f"{path!r} would be larger than {self._most} bytes")
        with self._directory(above, make=True) as (directory, device):
            there = self._regular(directory, name, device, needed=False)
            if self._used() - there + len(text) > self._quota:
                raise ToolError(f"the files would take more than {self._quota} bytes")
            part = f".{mark}.part"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(_open(part, flags, directory), "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.rename(part, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)

    def _regular(self, directory: int, name: str, device: int, *, needed: bool = True) -> int:
        """The size of a file. Looked at before it is opened, since opening a device may already do something."""
        try:
            what = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError as error:
            if needed:
                raise ToolError(f"there is no file {name!r}") from error
            return 0
        if not _plain(what) or what.st_dev != device:
            raise ToolError(f"{name!r} is no regular file with one name")
        return what.st_size

    @contextmanager
    def _directory(self, parts: list[str], *, make: bool = False) -> Iterator[tuple[int, int]]:
        """The descriptor of a directory below the root, and the root's device."""
        here = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            device = os.fstat(here).st_dev
            for part in parts:
                if make:
                    _make(part, here)
                below = _open(part, _DIRECTORY, here)
                os.close(here)
                here = below
                if os.fstat(here).st_dev != device:
                    raise ToolError(f"{part!r} is on another device")
            yield here, device
        finally:
            os.close(here)

    def _used(self) -> int:
        used = 0
        with self._directory([]) as (here, _):
            for _, _, names, directory in os.fwalk(".", dir_fd=here, follow_symlinks=False):
                found = (os.stat(name, dir_fd=directory, follow_symlinks=False) for name in names)
                used += sum(what.st_size for what in found if stat.S_ISREG(what.st_mode))
        return used


def _parts(path: str) -> list[str]:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ToolError(f"{path!r} is no text") from error
    parts = path.split("/")
    if not path or path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ToolError(f"{path!r} is no relative path of plain names", fix="Give directory/name")
    if len(parts) > _DEEPEST or any(len(part.encode()) > 200 for part in parts):
        raise ToolError(f"the path is too deep or too long: {path[:80]!r}")
    return parts


def _plain(what: os.stat_result) -> bool:
    return stat.S_ISREG(what.st_mode) and what.st_nlink == 1


def _open(name: str, flags: int, directory: int) -> int:
    try:
        return os.open(name, flags, 0o600, dir_fd=directory)
    except OSError as error:
        raise ToolError(f"{name!r} cannot be opened, or is a link: {error.strerror}") from error


def _make(name: str, directory: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        return
    except OSError as error:
        raise ToolError(f"the directory {name!r} cannot be made: {error.strerror}") from error
