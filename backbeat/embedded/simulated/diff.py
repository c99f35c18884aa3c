"""Reading the unified diffs that a prompt contains, wherever they stand in it."""

import re
from dataclasses import dataclass, field

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_CODE = (".py", ".js", ".ts", ".tsx", ".go", ".rs", ".java", ".rb", ".c", ".h", ".cc", ".cpp", ".cs", ".sh", ".sql")
_PROSE = (".md", ".rst", ".txt", ".adoc")
_PROSE_NAMES = ("license", "copying", "notice", "authors", "changelog", "codeowners")


@dataclass(slots=True)
class FileDiff:
    """One file of a diff: its added lines with their numbers in the new file, and its removed lines."""

    path: str
    added: list[tuple[int, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    binary: bool = False

    @property
    def is_code(self) -> bool:
        """Whether the name is that of a program."""
        return self.path.lower().endswith(_CODE)

    @property
    def is_prose(self) -> bool:
        """Whether the name is that of documentation."""
        name = self.path.lower().rpartition("/")[2]
        return name.endswith(_PROSE) or name.partition(".")[0] in _PROSE_NAMES

    @property
    def is_test(self) -> bool:
        """Whether the path says it holds tests."""
        parts = self.path.lower().split("/")
        return any(part in ("test", "tests") for part in parts) or parts[-1].startswith("test_")

    @property
    def is_blank(self) -> bool:
        """Whether no visible character changed: white space, a new name or a new mode."""
        added = "".join(line for _, line in self.added)
        return not self.binary and "".join("".join(self.removed).split()) == "".join(added.split())


def parse(text: str) -> list[FileDiff]:
    """Every file whose diff begins with a `diff --git` line, in order; text between diffs is passed over."""
    files: list[FileDiff] = []
    old_left = new_left = number = 0
    for line in text.split("\n"):
        if line.startswith("diff --git "):
            files.append(FileDiff(_path(line)))
            old_left = new_left = 0
        elif not files:
            continue
        elif old_left > 0 or new_left > 0:
            mark, rest = line[:1], line[1:]
            if mark == "+":
                files[-1].added.append((number, rest))
            elif mark == "-":
                files[-1].removed.append(rest)
            elif mark not in (" ", "", "\\"):
                old_left = new_left = 0  # the diff was cut short here
                continue
            old_left -= mark in ("-", " ", "")
            new_left -= mark in ("+", " ", "")
            number += mark in ("+", " ", "")
        elif line.startswith(("+++ b/", "rename to ")):
            files[-1].path = line.partition("/")[2] if line[0] == "+" else line.removeprefix("rename to ")
        elif line.startswith("Binary files "):
            files[-1].binary = True
        elif match := _HUNK.match(line):
            old_left, number, new_left = int(match[1] or 1), int(match[2]), int(match[3] or 1)
    return files


def _path(header: str) -> str:
    """`diff --git a/NAME b/NAME`: both names are the same unless a rename line follows."""
    names = header.removeprefix("diff --git ")
    if names.endswith('"'):  # git quotes names with control characters or quotes in them
        return names.rpartition(' "b/')[2][:-1]
    return names[len(names) // 2 + 3 :]
