"""US dollars as people read them; programs get the exact decimals."""

from decimal import Decimal

DIGITS = 4


def dollars(value: Decimal) -> str:
    """Cents at least, four decimals at most; below a dollar, four significant digits: $12.50, $1.1523, $0.0002374."""
    decimals = max(DIGITS, DIGITS - 1 - value.adjusted()) if value else 2
    whole, _, digits = f"{value:.{decimals}f}".partition(".")
    return f"${whole}.{digits.rstrip('0').ljust(2, '0')}"
