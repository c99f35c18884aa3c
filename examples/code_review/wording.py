"""What a model wrote about somebody's diff, made fit to be posted.

Either may have been talked into anything, so nothing in it may act: no HTML and no comment that looks like our
marker, no mention, no reference to an issue, no link. Each is broken by an invisible character (U+200B) behind
its first one, so that people read what was written.
"""

import re

LIMIT = 60_000  # characters of one text; GitHub takes 65,536, and the marker is still to come
_ACTS = re.compile(
    r"<(?=[!/?a-z])|@(?=\w)|#(?=\d)|\bgh-(?=\d)|&(?=[#\w])|/(?=/)|\bwww(?=\.)|\](?=[(:\[])", re.IGNORECASE
)
_CUT = "\n\n[the rest is left out: it is longer than GitHub takes]"


def harmless(text: str) -> str:
    """The same text, where nothing acts."""
    return _ACTS.sub("\\g<0>\u200b", text)


def line(text: str) -> str:
    """Harmless, and on one line, so that it starts no heading, list or block of its own."""
    return harmless(" ".join(text.split()))


def name(text: str, most: int = 200) -> str:
    """A path as code, on one line."""
    shown = line(text).replace("`", "'")
    return f"`{shown if len(shown) <= most else shown[:most] + '…'}`"


def fitted(text: str) -> str:
    """As much of it as GitHub takes, and a word about it if that is not all."""
    return text if len(text) <= LIMIT else text[: LIMIT - len(_CUT)] + _CUT
