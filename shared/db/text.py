"""Making any text storable: a model may answer, and an error may say, what Postgres' text and jsonb refuse."""

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
    """A jsonb parameter that Postgres takes."""
    return Jsonb(clean(value))
