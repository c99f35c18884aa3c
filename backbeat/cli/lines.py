"""Payloads from a file of any size: one a line of JSON, or one a row of CSV. What cannot be read is named by line."""

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from shared.errors import InputError

LONGEST = 8 * 1_048_576  # bytes of a line; a payload of a mebibyte in the widest spelling is shorter
_BOM = b"\xef\xbb\xbf"


def json_lines(file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """Line numbers with their values, or with an InputError; empty lines are passed over."""
    number = 0
    while line := file.readline(LONGEST):
        number += 1
        whole = len(line) < LONGEST or line.endswith(b"\n")
        while not whole:
            whole = (rest := file.readline(LONGEST)).endswith(b"\n") or not rest
            line = b""
        if not line:
            yield number, InputError(f"longer than {LONGEST} bytes")
        elif text := line.removeprefix(_BOM).strip():
            yield number, _value(text)


def csv_rows(file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """The numbers of rows' first lines with their fields by the names in the header; an empty cell is no field.

    Raises InputError for a header without names, or with one twice.
    """
    csv.field_size_limit(LONGEST)
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _csv_rows(csv.reader(text, strict=True))
    finally:
        with contextlib.suppress(ValueError):
            text.detach()  # or its end would close the caller's file


def _csv_rows(reader: Any) -> Iterator[tuple[int, Any]]:
    names: list[str] = next(reader, [])
    if not all(names) or len(set(names)) < len(names) or not names:
        raise InputError("line 1: the header must name every column, each once", fix="Correct the first line")
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, InputError(f"not CSV: {error}")
            continue
        if len(cells) not in (0, len(names)):
            yield number, InputError(f"{len(cells)} cells under {len(names)} names")
        elif any(cells):
            yield number, {name: cell for name, cell in zip(names, cells, strict=True) if cell}


def _value(text: bytes) -> Any:
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError:
        return InputError("not UTF-8")
    except json.JSONDecodeError as error:
        return InputError(f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return InputError(f"not JSON: {error}")
