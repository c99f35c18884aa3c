"""A chat message by incoming webhook: no key, no way to look. What is in doubt, a person resolves."""

import os
from typing import Any

import httpx2
from pydantic import BaseModel

from backbeat import Context, EffectRefusedError, bounded_loop, effect


class Message(BaseModel):
    text: str


class Posted(BaseModel):
    mark: str


async def _perform(request: dict[str, Any], key: str) -> dict[str, Any]:
    """The mark at the end of the text is for the eyes of whoever has to look."""
    mark = key[:8]
    async with httpx2.AsyncClient(timeout=5.0) as client:
        try:
            answer = await client.post(os.environ["EFFECTS_CHAT_WEBHOOK"], json={"text": f"{request['text']} [{mark}]"})
        except httpx2.ConnectError as error:
            raise EffectRefusedError(f"nothing was sent: {error}") from error
    if answer.is_client_error:
        raise EffectRefusedError(f"the webhook refused it: {answer.status_code} {answer.text[:200]}")
    answer.raise_for_status()
    return {"mark": mark}


async def _run(ctx: Context, message: Message) -> Posted:
    return Posted(**await ctx.effect("post", "chat", message.model_dump()))


chat = effect("chat", perform=_perform, timeout=5.0, settle=10.0)
post_chat = bounded_loop("post_chat", version=1, input=Message, output=Posted, tier="small", run=_run)
