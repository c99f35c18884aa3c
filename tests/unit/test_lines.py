"""Files of payloads: what each line is, and which are none."""

import io
from typing import Any

import pytest

from backbeat.cli import lines
from shared.errors import InputError


def _read(found: Any) -> list[tuple[int, Any]]:
    return [(number, value.what if isinstance(value, InputError) else value) for number, value in found]


def test_json_lines_have_numbers_and_the_bad_ones_reasons() -> None:
    text = b'\xef\xbb\xbf{"n": 1}\n\n  [2]\r\n{"n": \n"\xff"\n{"n": 7}'
    assert _read(lines.json_lines(io.BytesIO(text))) == [
        (1, {"n": 1}),
        (3, [2]),
        (4, "not JSON: Expecting value at column 6"),
        (5, "not UTF-8"),
        (6, {"n": 7}),
    ]


def test_what_json_cannot_be_read_deeply_is_a_bad_line() -> None:
    ((number, said),) = _read(lines.json_lines(io.BytesIO(b"[" * 100_000)))
    assert number == 1
    assert said.startswith("not JSON: ")


def test_a_line_without_end_is_passed_over_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 10)
    text = b"[1]\n" + b"x" * 35 + b"\n[2]\n" + b"y" * 20
    said = "longer than 10 bytes"
    assert _read(lines.json_lines(io.BytesIO(text))) == [(1, [1]), (2, said), (3, [2]), (4, said)]


def test_csv_rows_are_named_by_their_first_line_and_empty_cells_are_no_fields() -> None:
    text = b'\xef\xbb\xbfsubject,body\r\nfirst,"two\nlines"\n\n,\nthird,\nlonely\na,b,c\n'
    assert _read(lines.csv_rows(io.BytesIO(text))) == [
        (2, {"subject": "first", "body": "two\nlines"}),
        (6, {"subject": "third"}),
        (7, "1 cells under 2 names"),
        (8, "3 cells under 2 names"),
    ]


def test_csv_that_breaks_off_is_a_bad_row() -> None:
    assert _read(lines.csv_rows(io.BytesIO(b'a\n1\n"open\n'))) == [
        (2, {"a": "1"}),
        (3, "not CSV: unexpected end of data"),
    ]


@pytest.mark.parametrize("header", ["", "a,a", "a,,b", "\n1"])
def test_a_header_that_names_no_columns_is_refused(header: str) -> None:
    with pytest.raises(InputError, match="line 1: the header must name every column, each once"):
        list(lines.csv_rows(io.BytesIO(header.encode())))
