"""One way to write an amount."""

from decimal import Decimal

import pytest

from backbeat.money import dollars


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "$0.00"),
        ("0E-9", "$0.00"),
        ("1.5", "$1.50"),
        ("1E+3", "$1000.00"),
        ("1.15234", "$1.1523"),
        ("1234567.123456", "$1234567.1235"),
        ("0.31", "$0.31"),
        ("0.9999999", "$1.00"),
        ("0.012300000", "$0.0123"),
        ("0.000237412", "$0.0002374"),
        ("0.00000002", "$0.00000002"),
    ],
)
def test_dollars(value: str, text: str) -> None:
    assert dollars(Decimal(value)) == text
