"""What the simulated grader says to an answer: whether its fields are what was expected."""

import json
import re
from typing import Any


def read(text: str) -> bool | None:
    """Compare `<answered>` with `<expected>` in a prompt, both JSON; None where they are not both there."""
    expected, answered = (_between(name, text) for name in ("expected", "answered"))
    if not isinstance(expected, dict):
        return None
    fields: dict[str, Any] = answered if isinstance(answered, dict) else {}
    return all(name in fields and fields[name] == value for name, value in expected.items())


def _between(name: str, text: str) -> Any:
    found = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    try:
        return json.loads(found[1]) if found else None
    except ValueError:
        return None
