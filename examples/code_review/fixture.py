"""A repository of 12 commits whose defects are known, so that what a review decides about it can be foreseen.

`fixture.fast-import` is its history as text: authors, dates and contents are fixed, so the hashes are too. Five
commits block (3, 5, 7, 10, 11), three are trivial (2, 4, 12), the others are ordinary.
"""

import tempfile
from pathlib import Path

from examples.code_review.git import git, has_commits
from shared.errors import InputError

HEAD = "0e3dabbc6a0a353896ca08034027cb89d7c61346"
COMMITS = 12
BLOCKING = (3, 5, 7, 10, 11)
TRIVIAL = (2, 4, 12)
_STREAM = Path(__file__).with_name("fixture.fast-import")


def build(directory: Path) -> Path:
    """Create the bare repository `directory`, or find it already there; returns it.

    Raises InputError when something else stands there, or git cannot make it.
    """
    if directory.exists():
        if _head(directory) != HEAD:
            raise InputError(f"{directory} is not the fixture repository", fix="Remove it")
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its place and moved there, so that a killed builder leaves no half of a history.
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fixture-") as space:
        made = Path(space) / "repository"
        made.mkdir()
        git(made, "init", "--quiet", "--bare", "--template=", "--object-format=sha1", "--initial-branch=main")
        with _STREAM.open("rb") as stream:
            git(made, "fast-import", "--quiet", stdin=stream)
        if _head(made) != HEAD:
            raise InputError(f"{_STREAM} gives another history than {HEAD}", fix="Restore the file")
        made.rename(directory)
    return directory


def _head(directory: Path) -> str:
    return git(directory, "rev-parse", "HEAD").decode().strip() if has_commits(directory) else ""
