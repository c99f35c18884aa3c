"""`backbeat budget`, `stop`, `resume` and `effect` against a real database."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from backbeat.embedded import roles
from shared.db import calls, effects
from shared.db.effects import Intent
from shared.domain.outcome import Hold
from tests.support import tasks
from tests.support.command import Done, command
from tests.support.databases import Database

Run = Callable[..., Done]
KEY = "01a203b6-a07d-7bfb-8827-564de37ba04f:post"


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Run:
    def backbeat(*arguments: object) -> Done:
        return command("backbeat", *arguments, home=tmp_path, environ=database.environ)

    return backbeat


def _cap(run: Run, key: str = "alpha") -> tuple[str | None, int | None]:
    (row,) = [row for row in run("budget", "show", "-o", "json").fine().json if row["key"] == key]
    return row["cap_usd"], row["cap_tokens"]


async def _held(database: Database) -> None:
    """A task of alpha that spent 0.004 and waits for more money."""
    async with tasks.worker(database) as db:
        await tasks.add(db)
        task = await tasks.take_one(db)
        await tasks.answered(db, task, await tasks.opened(db, task))
        await tasks.settle(db, task, Hold("budget", "workflow/alpha"))


def test_operating_takes_an_operators_login(database: Database, tmp_path: Path) -> None:
    worker = {"BACKBEAT_DATABASE_URL": database.worker_url}
    nobody = UUID(int=7)
    for words in (
        ("budget", "set", "workflow", "alpha", "--usd", "5", "--unseen"),
        ("stop", "--all", "--reason", "an incident"),
        ("resume", "--all"),
        ("task", "cancel", nobody, "--reason", "wrong"),
    ):
        done = command("backbeat", *words, home=tmp_path, environ=worker)
        assert done.code == 4
        assert done.err.splitlines()[-1] == (
            "backbeat: this takes the login of an operator. "
            "Set BACKBEAT_OPERATOR_URL to one that has the role backbeat_operator"
        )
    owner = worker | {"BACKBEAT_DIRECT_URL": database.owner_url}
    command("backbeat", "stop", "--effects", "--reason", "x", home=tmp_path, environ=owner).fine()
    (trail,) = database.sql("SELECT actor, action, subject, detail ->> 'reason' FROM backbeat.audit_log")
    assert trail == (roles.OWNER, "switch.thrown", "effects", "x")


def test_raising_a_budget_lets_held_tasks_go_on(run: Run, database: Database) -> None:
    asyncio.run(_held(database))
    assert run("budget", "set", "workflow", "alpha", "--usd", "0.005").fine().err.endswith("1 held task released\n")
    asyncio.run(_held_again(database))
    assert "workflow  alpha     $0.005     $0.004" in run("budget", "show").fine().out
    done = run("budget", "raise", "workflow", "alpha", "--usd", "1.50").fine()
    assert done.err == "workflow 'alpha': set; 1 held task released\n"
    assert database.value("SELECT status FROM backbeat.simple_tasks") == "pending"
    assert _cap(run) == ("1.50", None)


async def _held_again(database: Database) -> None:
    async with tasks.worker(database) as db:
        await db.rows("SELECT FROM backbeat.sweep()")
        await tasks.settle(db, await tasks.take_one(db), Hold("budget", "workflow/alpha"))


def test_a_cap_that_is_not_named_stays(run: Run, database: Database) -> None:
    run("budget", "set", "tenant", "default", "--usd", "5", "--tokens", "1000000").fine()
    run("budget", "set", "tenant", "default", "--usd", "7").fine()
    assert _cap(run, "default") == ("7", 1_000_000)
    run("budget", "set", "tenant", "default", "--no-tokens").fine()
    assert _cap(run, "default") == ("7", None)
    run("budget", "set", "tenant", "default", "--no-usd").fine()
    assert _cap(run, "default") == (None, None)


def test_raise_does_not_lower(run: Run, database: Database) -> None:
    said = run("budget", "raise", "workflow", "alpha", "--usd", "2", "--unseen").refused(5)
    assert said == "backbeat: workflow 'alpha' has no cap in usd. `backbeat budget set` sets or lowers one"
    run("budget", "set", "workflow", "alpha", "--usd", "3", "--unseen").fine()
    said = run("budget", "raise", "workflow", "alpha", "--usd", "2", "--unseen").refused(5)
    assert said == "backbeat: workflow 'alpha' has a cap of 3 in usd. `backbeat budget set` sets or lowers one"
    assert _cap(run) == ("3", None)


def test_a_cap_that_is_not_set_leaves_nothing_to_remain(run: Run) -> None:
    run("budget", "set", "tenant", "default", "--tokens", "5000").fine()
    (row,) = run("budget", "show", "-o", "json").fine().json
    assert (row["remaining_usd"], row["remaining_tokens"], row["forecast_tokens"]) == (None, 5000, 0)
    assert "$" not in run("budget", "show", "--tokens").fine().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("budget", "set", "tenant", "default", "--tokens", "9223372036854775808"),
        ("budget", "reconcile", "--call", "a/b", "--cost", "1", "--tokens", "2147483648"),
        ("tenant", "set", "default", "--max-running", "2147483648"),
        ("workflow", "canary", "alpha", "2147483648", "--percent", "1"),
        ("dead", "requeue", "--all", "--reason", "x", "--per-minute", "nan"),
        ("dead", "requeue", "--all", "--reason", "x", "--per-minute", "1e-300"),
        ("audit", "export", "--after", "9223372036854775808"),
        ("agent", "fork", "00000000-0000-0000-0000-000000000001", "--at", "2147483648"),
        (
            "agent",
            "resume",
            "00000000-0000-0000-0000-000000000001",
            "--max-tokens",
            "9223372036854775808",
            "--reason",
            "x",
        ),
        ("agent", "resume", "00000000-0000-0000-0000-000000000001", "--max-usd", "nan", "--reason", "x"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_number_that_no_column_holds_is_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).refused(2).startswith("backbeat: Invalid value for ")


def test_a_budget_for_nobody_is_refused(run: Run, database: Database) -> None:
    said = run("budget", "set", "workflow", "code_reveiw", "--usd", "1").refused(3)
    assert said.startswith("backbeat: no workflow 'code_reveiw' has been heard of yet. ")
    said = run("budget", "raise", "tenant", "nobody", "--usd", "1").refused(3)
    assert said.startswith("backbeat: no tenant 'nobody' has been heard of yet. ")
    assert database.sql("SELECT scope FROM backbeat.budget_caps") == []
    run("budget", "set", "workflow", "code_review", "--usd", "1", "--unseen").fine()
    assert _cap(run, "code_review") == ("1", None)


def test_a_cap_for_each_task_of_a_workflow(run: Run, database: Database) -> None:
    async def one() -> UUID:
        async with tasks.worker(database) as db:
            database.sql("UPDATE backbeat.workflows SET max_usd = 0.02, max_tokens = 2500 WHERE name = 'alpha'")
            await tasks.add(db)
            task = await tasks.take_one(db)
            await tasks.opened(db, task)
            return task.id

    task = asyncio.run(one())
    said = run("budget", "raise", "task", "alpha", "--usd", "0.01").refused(5)
    assert said.startswith("backbeat: task 'alpha' has a cap of 0.02 in usd. ")
    run("budget", "raise", "task", "alpha", "--usd", "0.03").fine()
    rows = {row["key"]: row for row in run("budget", "show", "--scope", "task", "-o", "json").fine().json}
    assert {
        key: (row["cap_usd"], row["remaining_usd"], row["forecast_usd"], row["day"]) for key, row in rows.items()
    } == {
        "alpha": ("0.03", "0.03", None, None),
        str(task): ("0.03", "0.02", None, None),
    }


def test_a_raise_below_what_is_used_is_refused(run: Run, database: Database) -> None:
    asyncio.run(_held(database))
    run("budget", "set", "workflow", "alpha", "--usd", "0.001").fine()
    said = run("budget", "raise", "workflow", "alpha", "--usd", "0.002").refused(5)
    assert said.startswith("backbeat: workflow 'alpha' has used 0.004 in usd today, more than 0.002. Raise it above")
    assert _cap(run) == ("0.001", None)


def test_a_soft_cap_and_the_forecast(run: Run, database: Database) -> None:
    asyncio.run(_held(database))
    run("budget", "set", "workflow", "alpha", "--usd", "1", "--soft").fine()
    (row,) = [row for row in run("budget", "show", "-o", "json").fine().json if row["key"] == "alpha"]
    assert (row["kind"], row["remaining_usd"]) == ("soft", "0.996")
    midnight = "(backbeat.utc_day(backbeat.now()) + 1)::timestamp AT TIME ZONE 'UTC'"
    left = database.value(f"SELECT extract(epoch FROM {midnight} - backbeat.now())")
    assert abs(Decimal(row["forecast_usd"]) - Decimal("0.004") * (1 + left / 10800)) < Decimal("0.0001")
    run("budget", "set", "workflow", "alpha", "--hard").fine()
    (row,) = [row for row in run("budget", "show", "-o", "json").fine().json if row["key"] == "alpha"]
    assert (row["kind"], row["cap_usd"]) == ("hard", "1")
    assert "alpha" in run("budget", "show", "--tokens").fine().out


def test_reconcile_lost_calls(run: Run, database: Database, tmp_path: Path) -> None:
    async def lose() -> UUID:
        async with tasks.worker(database) as db:
            await tasks.add(db)
            task = await tasks.take_one(db)
            for key in ("a#again", "b", "c"):
                await tasks.opened(db, task, key)
                end = calls.Closing("lost", response_id=f"sim_{key}")
                await calls.close_call(db, task.id, key, 1, end)
            return task.id

    task = asyncio.run(lose())
    listed = run("budget", "reconcile", "-o", "json").fine().json
    assert [row["call"] for row in listed] == [f"{task}/{key}#1" for key in ("a#again", "b", "c")]
    one = ("--cost", "0.003", "--tokens", "900")
    done = run("budget", "reconcile", "--call", f"{task}/a#again", *one).fine()
    assert done.err == "1 lost calls reconciled, 0 lines of calls that are not lost passed over\n"
    said = run("budget", "reconcile", "--call", f"{task}/a#again#1", *one).refused(3)
    assert said.startswith(f"backbeat: no lost call is named '{task}/a#again#1'. ")
    assert run("budget", "reconcile", "--call", f"{task}/b", "--cost", "1").refused(2).startswith("backbeat: --call ")

    bill = tmp_path / "bill.csv"
    head = "response_id,call,cost_usd,tokens\n"
    bill.write_text(f"{head}sim_b,,0.001,10\n,{task}/c#1,lots,5\n", encoding="utf-8")
    said = run("budget", "reconcile", "--bill", bill).refused(2)
    assert said.startswith(f"backbeat: {bill}, line 3, cost_usd: 'lots' is no amount")
    assert tasks.money(database) == (Decimal(), Decimal("0.003"), Decimal("0.02"))
    bill.write_text(f"{head}sim_b,,0.001,10\n,{task}/c#1,0,0\nmsg_1,,5,5\n", encoding="utf-8")
    done = run("budget", "reconcile", "--bill", bill).fine()
    assert done.err == "2 lost calls reconciled, 1 lines of calls that are not lost passed over\n"
    assert tasks.money(database) == (Decimal(), Decimal("0.004"), Decimal())
    assert database.value("SELECT count(*) FROM backbeat.audit_log WHERE action = 'budget.reconciled'") == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("r,1.5,many", "tokens: 'many' is no whole number from 0 to 2147483647"),
        ("r,1.5,-1", "tokens: '-1' is no whole number from 0 to 2147483647"),
        ("r,1.5,2147483648", "tokens: '2147483648' is no whole number from 0 to 2147483647"),
        ("r,dear,7", "cost_usd: 'dear' is no amount such as 2.50"),
    ],
)
def test_a_bad_cell_of_a_bill_is_named(run: Run, tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "may.csv").write_text(f"response_id,cost_usd,tokens\nq,1,1\n{line}\n", encoding="utf-8")
    shown = run("budget", "reconcile", "--bill", "may.csv").refused(2)
    assert shown == f"backbeat: may.csv, line 3, {said}. Correct the file; nothing was changed"


def test_show_budgets_of_another_day(run: Run, database: Database) -> None:
    asyncio.run(_held(database))
    assert [row["calls"] for row in run("budget", "show", "-o", "json").json] == [1, 1]
    assert run("budget", "show", "--day", "2001-01-01", "-o", "json").fine().json == []


@pytest.mark.parametrize("switch", ["all", "effects"])
def test_stop_and_resume(run: Run, database: Database, switch: str) -> None:
    assert f"backbeat resume --{switch}" in run("stop", f"--{switch}", "--reason", "an incident").fine().err
    assert database.sql("SELECT name, reason FROM backbeat.switches") == [(switch, "an incident")]
    run("stop", f"--{switch}", "--reason", "a worse incident").fine()
    assert database.sql("SELECT name, reason FROM backbeat.switches") == [(switch, "a worse incident")]
    assert run("resume", f"--{switch}").fine().err.startswith("resumed: ")
    assert database.sql("SELECT name FROM backbeat.switches") == []
    assert run("resume", f"--{switch}").fine().err == f"nothing to resume: --{switch} was not stopped\n"


async def _begin(database: Database, fire_seconds: float = 10.0) -> str:
    async with tasks.worker(database) as db:
        owner = UUID(KEY.partition(":")[0])
        if not database.sql("SELECT id FROM backbeat.simple_tasks"):
            await tasks.add(db)
            database.sql("UPDATE backbeat.simple_tasks SET id = %s", [owner])
            await tasks.take(db, lease=3600.0)
        lease = database.value("SELECT lease FROM backbeat.simple_tasks")
        intent = Intent(KEY, "mail", {"to": "a"}, "h", "task", owner, lease, owner, "00-1-1-01")
        return (await effects.begin_effect(db, intent, fire_seconds)).verdict


@pytest.fixture
def unknown(database: Database) -> str:
    """The key of an effect whose writer did not come back."""
    assert asyncio.run(_begin(database)) == "fire"
    database.advance(timedelta(seconds=11))
    assert asyncio.run(_begin(database)) == "look"
    database.advance(timedelta(seconds=11))
    return KEY


def test_list_and_show_effects(run: Run, unknown: str) -> None:
    out = run("effect", "list").fine().out
    assert out.splitlines()[1].startswith(f"{KEY}  mail  unknown      1")
    assert run("effect", "list", "--status", "done", "-o", "json").json == []
    shown = run("effect", "show", unknown, "-o", "json").fine().json
    assert (shown["status"], shown["request"], shown["busy_seconds"]) == ("unknown", {"to": "a"}, 0.0)
    assert (
        run("effect", "show", "nope").refused(3)
        == "backbeat: there is no effect 'nope'. `backbeat effect list` names them"
    )


def test_resolve_as_done(run: Run, database: Database, unknown: str) -> None:
    run("effect", "resolve", unknown, "--done", '{"id": 7}').fine()
    row = run("effect", "show", unknown, "-o", "json").json
    assert (row["status"], row["outcome"]) == ("done", {"id": 7})
    assert row["resolved_by"]
    assert asyncio.run(_begin(database)) == "done"
    for way in (["--done", "{}"], ["--absent", "--reason", "x"]):
        assert run("effect", "resolve", unknown, *way).refused(5).startswith(f"backbeat: effect '{KEY}' is done, or")


def test_resolve_as_absent_lets_it_be_looked_at_and_fired_again(run: Run, database: Database, unknown: str) -> None:
    done = run("effect", "resolve", unknown, "--absent", "--reason", "the mailbox is empty").fine()
    assert done.err == f"effect '{KEY}': may be fired again\n"
    row = run("effect", "show", unknown, "-o", "json").json
    assert (row["status"], row["error"]) == ("intended", "the mailbox is empty")
    assert "the mailbox" in run("effect", "list").fine().out
    assert "the mailbox is empty" in run("task", "show", row["owner"]).fine().out
    assert row["mark"]


def test_nobody_resolves_what_a_worker_may_still_be_writing(run: Run, database: Database) -> None:
    assert asyncio.run(_begin(database, fire_seconds=600.0)) == "fire"
    for way in (["--done", "{}"], ["--absent", "--reason", "x"]):
        said = run("effect", "resolve", KEY, *way).refused(5)
        assert said.startswith(f"backbeat: effect '{KEY}' may still be written by its worker for ")
    assert database.value("SELECT status FROM backbeat.side_effects") == "intended"


def test_amounts_stay_exact(run: Run, database: Database) -> None:
    run("budget", "set", "workflow", "alpha", "--usd", "0.1234567890123456789", "--unseen").fine()
    assert database.value("SELECT usd FROM backbeat.budget_caps") == Decimal("0.1234567890123456789")
