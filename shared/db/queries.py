"""Named queries: the SQL that programs send lives in `sql/<noun>.sql`, under `-- name: <query>` lines."""

import re
from functools import cache
from importlib import resources
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def load(noun: str, package: str = "shared.db") -> dict[str, LiteralString]:
    """The queries of `sql/<noun>.sql` of a package by name.

    They come from files of ours, so they are as literal as text in the source. Raises
    ValueError when a name stands twice.
    """
    text = resources.files(f"{package}.sql").joinpath(f"{noun}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    names, bodies = parts[0::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"sql/{noun}.sql names a query twice")
    return {name: cast("LiteralString", body.strip()) for name, body in zip(names, bodies, strict=True)}
