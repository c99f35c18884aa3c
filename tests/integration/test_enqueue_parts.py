"""Any number of tasks, some thousand a transaction and several transactions at a time: each key once, nothing half."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from backbeat.producer import submit
from backbeat.producer.rows import Terms
from shared.errors import BackbeatError, InputError
from shared.execution.payloads import Row, prepared
from shared.telemetry.spans import NullTelemetry
from tests.support import tasks
from tests.support.databases import Database
from tests.support.screening import judge

PART = 50
TERMS = Terms(workflow="judge", version=1)
HERE = "SELECT count(*), count(DISTINCT payload) FROM backbeat.simple_tasks"
ORDER = "SELECT (payload ->> 'n')::integer FROM backbeat.simple_tasks ORDER BY id"


def _rows(numbers: Iterable[int]) -> Iterator[Row]:
    for number in numbers:
        if number < 0:
            raise InputError("a bad line")
        yield prepared(judge, {"n": number})


async def _sent(database: Database, numbers: Iterable[int]) -> list[tuple[int, int]]:
    async with tasks.worker(database) as db:
        return [told async for told in submit.submit_many(db, NullTelemetry(), judge, TERMS, _rows(numbers))]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "PART", PART)


async def test_keys_that_parts_on_their_way_have_in_common_are_one_task(database: Database) -> None:
    told = await _sent(database, [number % 120 for number in range(12 * PART)])
    assert [count for count, _ in told] == [PART] * 12
    assert sum(new for _, new in told) == 120
    assert database.sql(HERE) == [(120, 120)]


async def test_what_comes_after_a_bad_row_is_not_sent_and_what_was_under_way_is_whole(database: Database) -> None:
    with pytest.raises(InputError, match="a bad line"):
        await _sent(database, [*range(3 * PART), -1, *range(900, 999)])
    ((rows, different),) = database.sql(HERE)
    assert rows == different
    assert rows in (0, PART, 2 * PART, 3 * PART)
    assert not [n for (n,) in database.sql(ORDER) if n >= 3 * PART]


async def test_a_part_that_postgres_refuses_ends_it_and_takes_no_other_with_it(
    database: Database,
) -> None:
    good = list(_rows(range(2 * PART)))
    async with tasks.worker(database) as db:
        sending = submit.submit_many(db, NullTelemetry(), judge, TERMS, [*good, (b"{", None), *good])
        with pytest.raises(BackbeatError, match="type json"):
            _ = [told async for told in sending]
    assert database.sql(HERE) == [(2 * PART, 2 * PART)]


@pytest.mark.parametrize(("connections", "abreast"), [(1, 1), (2, 2), (9, submit.ABREAST)])
async def test_no_part_waits_for_a_connection(
    database: Database, monkeypatch: pytest.MonkeyPatch, connections: int, abreast: int
) -> None:
    """A pool that is asked for more than it has gives up after some seconds, and so would a slow Postgres' producer."""
    send, under_way, most = submit._submit_part, 0, 0

    async def counted(*given: Any) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await send(*given)
        finally:
            under_way -= 1

    monkeypatch.setattr(submit, "_submit_part", counted)
    async with tasks.worker(database, connections) as db:
        sending = submit.submit_many(db, NullTelemetry(), judge, TERMS, _rows(range(12 * PART)))
        assert sum([new async for _, new in sending]) == 12 * PART
    assert most == abreast
