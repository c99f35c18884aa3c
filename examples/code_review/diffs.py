"""Taking a unified diff apart: by file, and into groups of files of about the same size."""

import re
from dataclasses import dataclass

_FILE = re.compile(r"^(?=diff --git )", re.MULTILINE)
_HUNK = re.compile(r"@@ -\d+(?:,\d+)? \+(\d+)(?:,\d+)? @@")


@dataclass(frozen=True, slots=True)
class FilePatch:
    """One file's part of a diff."""

    path: str
    text: str

    @property
    def added_lines(self) -> dict[int, str]:
        """The lines a review may comment on: those the patch adds, by their number in the new file."""
        found, number = {}, 0
        for line in self.text.split("\n"):
            if match := _HUNK.match(line):
                number = int(match[1])
            elif number and line[:1] == "+":
                found[number] = line[1:]
                number += 1
            elif number and line[:1] in (" ", ""):
                number += 1
        return found


def split(diff: str) -> list[FilePatch]:
    """The files of a diff, in its order."""
    return [FilePatch(_path(part), part) for part in _FILE.split(diff) if part.startswith("diff --git ")]


def grouped(patches: list[FilePatch], most: int) -> list[list[FilePatch]]:
    """The patches that add something, in at most that many groups of about the same size."""
    groups: list[list[FilePatch]] = [[] for _ in range(most)]
    useful = [patch for patch in patches if patch.added_lines]
    for patch in sorted(useful, key=lambda one: (-len(one.text), one.path)):
        min(groups, key=lambda group: sum(len(one.text) for one in group)).append(patch)
    return [sorted(group, key=lambda one: one.path) for group in groups if group]


def _path(patch: str) -> str:
    header, _, rest = patch.partition("\n")
    if renamed := re.search(r"^rename to (.+)$", rest, re.MULTILINE):
        return renamed[1]
    names = header.removeprefix("diff --git ")
    if names.endswith('"'):  # git quotes names with control characters or quotes in them
        return names.rpartition(' "b/')[2][:-1]
    return names[len(names) // 2 + 3 :]
