"""Running git on a repository nobody vouches for: nothing it configures is run, nothing is fetched or asked."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from shared.errors import InputError

_OPTIONS = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.quotePath=false",
    "safe.bareRepository=all",
)
_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}


def git(path: Path, *arguments: str, limit: int = -1, stdin: "IO[bytes] | int" = subprocess.DEVNULL) -> bytes:
    """What one git command prints, up to `limit` bytes. Raises InputError with git's own words."""
    # A hook or an outer git may have set GIT_DIR and the like, which would answer for another repository.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    options = [part for option in _OPTIONS for part in ("-c", option)]
    command = ["git", *options, "-C", str(path), *arguments]
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, env=inherited | _ENVIRONMENT
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


def has_commits(path: Path) -> bool:
    """Whether HEAD names a commit; false also where git finds no repository."""
    try:
        return bool(git(path, "rev-parse", "--verify", "--quiet", "HEAD"))
    except InputError:
        return False
