"""`backbeat batch`: what waits, what is under way, and a person's word on one."""

from pathlib import Path

import pytest

from backbeat import bulk
from shared.errors import DefinitionError
from tests.support import tasks
from tests.support.batching import Answer, Item
from tests.support.command import Done, command
from tests.support.databases import Database


async def test_batches_are_listed_and_resolved(database: Database, tmp_path: Path) -> None:
    def batch(*arguments: object) -> Done:
        return command("backbeat", "batch", *arguments, home=tmp_path, environ=database.environ)

    async with tasks.worker(database) as db:
        await tasks.add(db, 2)
        for task, name in zip(await tasks.take(db), ("bb00000001", ""), strict=True):
            await tasks.opened(db, task, batch=name, request={})
    database.sql(
        "INSERT INTO backbeat.llm_batches (tag, route, provider, calls, status, note)"
        " VALUES ('bb00000001', 'r', 'simulated', 1, 'unsure', 'cut off')"
    )
    listed = batch("list", "-o", "json").fine().json
    ((one,), (waits,)) = listed["batches"], listed["waiting"]
    assert (one["tag"], one["status"], one["open"], one["note"]) == ("bb00000001", "unsure", 1, "cut off")
    assert (waits["route"], waits["calls"]) == ("r", 1)
    assert "1 calls wait for a batch on r since" in batch("list").fine().err
    assert "say one of --found VENDOR_ID, --unsent and --lost" in batch("resolve", "bb00000001").refused(2)
    assert "is unsure. Say what became of it" in batch("cancel", "bb00000001").refused(5)
    assert "there is no batch bb000" in batch("resolve", "bb000", "--lost").refused(3)
    assert batch("resolve", "bb000000", "--lost").fine().err == "batch bb00000001: lost\n"
    assert [row["status"] for row in batch("list", "--all", "-o", "json").fine().json["batches"]] == ["lost"]
    assert tasks.money(database)[2] > 0


def test_rows_that_are_handled_together_do_not_go_by_batch() -> None:
    with pytest.raises(DefinitionError, match="asked about together, not by batch"):
        bulk("many", version=1, input=Item, output=Answer, run=None, batch=True)  # type: ignore[arg-type]
