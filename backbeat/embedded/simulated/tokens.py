"""A deterministic token count, close enough to a real one to make costs plausible."""

import re

# A token is up to four word characters, or one other visible character; blanks are free.
# So a count never exceeds the number of characters, nor of UTF-8 bytes.
_TOKEN = re.compile(r"\w{1,4}|[^\w\s]")


def count(text: str) -> int:
    """Tokens of a text."""
    return len(_TOKEN.findall(text))


def cut(text: str, limit: int) -> tuple[str, bool]:
    """The text's first `limit` tokens, and whether anything was left off."""
    end = 0
    for number, match in enumerate(_TOKEN.finditer(text)):
        if number == limit:
            return text[:end], True
        end = match.end()
    return text, False


def boundaries(text: str, first: int, step: int) -> list[tuple[int, int]]:
    """(tokens, end offset) of the prefixes of `first`, `first + step`, … tokens."""
    found = []
    for number, match in enumerate(_TOKEN.finditer(text), start=1):
        if number >= first and (number - first) % step == 0:
            found.append((number, match.end()))
    return found
