"""What tests share; fixtures are in tests/conftest.py."""

import pytest

every_postgres = pytest.mark.parametrize("postgres_major", ["18", "15"])
"""Run the test on the wheel's PostgreSQL 18 and on Debian's 15."""
