"""Which files are migrations."""

from pathlib import Path

import pytest

from backbeat.migration_files import load
from shared.errors import SchemaError


def test_files_come_in_order(tmp_path: Path) -> None:
    (tmp_path / "0010_tenth.sql").write_text("-- migrate:up transaction:false\nSELECT 10;\n")
    (tmp_path / "0002_second.sql").write_text("\n-- migrate:up\n\nSELECT 2;\n")
    second, tenth = load("postgres", tmp_path)
    assert (second.label, second.alone) == ("0002_second", False)
    assert (tenth.label, tenth.alone) == ("0010_tenth", True)
    assert second.checksum != tenth.checksum


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("1_short.sql", "-- migrate:up\nSELECT 1;\n"),
        ("0001-dash.sql", "-- migrate:up\nSELECT 1;\n"),
        ("0001_no_marker.sql", "SELECT 1;\n"),
        ("0001_late_marker.sql", "SELECT 1;\n-- migrate:up\n"),
        ("0001_unknown_option.sql", "-- migrate:up transaction:maybe\nSELECT 1;\n"),
        ("0001_down.sql", "-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT 2;\n"),
    ],
)
def test_what_is_no_forward_migration_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SchemaError, match=f"{name} is not a forward migration"):
        load("postgres", tmp_path)


def test_two_files_of_one_number_are_refused(tmp_path: Path) -> None:
    for name in ("0001_one.sql", "0001_other.sql"):
        (tmp_path / name).write_text("-- migrate:up\nSELECT 1;\n")
    with pytest.raises(SchemaError, match="one number"):
        load("postgres", tmp_path)


def test_an_empty_directory_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no migrations in"):
        load("postgres", tmp_path)
