"""Text from models and users, shown so that it can do nothing to a terminal and pass for nothing of ours."""


def clean(text: str) -> str:
    """The text with everything that a terminal would obey, or hide, spelled as an escape."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def for_sheet(text: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def one_line(text: str) -> str:
    """The text with line breaks and tabs as escapes too, for where a second line could pass for ours."""
    return clean(text).replace("\n", "\\n").replace("\t", "\\t")
