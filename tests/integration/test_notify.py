"""Notifications on their way to real servers on loopback: mail, chat, webhooks, and what can go wrong there."""

import asyncio
import base64
import hashlib
import hmac
import json
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backbeat.notify import run
from backbeat.notify.run import DELAYS, Report
from backbeat.notify.settings import Settings, read
from shared.db import pool
from shared.db.pool import Database as Connection
from tests.support.approvals import ask, audit, decide, tick, token
from tests.support.command import clean_environ, command
from tests.support.databases import Database
from tests.support.receivers import Receivers, receivers
from tests.support.signals import until
from tests.support.tls import Authority

SECRET = b"a secret of twenty-four b"
MESSAGES = "SELECT channel, recipient, status, attempts, last_error FROM backbeat.messages ORDER BY id"
LATER = timedelta(seconds=2)  # past the moment that a decision waits


@pytest.fixture
def far() -> Iterator[Receivers]:
    with receivers() as found:
        yield found


@pytest.fixture
async def db(database: Database) -> AsyncIterator[Connection]:
    async with pool.connect(database.worker_url) as opened:
        yield opened


@pytest.fixture
def home(tmp_path: Path, far: Receivers) -> Path:
    """A directory with the secrets of all channels."""
    (tmp_path / "webhook.secret").write_text(f"whsec_{base64.b64encode(SECRET).decode()}\n")
    (tmp_path / "slack.url").write_text(far.url.replace("/hook", "/slack"))
    return tmp_path


def webhook(far: Receivers, **more: Any) -> dict[str, Any]:
    return {"kind": "webhook", "url": far.url, "secret_file": "webhook.secret", "limit_seconds": 30, **more}


def mail(far: Receivers, **more: Any) -> dict[str, Any]:
    """Mail without encryption, as only a test may want it."""
    server = {"host": "127.0.0.1", "port": far.mail_port, "tls": "none", "sender": "Backbeat <bb@example.invalid>"}
    window = {"addresses": "{user}@example.invalid", "window_seconds": 0, "limit_seconds": 30}
    return {"kind": "smtp", **server, **window, **more}


def limit(answer: Any) -> dict[str, Any]:
    """What a channel says that waits for this answer: little where none will come."""
    return {"limit_seconds": 1.5} if answer in ("hang", "drip") else {}


def settings(home: Path, **channels: dict[str, Any]) -> Settings:
    return read({"link": "https://inbox.invalid/{request}", "channels": channels}, str(home / "backbeat.toml"))


def told(far: Receivers, at: int = -1) -> list[tuple[str, str]]:
    """(event, title) of the items of a webhook's request."""
    return [(item["event"], item["title"]) for item in json.loads(far.posts[at].body)["data"]["items"]]


async def test_a_webhook_is_signed_as_the_standard_says(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    asked = ask(database)
    assert await run.once(db, settings(home, erp=webhook(far))) == Report(sent=1)
    (post,) = far.posts
    (message,) = database.sql("SELECT id::text FROM backbeat.messages")
    named, stamp = post.headers["webhook-id"], post.headers["webhook-timestamp"]
    assert (named,) == message
    mac = hmac.new(SECRET, f"{named}.{stamp}.".encode() + post.body, hashlib.sha256).digest()
    assert post.headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"
    body = json.loads(post.body)
    (item,) = body["data"]["items"]
    assert (body["type"], item["event"], item["hash"]) == ("approvals", "asked", asked.hash)
    assert item["link"] == f"https://inbox.invalid/{asked.id}"
    assert post.headers["traceparent"] == item["traceparent"]
    assert (item["traceparent"],) in database.sql("SELECT traceparent FROM backbeat.orchestrated_workflows")
    assert "credential" not in post.body.decode(), "the content itself stays where people look"


async def test_two_secrets_sign_while_one_follows_the_other(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    ask(database)
    with (home / "webhook.secret").open("a") as file:
        file.write(f"whsec_{base64.b64encode(SECRET[::-1]).decode()}\n")
    await run.once(db, settings(home, erp=webhook(far)))
    assert [one[:3] for one in far.posts[0].headers["webhook-signature"].split()] == ["v1,", "v1,"]


async def test_people_get_a_mail_each_wherever_the_policy_names_them(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    token(database, "carol", "security")
    token(database, "dave", "security", "night")
    token(database, "eve", "sales")
    asked = ask(database, policy={"approvers": ["alice"], "groups": ["security"]}, title="Pay <!channel>")
    assert await run.once(db, settings(home, mail=mail(far))) == Report(sent=3)
    assert sorted(far.rcpts) == [f"{one}@example.invalid" for one in ("alice", "carol", "dave")]
    letter = far.mails[0]
    assert letter["Subject"] == "You are asked to decide: Pay <!channel>"
    assert f"https://inbox.invalid/{asked.id}" in letter.get_content()
    ids = {f"<{one}@example.invalid>" for (one,) in database.sql("SELECT id::text FROM backbeat.messages")}
    assert {one["Message-ID"] for one in far.mails} == ids


async def test_channels_take_users_groups_tenants_and_events(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    token(database, "carol", "security")
    ask(database, policy={"groups": ["security"]})
    made = settings(
        home,
        security=webhook(far, groups=["security"]),
        sales=webhook(far, groups=["sales"]),
        alice=webhook(far, users=["alice"]),
        carol=mail(far, users=["carol"]),
        elsewhere=webhook(far, tenants=["acme"]),
        here=webhook(far, tenants=["default"]),
        decisions=webhook(far, events=["decided"]),
    )
    assert await run.once(db, made) == Report(sent=3)
    assert {one for (one, *_) in database.sql(MESSAGES)} == {"security", "carol", "here"}


async def test_a_chat_gets_text_that_mentions_nobody(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    ask(database, title="Pay <!channel> & <https://evil.invalid|here>")
    await run.once(db, settings(home, chat={"kind": "slack", "url_file": "slack.url"}))
    body = json.loads(far.posts[0].body)
    assert far.posts[0].path == "/slack"
    assert body["text"].startswith("You are asked to decide: Pay &lt;!channel&gt; &amp; &lt;https://evil.invalid|here")
    assert "<" not in body["text"]


async def test_what_comes_within_the_window_is_one_mail(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    made = settings(home, mail=mail(far, window_seconds=300))
    for n in range(5):
        ask(database, title=f"Request {n}")
        assert await run.once(db, made) == Report()
        database.advance(timedelta(seconds=50))
    database.advance(timedelta(seconds=50))
    assert await run.once(db, made) == Report(sent=2)  # alice and bob
    assert far.mails[0]["Subject"] == "Approvals: 5 asked"
    assert [f"Request {n}" in far.mails[0].get_content() for n in range(6)] == [True] * 5 + [False]


async def test_a_decision_withdraws_what_is_unsent_and_tells_who_was_asked(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    made = settings(home, quick=webhook(far), mail=mail(far, window_seconds=300))
    asked = ask(database)
    assert await run.once(db, made) == Report(sent=1)
    decide(database, token(database, "alice"), asked.id, "approve", asked.hash, comment="fine")
    database.advance(LATER)
    assert await run.once(db, made) == Report(sent=1)
    (item,) = json.loads(far.posts[1].body)["data"]["items"]
    assert (item["event"], item["state"], item["by"], item["comment"]) == ("decided", "approved", "alice", "fine")
    database.advance(timedelta(minutes=6))
    assert await run.once(db, made) == Report(withdrawn=2)
    assert far.mails == []


async def test_who_has_no_question_to_come_hears_of_decisions_only(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    asked = ask(database)
    made = settings(home, records=webhook(far, events=["decided"]))
    await run.once(db, made)
    decide(database, token(database, "alice"), asked.id, "reject", asked.hash)
    database.advance(LATER)
    assert await run.once(db, made) == Report(sent=1)
    assert told(far) == [("decided", "Post a review")]


async def test_a_revision_replaces_what_was_asked(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    made = settings(home, digest=webhook(far, window_seconds=60))
    asked = ask(database)
    await run.once(db, made)
    decide(database, token(database, "alice"), asked.id, "edit", asked.hash, body={"repository": "acme/other"})
    await run.once(db, made)
    database.advance(timedelta(minutes=2))
    assert await run.once(db, made) == Report(sent=1)
    assert [item["revision"] for item in json.loads(far.posts[0].body)["data"]["items"]] == [2]


async def test_reminders_spare_members_who_approved(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    carol = token(database, "carol", "security")
    token(database, "dave", "security")
    asked = ask(database, policy={"groups": ["security"], "needed": 2, "remind_every": 60})
    decide(database, carol, asked.id, "approve", asked.hash)
    await run.once(db, settings(home, mail=mail(far)))
    far.rcpts.clear()
    database.advance(timedelta(seconds=61))
    tick(database, asked.id)
    await run.once(db, settings(home, mail=mail(far)))
    assert far.rcpts == ["dave@example.invalid"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (500, "the receiver answers 500"),
        (302, "the receiver answers 302, and redirects are not followed"),
        ("hang", "no answer within 1.5 s"),
        ("drip", "no answer within 1.5 s"),
    ],
)
async def test_a_receiver_in_trouble_gets_it_again_under_the_same_id(
    database: Database, db: Connection, far: Receivers, home: Path, answer: Any, said: str
) -> None:
    far.answers, far.headers = [answer, answer], {"Location": far.url.replace("/hook", "/elsewhere")}
    made = settings(home, erp=webhook(far, **limit(answer)))
    ask(database)
    for attempt, delay in enumerate(DELAYS[:2], 1):
        assert await run.once(db, made) == Report(waiting=1)
        assert database.sql(MESSAGES) == [("erp", "", "open", attempt, said)]
        assert await run.once(db, made) == Report(), "it waits"
        database.advance(timedelta(seconds=1.3 * delay))
    assert await run.once(db, settings(home, erp=webhook(far))) == Report(sent=1)
    assert len({post.headers["webhook-id"] for post in far.posts}) == 1
    assert len({post.body for post in far.posts}) == 1
    assert {post.path for post in far.posts} == {"/hook"}


async def test_after_the_last_attempt_it_is_dead_on_record_and_in_the_status(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    far.answers = [503] * 20
    made = settings(home, erp=webhook(far))
    ask(database)
    for _ in DELAYS:
        assert await run.once(db, made) == Report(waiting=1)
        database.advance(timedelta(hours=15))
        database.sql("UPDATE backbeat.approval_requests SET deadline = backbeat.now() + interval '1 day'")
    assert await run.once(db, made) == Report(dead=1)
    assert await run.once(db, made) == Report()
    (message,) = database.sql("SELECT id FROM backbeat.messages")
    ((actor, action, detail),) = audit(database, message[0])
    assert (actor, action) == ("(notify)", "notification.dead")
    assert (detail["channel"], detail["attempts"], detail["last_error"]) == ("erp", 7, "the receiver answers 503")
    found = command("backbeat", "status", "-o", "json", home=home, environ=database.environ).fine().json
    (check,) = [one for one in found["health"] if one["check"] == "notifications"]
    assert (check["state"], check["found"]) == ("wrong", "0 wait, 1 dead in a day")


async def test_gone_is_gone_and_a_receiver_may_ask_for_time(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    far.answers, far.headers = [410, 429], {"Retry-After": "120"}
    made = settings(home, erp=webhook(far))
    ask(database)
    assert await run.once(db, made) == Report(dead=1)
    ask(database)
    assert await run.once(db, made) == Report(waiting=1)
    database.advance(timedelta(seconds=100))
    assert await run.once(db, made) == Report()
    database.advance(timedelta(seconds=21))
    assert await run.once(db, made) == Report(sent=1)


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ("450 later", "open", "the server says 450 later"),
        ("550 nobody here", "dead", "the server says 550 nobody here"),
        ("hang", "open", "no answer within 1.5 s"),
        ("drip", "open", "no answer within 1.5 s"),
    ],
)
async def test_a_mail_server_in_trouble(
    database: Database, db: Connection, far: Receivers, home: Path, answer: str, status: str, said: str
) -> None:
    far.replies = [answer]
    ask(database, policy={"approvers": ["alice"]})
    await asyncio.wait_for(run.once(db, settings(home, mail=mail(far, **limit(answer)))), 60)
    assert database.sql(MESSAGES) == [("mail", "alice", status, 1, said)]
    assert far.mails == []


async def test_no_mail_leaves_in_plain_where_the_settings_want_tls(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    ask(database, policy={"approvers": ["alice"]})
    await run.once(db, settings(home, mail=mail(far, tls="starttls")))
    assert database.sql(MESSAGES)[0][-1] == "SMTPNotSupportedError: STARTTLS extension not supported by server."
    assert (far.mails, far.rcpts) == ([], [])


@pytest.mark.parametrize(
    ("tls", "host", "trusted", "said"),
    [
        ("starttls", "localhost", True, None),
        ("tls", "localhost", True, None),
        ("starttls", "localhost", False, "certificate verify failed: unable to get local issuer"),
        ("tls", "localhost", False, "certificate verify failed: unable to get local issuer"),
        ("starttls", "mail.invalid", True, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
        ("tls", "mail.invalid", True, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
)
async def test_mail_goes_by_tls_to_whom_the_certificate_names(
    database: Database,
    db: Connection,
    far: Receivers,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    tls: str,
    host: str,
    trusted: bool,
    said: str | None,
) -> None:
    authority = Authority(home, host)
    far.tls, far.secured = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), tls
    far.tls.load_cert_chain(home / "server.pem", home / "server.key")
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.home / "ca.pem"))
    (home / "smtp.password").write_text("hunter2\n")
    ask(database, policy={"approvers": ["alice"]})
    channel = mail(far, tls=tls, login="backbeat", password_file="smtp.password", limit_seconds=10)
    await run.once(db, settings(home, mail=channel))
    *_, status, _, error = database.sql(MESSAGES)[0]
    if said is None:
        assert (status, error, far.rcpts) == ("sent", None, ["alice@example.invalid"])
        assert far.logins == [("backbeat hunter2", True)]
    else:
        # Neither content nor password leaves before the server is known.
        assert (status, said in error) == ("open", True), error
        assert (far.mails, far.rcpts, far.logins) == ([], [], [])


async def test_a_receiver_that_hangs_holds_up_no_other(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    far.answers = ["hang"]
    made = settings(home, a=webhook(far, limit_seconds=30), mail=mail(far))
    ask(database, policy={"approvers": ["alice"]})
    stop = asyncio.Event()
    watching = asyncio.create_task(run.watch(db, made, stop, print))
    await asyncio.to_thread(until, lambda: far.posts and far.mails)
    asked = ask(database, policy={"approvers": ["bob"]})
    await asyncio.to_thread(until, lambda: "bob@example.invalid" in far.rcpts)
    call = decide(database, token(database, "bob"), asked.id, "approve", asked.hash)
    assert call["verdict"] == "accepted", "nobody who decides waits for a receiver"
    stop.set()
    far.release.set()
    assert (await watching).sent == 2


async def test_two_senders_do_not_send_twice(database: Database, far: Receivers, home: Path) -> None:
    made = settings(home, erp=webhook(far), mail=mail(far))
    for n in range(10):
        ask(database, title=f"Request {n}")
    async with pool.connect(database.worker_url) as one, pool.connect(database.worker_url) as other:
        reports = await asyncio.gather(*(run.once(db, made) for db in (one, other, one, other)))
    items = [item["id"] for post in far.posts for item in json.loads(post.body)["data"]["items"]]
    assert sorted(items) == sorted(str(one) for (one,) in database.sql("SELECT id FROM backbeat.notifications"))
    assert sum(report.sent for report in reports) == len(far.posts) + len(far.mails)


def test_a_kill_between_send_and_mark_sends_the_same_again(database: Database, far: Receivers, home: Path) -> None:
    (home / "backbeat.toml").write_text(
        f'[notify.channels.erp]\nkind = "webhook"\nurl = "{far.url}"\nsecret_file = "webhook.secret"\n'
    )
    ask(database)
    doomed = [sys.executable, "-m", "tests.support.doomed_notify", "notify", "send"]
    died = subprocess.run(doomed, cwd=home, env=clean_environ(**database.environ), timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert database.sql(MESSAGES) == [("erp", "", "open", 1, None)]
    send = ("backbeat", "notify", "send", "-o", "json")
    assert command(*send, home=home, environ=database.environ).fine().json["sent"] == 0, "the lease holds"
    database.advance(timedelta(minutes=1))
    assert command(*send, home=home, environ=database.environ).fine().json["sent"] == 1
    first, second = far.posts
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    listed = command("backbeat", "notify", "list", "-o", "json", home=home, environ=database.environ).fine().json
    assert [(one["status"], one["attempts"]) for one in listed] == [("sent", 2)]


def test_watch_ends_when_told_to(database: Database, far: Receivers, home: Path) -> None:
    (home / "backbeat.toml").write_text(
        f'[notify.channels.erp]\nkind = "webhook"\nurl = "{far.url}"\nsecret_file = "webhook.secret"\n'
    )
    watch = [sys.executable, "-m", "backbeat", "notify", "send", "--watch", "-o", "json"]
    env = clean_environ(**database.environ)
    process = subprocess.Popen(watch, cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        ask(database)
        until(lambda: len(far.posts) == 1, within=30)
        until(lambda: database.value("SELECT status FROM backbeat.messages") == "sent")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert json.loads(out)["sent"] == 1
    assert err == "notify: sending to erp\n"


async def test_a_person_without_address_is_no_reason_to_wait(
    database: Database, db: Connection, far: Receivers, home: Path
) -> None:
    ask(database, policy={"approvers": ["zoe"]})
    report = await run.once(db, settings(home, mail=mail(far, addresses={"alice": "a@example.invalid"})))
    assert report == Report(unheard=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "pigeon"}, "notify.channels.erp: Input tag 'pigeon'"),
        ({"colour": "red"}, "notify.channels.erp.webhook.colour: Extra inputs are not permitted"),
        ({"url": "http://example.invalid/x"}, "notify.channels.erp.url is no https address"),
        ({"secret_file": "nowhere"}, "notify.channels.erp: nowhere cannot be read"),
        ({"secret_file": "slack.url"}, "notify.channels.erp.secret_file holds what is no secret"),
        ({"events": ["askd"]}, "notify.channels.erp.webhook.events.0: Input should be 'asked'"),
        ({"window_seconds": -1}, "notify.channels.erp.webhook.window_seconds: "),
    ],
)
def test_wrong_settings_are_one_line(
    far: Receivers, home: Path, database: Database, change: dict[str, Any], said: str
) -> None:
    table = {**webhook(far), **change}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    (home / "backbeat.toml").write_text(f"[notify.channels.erp]\n{lines}\n")
    assert said in command("backbeat", "notify", "send", home=home, environ=database.environ).refused(2)


def test_without_channels_it_says_so(home: Path, database: Database) -> None:
    said = command("backbeat", "notify", "send", home=home, environ=database.environ).refused(2)
    assert "[notify.channels.NAME]" in said
