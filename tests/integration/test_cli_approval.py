"""`backbeat approval` and `backbeat token` as people and scripts use them."""

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client

from backbeat import tokens
from tests.support.approvals import REVIEW, ask, audit, content_hash, decide, state, token, worker_rows
from tests.support.approvals import start as escalate
from tests.support.command import Done, clean_environ, command
from tests.support.databases import Database
from tests.support.temporal import FarSide, Server, asked, environment, finished, row, working

Run = Callable[..., Done]


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Run:
    def backbeat(*arguments: object, who: Path | None = None, **environ: str) -> Done:
        given = {**database.environ, **environ, **({"BACKBEAT_TOKEN_FILE": str(who)} if who else {})}
        return command("backbeat", *arguments, home=tmp_path, environ=given)

    return backbeat


@pytest.fixture
def alice(run: Run, tmp_path: Path) -> Path:
    run("token", "create", "--user", "alice", "--group", "leads", "--expires", "30d", "--out", "alice.token").fine()
    return tmp_path / "alice.token"


def test_a_token_file_is_its_owners_alone(run: Run, alice: Path, database: Database) -> None:
    assert alice.stat().st_mode & 0o777 == 0o600
    text = alice.read_text().strip()
    columns = "id, user_name, groups, expires_at - created_at"
    ((token_id, user, groups, days),) = database.sql(f"SELECT {columns} FROM backbeat.api_tokens")
    assert (token_id, user, groups, days) == (tokens.fingerprint(text), "alice", ["leads"], timedelta(days=30))
    assert "exists" in run("token", "create", "--user", "alice", "--out", "alice.token").refused(5)
    assert alice.read_text().strip() == text
    everything = run("token", "list", "-o", "json").fine().out + json.dumps(audit(database, token_id))
    assert text not in everything
    assert tokens.key(text).hex() not in everything


def test_no_token_outlives_the_calendar(run: Run, alice: Path) -> None:
    """A year past 9999 fits into Postgres and into no Python: every later `token list` would fail."""
    said = run("token", "create", "--user", "bob", "--expires", "999999w").refused(2)
    assert "more than a hundred years" in said
    assert run("token", "list").fine()


def test_a_token_is_shown_once_on_stdout_alone(run: Run) -> None:
    done = run("token", "create", "--user", "bob").fine()
    assert re.fullmatch(r"bbt_[0-9a-f]{64}\n", done.out)
    assert done.out.strip() not in done.err
    made = run("token", "create", "--user", "bob", "-o", "json").fine().json
    assert made["id"] == tokens.fingerprint(made["token"])


def test_only_who_owns_the_schema_makes_tokens(run: Run, database: Database, tmp_path: Path) -> None:
    worker = {"BACKBEAT_DIRECT_URL": database.worker_url}
    said = run("token", "create", "--user", "x", "--out", "x", **worker).refused(4)
    why = "tokens are made and revoked with the login that runs the migrations. Set BACKBEAT_DIRECT_URL to it"
    assert said == f"backbeat: {why}"
    assert not (tmp_path / "x").exists()
    assert why in run("token", "revoke", "0" * 16, **worker).refused(4)
    assert "cannot be a name" in run("token", "create", "--user", "(deadline)").refused(2)


def test_a_revoked_token_is_nobody(run: Run, alice: Path, database: Database) -> None:
    request = ask(database)
    run("token", "revoke", tokens.fingerprint(alice.read_text())).fine()
    assert "there is no valid token" in run("token", "revoke", tokens.fingerprint(alice.read_text())).refused(3)
    assert "unknown, expired or revoked" in run(
        "approval", "approve", request.id, "--hash", request.hash, who=alice
    ).refused(4)


def test_what_waits_is_listed_and_shown_in_full(run: Run, database: Database) -> None:
    request = ask(database, policy={"approvers": ["alice", "bob"], "groups": ["leads"], "needed": 2})
    (listed,) = run("approval", "list", "-o", "json").fine().json
    assert listed["id"] == str(request.id)
    assert listed["hash"] == request.hash
    text = run("approval", "list").fine().out
    assert str(request.id) in text
    assert "2 of alice, bob, group leads" in run("approval", "show", request.id).fine().out
    shown = run("approval", "show", request.id).fine()
    lines = shown.out.splitlines()
    assert lines[0] == "Post a review"
    fold = "\n".join(lines[:12])
    for expected in ("note, once, exactly what stands", "nothing happens", request.hash, "| repository: acme/shop"):
        assert expected in fold
    assert f"backbeat approval approve|reject {request.id} --hash {request.hash[:12]}" in shown.err
    full = run("approval", "show", request.id, "-o", "json").fine().json
    assert full["payload"] == {"effect": "note", "request": REVIEW}
    assert [entry["action"] for entry in full["history"]] == ["approval.requested"]
    assert run("approval", "list", "--state", "approved").fine().out == ""


def test_deciding_binds_to_what_was_shown(run: Run, alice: Path, database: Database) -> None:
    request = ask(database)
    assert "--hash is needed when nobody sits at a terminal" in run(
        "approval", "approve", request.id, who=alice
    ).refused(2)
    assert state(database, request.id) == "pending"
    assert "needs at least 12 digits" in run("approval", "approve", request.id, "--hash", "ab", who=alice).refused(2)
    said = run("approval", "approve", request.id, "--hash", "0" * 12, who=alice).refused(5)
    assert "this is not what the request shows" in said
    done = run("approval", "approve", request.id, "--hash", request.hash[:12], "--comment", "fine", who=alice).fine()
    assert done.err == "alice: approve; the request is approved\n"
    said = run("approval", "reject", request.id, who=alice).refused(5)
    assert re.search(r"already approved by alice at \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ\.", said)
    assert audit(database, request.id)[2][2]["comment"] == "fine"


@pytest.mark.parametrize(
    ("tampering", "shown"),
    [
        (
            "payload = jsonb_set(payload, '{request,body}', '\"LGTM\"')",
            content_hash(request={**REVIEW, "body": "LGTM"}),
        ),
        ("title = 'Say hello'", content_hash("Say hello")),
    ],
    ids=["content", "title"],
)
def test_a_row_that_was_tampered_with_cannot_be_approved(
    run: Run, alice: Path, database: Database, tampering: str, shown: str
) -> None:
    request = ask(database)
    database.sql(f"UPDATE backbeat.approval_requests SET {tampering}")
    said = run("approval", "approve", request.id, "--hash", shown, who=alice).refused(5)
    assert "this is not what the request shows" in said
    assert state(database, request.id) == "pending"


def test_refusals_say_why(run: Run, alice: Path, database: Database, tmp_path: Path) -> None:
    request = ask(database, policy={"approvers": ["bob"], "groups": ["security"]})
    assert "no token: nobody knows who you are" in run("approval", "approve", request.id).refused(4)
    assert "cannot be read" in run("approval", "approve", request.id, "--token-file", "nowhere").refused(4)
    (tmp_path / "junk").write_text("junk")
    with_hash = ("approval", "approve", request.id, "--hash", request.hash)
    assert "not a Backbeat token" in run(*with_hash, "--token-file", "junk").refused(4)
    said = run("approval", "approve", request.id, "--hash", request.hash, who=alice).refused(4)
    assert said == "backbeat: alice may not decide this. It takes 1 of bob, group security"
    nothing = "01a203b6-a07d-7bfb-8827-564de37ba04f"
    assert f"no approval request {nothing}" in run("approval", "show", nothing).refused(3)
    assert "'7' is no request id, nor its first 8" in run("approval", "show", "7").refused(2)
    late = ask(database, seconds=60.0)
    database.advance(timedelta(minutes=2))
    assert "the deadline passed at" in run("approval", "approve", late.id, "--hash", late.hash, who=alice).refused(5)


def test_text_from_a_model_cannot_pass_for_ours(run: Run, database: Database) -> None:
    body = {
        "body": "fine\n\x1b[2J\u202estate approved\nif approved  nothing",
        "a\nstate   rejected": {"b\rc\nsha256  0": ["d\n"]},
        "last": "no more\n",
    }
    title = "A \x1b[31mred\x1b[0m title\nif approved     nothing\tat all"
    request = ask(database, request=body, title=title, policy={"approvers": ["alice", "bob\nstate  approved"]}).id
    shown = run("approval", "show", request).fine().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    lines = shown.splitlines()
    assert lines[0] == "A \\x1b[31mred\\x1b[0m title\\nif approved     nothing\\tat all"
    assert "  |     if approved  nothing" in lines
    assert "  | a\\nstate   rejected:" in lines
    assert "  |     b\\rc\\nsha256  0:" in lines
    assert [line for line in lines if line.lstrip().startswith(("state", "sha256", "if approved"))] == [
        line for line in lines if re.match("(state  |sha256  |if approved  )", line)
    ]
    assert len([line for line in lines if re.match("(state  |sha256  |if approved  )", line)]) == 3


def test_at_a_terminal_it_is_shown_and_asked(database: Database, alice: Path, tmp_path: Path) -> None:
    request = ask(database)
    environ = clean_environ(**database.environ, BACKBEAT_TOKEN_FILE=str(alice))
    command = [sys.executable, "-m", "backbeat", "approval", "approve", str(request.id)]

    def answer(word: str) -> subprocess.CompletedProcess[bytes]:
        ours, theirs = pty.openpty()
        os.write(ours, f"{word}\n".encode())
        done = subprocess.run(command, cwd=tmp_path, env=environ, stdin=theirs, capture_output=True, timeout=60)
        os.close(ours)
        os.close(theirs)
        return done

    no = answer("n")
    assert no.returncode == 130
    assert b"| repository: acme/shop" in no.stdout
    assert state(database, request.id) == "pending"
    assert answer("y").returncode == 0
    assert state(database, request.id) == "approved"


def test_a_quorum_says_that_more_are_needed(run: Run, alice: Path, database: Database) -> None:
    request = ask(database, policy={"approvers": ["alice", "bob"], "needed": 2})
    done = run("approval", "approve", request.id, "--hash", request.hash, "-o", "json", who=alice).fine()
    assert (done.json["user"], done.json["state"], done.err) == ("alice", "pending", "")
    assert "alice has approved already" in run(
        "approval", "approve", request.id, "--hash", request.hash, who=alice
    ).refused(5)
    decide(database, token(database, "bob"), request.id, "reject", request.hash)
    assert "already rejected by bob" in run("approval", "reject", request.id, who=alice).refused(5)


def test_many_are_decided_each_with_a_line_of_its_own(run: Run, alice: Path, database: Database) -> None:
    first, second, theirs = ask(database), ask(database), ask(database, policy={"approvers": ["bob"]})
    named = [f"{first.id}:{first.hash[:12]}", f"{second.id}:{'0' * 12}", f"{theirs.id}:{theirs.hash}"]
    done = run("approval", "approve", *named, "-o", "json", who=alice)
    assert done.code == 5
    assert [(line["verdict"], line["note"][:30]) for line in json.loads(done.out)] == [
        ("approved", ""),
        ("refused", "this is not what the request shows"[:30]),
        ("refused", "alice may not decide this. It t"[:30]),
    ]
    assert [state(database, each.id) for each in (first, second, theirs)] == ["approved", "pending", "pending"]
    assert "say what you were shown" in run("approval", "approve", first.id, second.id, who=alice).refused(2)
    assert "--all needs --yes" in run("approval", "reject", "--all", who=alice).refused(2)
    (mine,) = run("approval", "list", "--mine", "-o", "json", who=alice).fine().json
    assert mine["id"] == str(second.id)
    done = run("approval", "reject", "--all", "--yes", "--comment", "enough", who=alice).fine()
    assert str(second.id) in done.out
    assert [state(database, each.id) for each in (second, theirs)] == ["rejected", "pending"]
    assert run("approval", "approve", "--all", "--yes", who=alice).fine().err == "requests: none\n"


def test_an_edit_is_checked_by_the_effects_model(run: Run, alice: Path, database: Database, tmp_path: Path) -> None:
    (tmp_path / "notes.py").write_text(
        "from backbeat import effect\nfrom pydantic import BaseModel\n"
        "class Note(BaseModel):\n    repository: str\n    body: str\n"
        "async def perform(request, mark): return {}\n"
        "note = effect('note', perform=perform, request=Note)\n"
    )
    request = ask(database)
    words = ("approval", "edit", request.id, "--hash", request.hash[:12])
    assert "so an edit cannot be checked" in run(*words, "--set", "body=7", who=alice).refused(2)
    loaded = {"BACKBEAT_DEFINITIONS": "notes", "PYTHONPATH": str(tmp_path)}
    said = run(*words, "--set", "body=7", who=alice, **loaded).refused(2)
    assert said.startswith("backbeat: request.body: Input should be a valid string")
    assert audit(database, request.id)[-1][2]["problem"].startswith("request.body: Input should be")
    done = run(*words, "--set", 'body="Fine."', "--comment", "kinder", who=alice, **loaded).fine()
    assert done.err == "alice: edit; the request is pending\n"
    shown = run("approval", "show", request.id).fine()
    assert "| body: Fine." in shown.out
    assert "revision 2" in shown.out
    stale = run("approval", "approve", request.id, "--hash", request.hash[:12], who=alice).refused(5)
    assert "this is not what the request shows" in stale
    who, action, detail = audit(database, request.id)[-1]
    assert (who, action, detail["verdict"]) == ("alice", "approval.refused", "stale")
    assert detail["hash"].startswith(request.hash[:12])


def test_who_has_handed_her_right_on_is_told_so(run: Run, alice: Path, database: Database) -> None:
    run("token", "create", "--user", "bob", "--out", "bob.token").fine()
    request = ask(database, policy={"groups": ["leads"]})
    run("approval", "delegate", "bob", "--for", "7d", who=alice).fine()
    said = run("approval", "approve", request.id, "--hash", request.hash, who=alice).refused(4)
    assert "alice has handed this right to bob. `backbeat approval delegate alice` takes it back" in said
    assert "leads" not in said


def test_a_request_whose_effect_no_worker_has_loaded_says_so(run: Run, database: Database) -> None:
    call = "SELECT backbeat.create_approval(%s, 'approve', %s, NULL)"
    worker_rows(database, call, [escalate(database), content_hash()])
    assert "no worker has loaded its effect" in " ".join(run("approval", "list").fine().out.split())


def test_everything_around_a_decision(run: Run, alice: Path, database: Database, tmp_path: Path) -> None:
    run("token", "create", "--user", "bob", "--out", "bob.token").fine()
    bob = tmp_path / "bob.token"
    policy = {"approvers": ["alice", "bob"], "max_rounds": 1, "effect_delay": 3600, "four_eyes": True}
    request = ask(database, policy=policy, requested_by="carol")
    seen = ("--hash", request.hash)
    assert run("approval", "claim", request.id, who=alice).fine().err == "alice: claimed for 15 minutes\n"
    assert "somebody else is looking" in run("approval", "claim", request.id, who=bob).refused(5)
    assert "alice is looking at it" in run("approval", "show", request.id).fine().out
    run("approval", "unclaim", request.id, who=alice).fine()
    assert run("approval", "comment", request.id, "why now?", who=bob).fine().err == "bob: noted\n"
    assert "comment is empty" in run("approval", "request-changes", request.id, *seen, who=bob).refused(2)
    run("approval", "request-changes", request.id, *seen, "--comment", "shorter", who=bob).fine()
    assert "changes requested: shorter" in run("approval", "show", request.id).fine().out
    assert "somebody asked for changes" in run("approval", "approve", request.id, *seen, who=alice).refused(5)
    database.sql("SELECT backbeat.revise_approval(%s, 1, %s::jsonb)", [request.id, json.dumps(REVIEW)])
    run("approval", "approve", request.id, *seen, who=alice).fine()
    shown = run("approval", "show", request.id).fine().out
    assert "1 h after the approval, until when it can be revoked" in " ".join(shown.split())
    assert run("approval", "revoke", request.id, *seen, who=bob).fine().err == "bob: revoke; the request is revoked\n"


def test_rights_are_handed_on_and_reassigned(run: Run, alice: Path, database: Database, tmp_path: Path) -> None:
    run("token", "create", "--user", "bob", "--out", "bob.token").fine()
    assert "body.to is nobody who holds a token" in run("approval", "delegate", "zoe", who=alice).refused(2)
    said = run("approval", "delegate", "bob", "--for", "7d", who=alice).fine().err
    assert said == "alice: bob decides in your place\n"
    assert "took the right to decide back" in run("approval", "delegate", "alice", who=alice).fine().err
    ask(database)
    worker = {"BACKBEAT_DIRECT_URL": database.worker_url}
    words = ("approval", "reassign", "alice", "bob", "--reason", "left")
    assert "rights are reassigned with the login that" in run(*words, **worker).refused(4)
    assert run(*words).fine().err == "bob decides in place of alice, on 1 open requests and all to come\n"
    assert "zoe holds no token" in run("approval", "reassign", "alice", "zoe", "--reason", "left").refused(3)
    assert "unknown, expired or revoked" in run("approval", "delegate", "bob", who=alice).refused(4)


def test_a_calendar_is_set_by_operators(run: Run, database: Database) -> None:
    words = ("approval", "calendar", "office", "--time-zone", "Europe/Berlin", "--holiday", "2026-12-25")
    assert run(*words).fine().err == "calendar office: mon,tue,wed,thu,fri 09:00-17:00 Europe/Berlin, 1 holidays\n"
    assert "the calendar cannot be" in run(*words, "--hours", "17:00-09:00").refused(2)
    assert "the calendar cannot be" in run("approval", "calendar", "x", "--time-zone", "Nowhere/At").refused(2)
    assert run(*words, "--days", "someday").refused(2)


def test_the_audit_log_is_verified_and_exported(run: Run, alice: Path, database: Database) -> None:
    request = ask(database)
    run("approval", "approve", request.id, "--hash", request.hash, who=alice).fine()
    first = run("audit", "verify", "-o", "json").fine().json
    ask(database)
    assert run("audit", "verify", "--head", first["head"]).fine()
    lines = [json.loads(line) for line in run("audit", "export").fine().out.splitlines()]
    assert [line["action"] for line in lines][-3:] == ["approval.requested", "approval.approve", "approval.requested"]
    assert [line["prev_hash"] for line in lines[1:]] == [line["hash"] for line in lines[:-1]]
    assert len(run("audit", "export", "--after", lines[-2]["id"]).fine().out.splitlines()) == 1
    database.sql("ALTER TABLE backbeat.audit_log DISABLE TRIGGER append_only")
    database.sql("UPDATE backbeat.audit_log SET actor = 'mallory' WHERE id = 2")
    broken = run("audit", "verify")
    assert broken.code == 1
    assert "row 2: it was changed" in broken.out
    assert run("audit", "verify", "--head", "x").refused(2)


async def test_a_signed_signal_needs_no_access_to_postgres(
    run: Run, alice: Path, database: Database, temporal_server: Server
) -> None:
    client = await Client.connect(temporal_server.address)
    async with environment(database, FarSide()) as env, working(env, client):
        workflow = escalate(database)
        request, _ = await asked(database, workflow)
        words = ("approval", "sign", request, "reject", "--comment", "no: later")
        signed = await asyncio.to_thread(run, *words, who=alice)
        assert "bbt_" not in signed.fine().out
        handle = client.get_workflow_handle(row(database, workflow)["temporal_id"])
        await handle.signal("decide", signed.json)
        done = await finished(database, workflow)
    assert done["result"] == {"decision": "rejected"}
    assert database.value("SELECT user_name FROM backbeat.approval_decisions") == "alice"
