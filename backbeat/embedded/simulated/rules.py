"""What the simulated reviewer finds in a diff. Each rule is one entry below; there is nothing else.

Severities, from least to worst: info, minor, major, critical. Rules look at added lines of program
files only, so a defect that a commit removes is not held against it. In test files nothing is worse
than minor: a password in a test is usually not one.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from backbeat.embedded.simulated.diff import FileDiff, parse

SEVERITIES = ("info", "minor", "major", "critical")
Kind = Literal["line", "design"]

LONG_FUNCTION = 40  # added lines
UNTESTED_FROM = 10  # added lines of program text without any change to a test
WIDE_FROM = 10  # program files in one commit


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark. `line` counts in the new file; 0 means the file, or the commit, as a whole."""

    rule: str
    severity: str
    path: str
    line: int
    message: str
    kind: Kind = "line"

    @property
    def weight(self) -> int:
        """0 for info up to 3 for critical."""
        return SEVERITIES.index(self.severity)


@dataclass(frozen=True, slots=True)
class LineRule:
    """A remark about every added line that matches."""

    name: str
    severity: str
    pattern: re.Pattern[str]
    message: str


def _line(name: str, severity: str, pattern: str, message: str) -> LineRule:
    return LineRule(name, severity, re.compile(pattern), message)


_SQL = r"(?:select\b.+\bfrom\b|insert\s+into\b|update\b.+\bset\b|delete\s+from\b)"

LINE_RULES = (
    _line(
        "credential",
        "critical",
        r"""(?i)(?:password|passwd|secret|api_?key|token)\w*["']?\s*[:=]\s*["'][^"'\s]{8,}["']"""
        r"""|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b""",
        "A credential stands in the code; read it from the environment or a secret store, and change it",
    ),
    _line(
        "sql-from-strings",
        "critical",
        rf"""(?i)\bf["'].*{_SQL}.*\{{|["'].*{_SQL}.*["']\s*(?:\+|%|\.format\()""",
        "SQL is built from strings, so input can become SQL; pass the values as parameters",
    ),
    _line(
        "eval",
        "critical",
        r"(?<![\w.])(?:eval|exec)\(",
        "Text is run as a program; parse it instead",
    ),
    _line(
        "shell",
        "critical",
        r"shell\s*=\s*True|\bos\.(?:system|popen)\(",
        "A shell reads this command, so input can become commands; pass a list of arguments",
    ),
    _line(
        "tls-off",
        "critical",
        r"verify\s*=\s*False|_create_unverified_context",
        "The certificate is not checked, so anybody in between can answer",
    ),
    _line(
        "conflict-marker",
        "critical",
        r"^(?:<{7}|>{7}) ",
        "A conflict marker was committed",
    ),
    _line(
        "bare-except",
        "major",
        r"^\s*except(?:\s+BaseException)?\s*:|^\s*except\s+Exception[^:]*:\s*pass\b",
        "Every error is swallowed here, also those nobody foresaw; name the ones that are expected",
    ),
    _line(
        "mutable-default",
        "major",
        r"^\s*(?:async\s+)?def\s+\w+\(.*=\s*(?:\[\]|\{\})",
        "The default value is shared by all calls; use None and create it inside",
    ),
    _line(
        "unsafe-load",
        "major",
        r"\bpickle\.loads?\(|\byaml\.load\((?!.*Safe)",
        "Loading this format can run code; use one that only holds data",
    ),
    _line(
        "debug-print",
        "minor",
        r"^\s*(?:print|console\.log|breakpoint)\(|\bpdb\.set_trace\(",
        "Left over from debugging; log it or remove it",
    ),
    _line(
        "todo",
        "info",
        r"(?:#|//|/\*).*\b(?:TODO|FIXME|XXX)\b",
        "Something is left to do; is there an issue for it?",
    ),
)

_DEFINITION = re.compile(r"^(\s*)(?:async\s+)?def\s+(\w+)")
_ASSERTION = re.compile(r"^\s*(?:assert\b|self\.assert\w+\(|expect\()")


def long_functions(files: list[FileDiff]) -> Iterator[Finding]:
    """Functions with more than 40 added lines in a row."""
    for file in files:
        name, start, previous, indent = "", 0, 0, 0
        for number, text in [*file.added, (-1, "")]:
            match = _DEFINITION.match(text)
            dedented = bool(text.strip()) and len(text) - len(text.lstrip()) <= indent
            if name and (number != previous + 1 or dedented):
                if previous - start + 1 > LONG_FUNCTION:
                    message = f"{name}() is {previous - start + 1} lines long; say in its parts what they do"
                    yield Finding("long-function", "minor", file.path, start, message, "design")
                name = ""
            if match and not name:
                name, start, indent = match[2], number, len(match[1])
            previous = number


def removed_assertions(files: list[FileDiff]) -> Iterator[Finding]:
    """Test files that lose more assertions than they gain."""
    for file in files:
        lost = sum(bool(_ASSERTION.match(line)) for line in file.removed)
        lost -= sum(bool(_ASSERTION.match(line)) for _, line in file.added)
        if file.is_test and lost > 0:
            message = f"{lost} assertion(s) fewer than before: what did they protect?"
            yield Finding("removed-assertion", "major", file.path, 0, message, "design")


def missing_tests(files: list[FileDiff]) -> Iterator[Finding]:
    """Program text grows by ten lines or more and no test changes."""
    programs = [file for file in files if file.is_code and not file.is_test]
    if sum(len(file.added) for file in programs) >= UNTESTED_FROM and not any(file.is_test for file in files):
        largest = max(programs, key=lambda file: len(file.added))
        message = "New behaviour without a test that would notice its loss"
        yield Finding("missing-tests", "minor", largest.path, 0, message, "design")


def wide_changes(files: list[FileDiff]) -> Iterator[Finding]:
    """Many program files in one commit."""
    programs = [file.path for file in files if file.is_code]
    if len(programs) >= WIDE_FROM:
        message = f"{len(programs)} program files in one commit; could it be several?"
        yield Finding("wide-change", "info", programs[0], 0, message, "design")


DESIGN_RULES: tuple[Callable[[list[FileDiff]], Iterator[Finding]], ...] = (
    long_functions,
    removed_assertions,
    missing_tests,
    wide_changes,
)


def review(files: list[FileDiff]) -> list[Finding]:
    """Every finding of every rule, worst first, then by place."""
    found = [
        Finding(rule.name, _softened(rule.severity, file), file.path, number, rule.message)
        for file in files
        if file.is_code
        for number, text in file.added
        for rule in LINE_RULES
        if rule.pattern.search(text)
    ]
    found += [finding for rule in DESIGN_RULES for finding in rule(files)]
    return sorted(found, key=lambda one: (-one.weight, one.path, one.line, one.rule))


def _softened(severity: str, file: FileDiff) -> str:
    return "minor" if file.is_test and SEVERITIES.index(severity) > SEVERITIES.index("minor") else severity


_OBJECT = re.compile(r"\{[^{}]*\}")


def quoted(text: str) -> list[Finding]:
    """Findings that a prompt hands over as flat JSON objects with path, line, severity and message."""
    found = []
    for match in _OBJECT.finditer(text):
        try:
            one = json.loads(match[0])
            severity, path, line, message = one["severity"], str(one["path"]), int(one["line"]), str(one["message"])
        except (ValueError, KeyError, TypeError):
            continue
        if severity in SEVERITIES:
            found.append(Finding("quoted", severity, path, line, message))
    return found


@dataclass(frozen=True, slots=True)
class Facts:
    """What answers are made of: the prompt's text, the files of its diffs, and the findings."""

    text: str
    files: tuple[FileDiff, ...]
    findings: tuple[Finding, ...]

    @property
    def trivial(self) -> bool:
        """Whether nothing but documentation, white space, names or modes changed."""
        return all(file.is_prose or file.is_blank for file in self.files)

    @property
    def worst(self) -> str | None:
        """The worst severity found."""
        return self.findings[0].severity if self.findings else None

    @property
    def about_code(self) -> bool:
        """Whether the prompt is about a diff at all."""
        return bool(self.files or self.findings)


def read(prompt: str) -> Facts:
    """Read a prompt: what its diffs show, and what findings it quotes; each once."""
    files = parse(prompt)
    seen: dict[tuple[str, int, str], Finding] = {}
    for finding in [*review(files), *quoted(prompt)]:
        seen.setdefault((finding.path, finding.line, finding.message), finding)
    return Facts(prompt, tuple(files), tuple(sorted(seen.values(), key=lambda one: -one.weight)))
