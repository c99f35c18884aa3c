"""Reading commits out of a git history, whatever is in it.

The last N commits are those of the first-parent line, so each change is reviewed once. The rules:

- a merge is shown as what it brought to that line: its difference from its first parent;
- the first commit is shown as all it adds; the oldest commits of a shallow clone, whose parents are not
  there, are left out, since everything would look new;
- a commit that changes nothing has an empty diff;
- a renamed file is shown under its new name with only the lines that changed;
- bytes decide what is binary, no attribute: a NUL among the first 8,000 of the file, or 512 MB of it. It is
  named, not shown; so is a submodule, as the two commits it moved between;
- text that is not UTF-8 is shown with U+FFFD in place of what is not; so is a NUL character;
- a line is cut after 400 characters, a file and the message after 20,000; files that would bring a commit over
  60,000 are left out; reading stops at 4 MB;
- a time before 1970 or after 2199, or none that git can read, is shown as the nearest of these.

Whatever was left out is said in the commit's `notes`, and such a commit is not `complete`. The pull request of a
commit is invented: repository `local/<directory name>`, number = the commit's place on the first-parent line,
counted from 1. Only the repository's objects are read: nothing it configures is obeyed or run, no attribute,
external diff, text conversion, hook, replacement or pager, and nothing is fetched.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from examples.code_review.git import Objects, git, has_commits, objects
from examples.code_review.models import Commit
from shared.errors import InputError

LINE_LIMIT = 400  # characters
FILE_LIMIT = 20_000
COMMIT_LIMIT = 60_000
READ_LIMIT = 4_000_000  # bytes
MOST_NOTES = 20
LATEST = int(datetime(2199, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
NAME_LIMIT = 100  # characters, as GitHub has it

_DIFF = ("--root", "-r", "-M", "--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short")
_RECORD = "%H%x00%P%x00%ct%x00%s%x00%B%x00"
_FIELDS = 5
_SUBMODULE = re.compile(r"^(?:index \S+|(?:old|new|new file|deleted file) mode)(?: \d+)* 160000$", re.MULTILINE)
_SECTION = re.compile(rb"^(?=diff --git )", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Selection:
    """The commits to review, oldest first, and what should be said about their choice."""

    commits: tuple[Commit, ...]
    notes: tuple[str, ...] = ()


def last_commits(path: Path, count: int) -> Selection:
    """The last `count` commits of a repository. Raises InputError when `path` is not the top of one."""
    _require_top(path)
    if not has_commits(path):
        return Selection((), (f"{path} has no commit yet",))
    with objects(path) as source:
        line = ("rev-list", "--first-parent", source.head)
        total = int(source.git(*line, "--count"))
        listing = source.git(
            *line, f"--max-count={count}", "--no-commit-header", "--encoding=UTF-8", f"--format={_RECORD}"
        )
        fields = _text(listing).split("\0")[:-1]
        records = [fields[at : at + _FIELDS] for at in range(0, len(fields), _FIELDS)]
        commits = [
            _commit(source, total - place, record)
            for place, record in enumerate(records)
            if record[0].strip() not in source.shallow
        ]
    notes = (f"{path} is a shallow clone: its oldest commits are left out",) if len(commits) < len(records) else ()
    return Selection(tuple(reversed(commits)), notes)


def _name(path: Path) -> str:
    """The invented repository."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name.removesuffix(".git"))[:NAME_LIMIT]
    return f"local/{name if name.strip('.') else 'repository'}"


def _require_top(path: Path) -> None:
    if not path.is_dir():
        raise InputError(f"{path} is not a directory", fix="Name the top directory of a git repository")
    try:
        prefix = _text(git(path, "rev-parse", "--show-prefix")).strip()
    except InputError as error:
        why = "" if "not a git repository" in error.what else f": {error.what}"
        raise InputError(f"{path} is not a git repository{why}", fix="Name one, or leave REPO out") from error
    if prefix:
        raise InputError(f"{path} lies inside a repository", fix="Name the top directory of the repository")


def _commit(source: Objects, number: int, record: list[str]) -> Commit:
    sha, parents, at, subject, message = record[0].strip(), *record[1:]
    diff, missing = _diff(source, sha)
    if len(message.strip()) > FILE_LIMIT:
        missing.insert(0, f"the message is cut after {FILE_LIMIT} characters")
    committed_at, notes = _time(at)
    if len(parents.split()) > 1:
        notes.insert(0, f"a merge of {len(parents.split())} lines, shown against the first")
    return Commit(
        repository=_name(source.path),
        number=number,
        sha=sha,
        subject=_cut_line(subject),
        message=message.strip()[:FILE_LIMIT],
        committed_at=committed_at,
        notes=(*notes, *missing),
        complete=not missing,
        diff=diff,
    )


def _time(seconds: str) -> tuple[datetime, list[str]]:
    """When a commit was made, as far as a calendar has it, and what was wrong with what it says."""
    said = int(seconds) if seconds.isdecimal() and len(seconds) <= 20 else -1
    shown = datetime.fromtimestamp(min(max(said, 0), LATEST), UTC)
    return shown, [] if 0 <= said <= LATEST else [f"its time is none of a calendar, shown as {shown:%Y-%m-%d}"]


def _diff(source: Objects, sha: str) -> tuple[str, list[str]]:
    """The diff as it may be shown, and what is missing from it."""
    raw = source.git("diff-tree", "-p", *_DIFF, "--diff-merges=first-parent", "--no-commit-id", sha, limit=READ_LIMIT)
    notes = [f"reading stopped after {READ_LIMIT} bytes"] if len(raw) >= READ_LIMIT else []
    shown: list[str] = []
    left_out = 0
    for section in (part for part in _SECTION.split(raw) if part.startswith(b"diff --git ")):
        text, complaint = _readable(section)
        if complaint:
            notes.append(f"{text.partition(chr(10))[0].rpartition(' b/')[2]}: {complaint}")
        if sum(map(len, shown)) + len(text) > COMMIT_LIMIT:
            left_out += 1
        else:
            shown.append(text)
    if left_out:
        notes.append(f"{left_out} more file(s) are not shown: the commit is longer than {COMMIT_LIMIT} characters")
    if len(notes) > MOST_NOTES:
        notes = [*notes[:MOST_NOTES], f"and {len(notes) - MOST_NOTES} notes more"]
    return "".join(shown), notes


def _readable(section: bytes) -> tuple[str, str]:
    """One file's diff within its limits, and what was done to it."""
    text, complaints = _text(section).replace("\0", "\ufffd"), []
    if text.encode() != section:
        complaints.append("not UTF-8 throughout")
    if re.search(r"^Binary files ", text, re.MULTILINE):
        complaints.append("binary, not shown")
    if _SUBMODULE.search(text.partition("\n@@")[0]):
        complaints.append("a submodule, its content is not shown")
    lines = [_cut_line(line) for line in text.split("\n")]
    cut = "\n".join(lines)
    if cut != text:
        complaints.append(f"lines cut after {LINE_LIMIT} characters")
    if len(cut) > FILE_LIMIT:
        kept = cut[:FILE_LIMIT].rpartition("\n")[0]
        complaints.append(f"{cut.count(chr(10)) - kept.count(chr(10))} of {len(lines)} lines not shown")
        cut = f"{kept}\n[the rest of this file is not shown]\n"
    return cut, ", ".join(complaints)


def _cut_line(line: str) -> str:
    return line if len(line) <= LINE_LIMIT else f"{line[:LINE_LIMIT]}…"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
