"""One attempt at one message, a function a kind of channel. Each raises RefusedError saying why."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import smtplib
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.message import EmailMessage
from typing import Any

import httpx2

from backbeat.notify import wording
from backbeat.notify.settings import Slack, Smtp, Webhook
from backbeat.notify.wording import Item
from shared import clock
from shared.errors import ConfigError

_LONGEST_ANSWER = 3600.0  # seconds that a receiver may ask us to wait


class RefusedError(Exception):
    """It did not arrive, or nobody can know. `final`: it never will; `after`: seconds that the receiver asks for."""

    def __init__(self, why: str, *, final: bool = False, after: float = 0.0) -> None:
        super().__init__(why)
        self.final, self.after = final, after


@dataclass(frozen=True, slots=True)
class Message:
    """What leaves. `id` is the same for every attempt, and so is what it says."""

    id: str
    recipient: str
    items: Sequence[Item]
    link: str = ""


def sign(secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The header webhook-signature: Standard Webhooks 1.0, "Symmetric signatures", one `v1,` a secret."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    macs = (hmac.digest(secret, signed, hashlib.sha256) for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(mac).decode()}" for mac in macs)


async def webhook(channel: Webhook, message: Message) -> None:
    """POST it, signed, in the trace of what it is first about; any 2xx is an acknowledgement."""
    now = clock.wall().astimezone(UTC)
    items = [{**item, "link": wording.address(item, message.link) or None} for item in message.items]
    body = json.dumps(
        {"type": "approvals", "timestamp": max(item["at"] for item in message.items), "data": {"items": items}},
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()
    stamp = int(now.timestamp())
    headers = {
        "webhook-id": message.id,
        "webhook-timestamp": str(stamp),
        "webhook-signature": sign(channel.secrets, message.id, stamp, body),
    }
    if traces := [item["traceparent"] for item in message.items if "traceparent" in item]:
        headers["traceparent"] = traces[0]
    await _post(channel.url, body, headers, channel.limit_seconds)


async def slack(channel: Slack, message: Message) -> None:
    """POST its text, in which nothing is a mention, a link of another name, or markup."""
    text = "\n".join(line for item in message.items for line in wording.lines(item, message.link))
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(plain, escaped)
    body = json.dumps({"text": text, "mrkdwn": False, "unfurl_links": False}).encode()
    await _post(channel.url, body, {}, channel.limit_seconds)


async def smtp(channel: Smtp, message: Message) -> None:
    """Send one mail to one person. A server that does not do what the settings say about TLS gets nothing."""
    address = channel.address(message.recipient)
    if address is None:
        raise RefusedError(f"{channel.name} has no address of {message.recipient}", final=True)
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = channel.sender, address, wording.subject(message.items)
    mail["Message-ID"] = f"<{message.id}@{channel.sender.rpartition('@')[2].rstrip('>')}>"
    mail["Auto-Submitted"] = "auto-generated"
    text = ("\n".join(wording.lines(item, message.link)) for item in message.items)
    mail.set_content("\n\n".join(text) + "\n")
    await _in_time(_Dialogue(channel), mail, channel.limit_seconds)


class _Dialogue:
    """One dialogue in a thread; `cut` ends it from outside, since a server may answer a byte at a time for ever."""

    def __init__(self, channel: Smtp) -> None:
        self._channel = channel
        self._server: smtplib.SMTP | None = None
        self._over = False

    def run(self, mail: EmailMessage) -> None:
        """Blocks until the server has taken it. Raises OSError, SMTPException."""
        channel, secure = self._channel, ssl.create_default_context()
        own, limit = socket.gethostname(), channel.limit_seconds
        if channel.tls == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(local_hostname=own, timeout=limit, context=secure)
        else:
            server = smtplib.SMTP(local_hostname=own, timeout=limit)
        self._server = server
        # Given to the constructor it would connect there, where nobody could cut; certificates are checked against it.
        server._host = channel.host  # type: ignore[attr-defined]  # noqa: SLF001
        with contextlib.closing(server):
            server.connect(channel.host, channel.port)
            if self._over:
                return
            if channel.tls == "starttls":
                server.starttls(context=secure)
            if channel.login:
                server.login(channel.login, channel.password)
            server.send_message(mail)
            with contextlib.suppress(OSError, smtplib.SMTPException):
                server.quit()

    def cut(self) -> None:
        """Let `run` fail now."""
        self._over = True
        if self._server is not None and self._server.sock is not None:
            with contextlib.suppress(OSError):
                self._server.sock.shutdown(socket.SHUT_RDWR)


async def _in_time(dialogue: _Dialogue, mail: EmailMessage, limit: float) -> None:
    running = asyncio.ensure_future(asyncio.to_thread(dialogue.run, mail))
    try:
        await asyncio.wait_for(asyncio.shield(running), limit)
    except TimeoutError as error:
        running.add_done_callback(lambda done: done.exception())
        dialogue.cut()
        raise RefusedError(f"no answer within {limit:g} s") from error
    except smtplib.SMTPRecipientsRefused as error:
        ((code, said),) = error.recipients.values()
        raise RefusedError(f"the server says {code} {said.decode(errors='replace')}", final=code >= 500) from error
    except smtplib.SMTPAuthenticationError as error:
        raise RefusedError("the server refuses login or password") from error
    except smtplib.SMTPResponseException as error:
        raise RefusedError(f"the server says {error.smtp_code} {error.smtp_error!r}") from error
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise RefusedError(f"{type(error).__name__}: {error}") from error


async def _post(url: str, body: bytes, headers: Mapping[str, str], limit: float) -> None:
    """One POST. Its answer's body is of no interest and not read."""
    sent = {"content-type": "application/json", "user-agent": "backbeat", **headers}
    try:
        async with (
            asyncio.timeout(limit),
            httpx2.AsyncClient(trust_env=False, timeout=limit, follow_redirects=False) as client,
            client.stream("POST", url, content=body, headers=sent) as answer,
        ):
            status, after = answer.status_code, _seconds(answer.headers.get("retry-after"))
    except TimeoutError as error:
        raise RefusedError(f"no answer within {limit:g} s") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        # Without its text, which may repeat an address that is a secret.
        raise RefusedError(type(error).__name__) from error
    if 300 <= status < 400:
        raise RefusedError(f"the receiver answers {status}, and redirects are not followed")
    if not 200 <= status < 300:
        raise RefusedError(f"the receiver answers {status}", final=status == 410, after=after)


def _seconds(text: str | None) -> float:
    return min(float(text), _LONGEST_ANSWER) if text and text.isdecimal() else 0.0


async def send(channel: Any, message: Message) -> None:
    """Hand one message over. Raises RefusedError."""
    match channel:
        case Webhook():
            await webhook(channel, message)
        case Slack():
            await slack(channel, message)
        case Smtp():
            await smtp(channel, message)
        case _:
            raise ConfigError(f"there is no channel of kind {type(channel).__name__}", fix="Correct it")
