"""Making any text storable: a model may answer, and an error may say, what Postgres' text and jsonb refuse."""

import json
from typing import Any

from psycopg.types.json import Jsonb


def clean(value: Any) -> Any:
    """The same JSON value with U+FFFD in place of NUL and of lone surrogates, in keys too."""
    match value:
        case str():
            if value.isascii() and "\0" not in value:
                return value
            return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            return {clean(key): clean(item) for key, item in value.items()}
        case list() | tuple():
            return [clean(item) for item in value]
    return value


def storable(value: Any) -> Jsonb:
    """A jsonb parameter that Postgres takes. Raises ValueError and TypeError when `value` is no JSON."""
    text = json.dumps(value)
    # Almost nothing needs cleaning, and to look at the text is far cheaper than to walk the value.
    if "\\u0000" in text or "\\ud" in text:
        text = json.dumps(clean(value))
    return Jsonb(value, dumps=lambda _: text)
