"""Notifications become messages, messages leave; each channel at its own pace: one that hangs holds up no other.

A message is leased, sent, then marked: who dies between leaves it to the next lease, which sends it again under the
same id. So everything arrives at least once, or is dead after the last attempt, which is on record.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backbeat.notify.senders import Message, RefusedError, send
from backbeat.notify.settings import Settings, Slack, Smtp, Webhook
from shared.db.pool import Database
from shared.db.queries import load
from shared.db.text import clean
from shared.errors import BackbeatError

_SQL = load("notify", "backbeat.notify")
DELAYS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0)  # seconds after each attempt that failed; then it is dead
SPARE = 20.0  # seconds a lease lasts longer than an attempt may
POLL = 1.0  # seconds between looks while there is nothing to do
PAUSE = 5.0  # seconds while Postgres is away
Say = Callable[[str], None]


@dataclass
class Report:
    """What one round did: messages handed over, to be tried again, given up, and no longer wanted."""

    sent: int = 0
    waiting: int = 0
    dead: int = 0
    withdrawn: int = 0
    unheard: int = 0


def recipients(channel: Webhook | Slack | Smtp, note: Mapping[str, Any]) -> set[str]:
    """Who of this channel hears of a notification: people by mail; otherwise "", the channel itself."""
    if (channel.events and note["event"] not in channel.events) or (
        channel.tenants and note["tenant"] not in {*channel.tenants, None}
    ):
        return set()
    people, anybody = note["people"], not channel.users and not channel.groups
    chosen = {one for one, of in people.items() if anybody or one in channel.users or channel.groups & set(of)}
    if isinstance(channel, Smtp):
        return {one for one in chosen if channel.address(one)}
    return {""} if anybody or chosen or channel.groups & set(note["groups"]) else set()


def routes(settings: Settings, note: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages it goes into. A decision also finds who was asked otherwise, and nobody whom no question reached."""
    found = {(name, one) for name, channel in settings.channels.items() for one in recipients(channel, note)}
    for name, one, told in note["earlier"]:
        (found.add if told and name in settings.channels else found.discard)((name, one))
    return [
        {"channel": name, "recipient": one, "seconds": settings.channels[name].window_seconds}
        for name, one in sorted(found)
    ]


async def route(db: Database, settings: Settings, report: Report) -> bool:
    """Put new notifications into messages; True when there were any."""
    found = await db.rows(_SQL["unrouted"])
    for note in found:
        to = routes(settings, note)
        routed = (await db.row(_SQL["route"], {"id": note["id"], "to": json.dumps(to)}))["routed"]
        report.unheard += bool(routed and not to and not note["earlier"])
    return bool(found)


async def deliver(db: Database, settings: Settings, name: str, report: Report) -> bool:
    """Send the message of a channel that is due for longest; False when none is."""
    channel = settings.channels[name]
    leased = await db.rows(_SQL["lease"], {"channel": name, "seconds": channel.limit_seconds + SPARE})
    for row in leased:
        if row["status"] == "withdrawn":
            report.withdrawn += 1
            continue
        status, error, wait = "sent", None, 0.0
        try:
            await send(channel, Message(str(row["id"]), row["recipient"], row["items"], settings.link))
            report.sent += 1
        except RefusedError as refused:
            final = refused.final or row["attempts"] > len(DELAYS)
            status, error = "dead" if final else "open", clean(str(refused)[:1000])
            wait = 0.0 if final else max(refused.after, DELAYS[row["attempts"] - 1] * random.uniform(0.8, 1.2))  # noqa: S311
            report.dead, report.waiting = report.dead + final, report.waiting + (not final)
        ended = {"id": row["id"], "lease": row["lease"], "status": status, "error": error, "seconds": wait}
        await db.rows(_SQL["settle"], ended)
    return bool(leased)


async def once(db: Database, settings: Settings) -> Report:
    """Route what is new and send what is due. Raises UnavailableError."""
    report = Report()
    while await route(db, settings, report):
        pass

    async def empty(name: str) -> None:
        while await deliver(db, settings, name, report):
            pass

    await asyncio.gather(*map(empty, settings.channels))
    return report


async def watch(db: Database, settings: Settings, stop: asyncio.Event, say: Say) -> Report:
    """Do so until `stop`. What is under way then is waited for; Postgres may be away, now or later."""
    report = Report()

    async def forever(work: Callable[[], Any]) -> None:
        silent = False
        while not stop.is_set():
            busy, wait = False, POLL
            try:
                busy, silent = await work(), False
            except BackbeatError as error:
                if not silent:
                    say(f"{error} (trying again)")
                silent, wait = True, PAUSE
            if not busy:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), wait)

    jobs = [forever(lambda name=name: deliver(db, settings, name, report)) for name in settings.channels]  # type: ignore[misc]
    await asyncio.gather(forever(lambda: route(db, settings, report)), *jobs)
    return report


async def messages(db: Database, status: str | None, limit: int) -> list[dict[str, Any]]:
    """The newest messages first."""
    return await db.rows(_SQL["messages"], {"status": status, "limit": limit})
