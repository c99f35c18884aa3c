"""Keys and passwords, e-mail addresses and card numbers, taken out of a text that leaves."""

import re

LONGEST = 8_000  # characters
_KEY = r"\b(?:sk|pk|rk|gh[opsu]|xox[abprs]|github_pat|AKIA|eyJ)[\w.-]{12,}|-----BEGIN[\s\S]{,5000}?-----END[^-]*-----"
_NAMED = r"(?i:bearer|passw(?:or)?d|secret|token|api[-_]?key)\W{1,4}[^\s\"',}]{6,}|(?<=://)[^\s/@]+(?=@)"
_KINDS = (
    (re.compile(f"{_KEY}|{_NAMED}"), "[secret]"),
    (re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "[e-mail]"),
    (re.compile(r"\b\d(?:[ -]?\d){12,18}\b"), "[card]"),
)


def redacted(text: str) -> str:
    """The text without them, of 8,000 characters at most. Names and addresses of streets it does not know."""
    text = text[: 2 * LONGEST]  # what is masked is masked whole, also where the text is cut
    for kind, mark in _KINDS:
        text = kind.sub(mark, text)
    return text[:LONGEST]
