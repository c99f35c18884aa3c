"""An e-mail by SMTP. Nobody can ask a mail server what it accepted, so a doubtful one waits for a person."""

import asyncio
import hashlib
import os
import smtplib
from email.message import EmailMessage
from typing import Any

from pydantic import BaseModel

from backbeat import Context, EffectRefusedError, bounded_loop, effect

STEP = 3.0  # seconds that one step of the dialogue may take; there are eight, and a thread cannot be stopped


class Letter(BaseModel):
    to: str
    subject: str
    text: str


class Sent(BaseModel):
    message_id: str


def message_id(key: str) -> str:
    """The same for every attempt at one effect: what a person looks for in the server's log."""
    return f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@backbeat.invalid>"


def _send(request: dict[str, Any], key: str) -> dict[str, Any]:
    message = EmailMessage()
    message["From"], message["To"] = os.environ["EFFECTS_MAIL_FROM"], request["to"]
    message["Subject"], message["Message-ID"] = request["subject"], message_id(key)
    message.set_content(request["text"])
    host, _, port = os.environ["EFFECTS_SMTP"].partition(":")
    try:
        server = smtplib.SMTP(host, int(port), timeout=STEP)
    except OSError as error:
        raise EffectRefusedError(f"nothing was sent: {error}") from error
    with server:
        try:
            server.send_message(message)
        except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused) as error:
            raise EffectRefusedError(f"the server said no: {error}") from error
    return {"message_id": message["Message-ID"]}


async def _perform(request: dict[str, Any], key: str) -> dict[str, Any]:
    return await asyncio.to_thread(_send, request, key)


async def _run(ctx: Context, letter: Letter) -> Sent:
    return Sent(**await ctx.effect("send", "mail", letter.model_dump()))


mail = effect("mail", perform=_perform, timeout=10.0, settle=8 * STEP)
send_mail = bounded_loop("send_mail", version=1, input=Letter, output=Sent, tier="small", run=_run)
