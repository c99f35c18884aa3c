"""Running git on a repository nobody vouches for: nothing it configures is obeyed, nothing is fetched or asked."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shared.errors import InputError

_OPTIONS = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.pager=cat",
    "core.quotePath=false",
    "core.attributesFile=/dev/null",
    "core.commitGraph=false",
    "safe.bareRepository=all",
)
_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "LC_ALL": "C",
}
_OURS = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1"}


def git(
    path: Path,
    *arguments: str,
    limit: int = -1,
    stdin: "IO[bytes] | int" = subprocess.DEVNULL,
    environment: Mapping[str, str] = {},
) -> bytes:
    """What one git command prints, up to `limit` bytes. Raises InputError with git's own words."""
    # A hook or an outer git may have set GIT_DIR and the like, which would answer for another repository.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    options = [part for option in _OPTIONS for part in ("-c", option)]
    command = ["git", *options, "-C", str(path), *arguments]
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**inherited, **_ENVIRONMENT, **environment},
            )
        except FileNotFoundError as error:
            raise InputError("git is not installed", fix="Install it, for example: apt-get install git") from error
        with process:
            output: bytes = process.stdout.read(limit) if process.stdout else b""
            cut = len(output) == limit
            if cut:
                process.kill()
        if process.returncode and not cut:
            errors.seek(0)
            words = errors.read(4000).decode("utf-8", "replace").strip().partition("\n")[0]
            raise InputError(words.removeprefix("fatal: ") or f"git ended with {process.returncode}")
    return output


@dataclass(frozen=True, slots=True)
class Objects:
    """What a repository holds, read through an empty repository of ours.

    So nothing beside the objects counts: no attributes, configuration, grafts, replacements or remotes.
    `shallow` are the commits whose parents a shallow clone left behind.
    """

    path: Path
    head: str
    shallow: frozenset[str]
    _through: Path
    _store: str

    def git(self, *arguments: str, limit: int = -1) -> bytes:
        """As `git`. Raises InputError also where an object is missing."""
        environment = {**_OURS, "GIT_DIR": str(self._through), "GIT_OBJECT_DIRECTORY": self._store}
        try:
            return git(self._through, *arguments, limit=limit, environment=environment)
        except InputError as error:
            what = f"{self.path} is a partial clone, or damaged: {error.what}"
            raise InputError(what, fix="Clone it again, without --filter") from error


@contextlib.contextmanager
def objects(path: Path) -> Iterator[Objects]:
    """Read the objects of a repository that has commits. Raises InputError where git cannot."""
    asked = ("--path-format=absolute", "--git-path", "objects", "--git-path", "shallow", "--show-object-format", "HEAD")
    *names, kind, head = os.fsdecode(git(path, "rev-parse", *asked)).removesuffix("\n").split("\n")
    half = len(names) // 2  # a directory's name may have line ends in it, and both have the same
    store, file = "\n".join(names[:half]), Path("\n".join(names[half:]))
    cut = file.read_text(encoding="ascii") if file.is_file() else ""
    with tempfile.TemporaryDirectory(prefix="backbeat-") as space:
        through = Path(space)
        git(through, "init", "--quiet", "--bare", "--template=", f"--object-format={kind}", environment=_OURS)
        if cut:
            (through / "shallow").write_text(cut, encoding="ascii")
        yield Objects(path, head, frozenset(cut.split()), through, store)


def has_commits(path: Path) -> bool:
    """Whether HEAD names a commit; false also where git finds no repository."""
    try:
        return bool(git(path, "rev-parse", "--verify", "--quiet", "HEAD"))
    except InputError:
        return False
