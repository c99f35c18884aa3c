"""A definition module as a task author writes one."""

from typing import Any, Literal

from pydantic import BaseModel

from backbeat import effect, single_shot


class Ticket(BaseModel):
    subject: str
    body: str = ""
    priority: float | None = None
    account: int | None = None


class Triage(BaseModel):
    category: Literal["billing", "bug", "account", "other"]
    urgent: bool


async def _send(request: dict[str, Any], key: str) -> dict[str, Any]:
    return {"sent": request, "key": key}


triage = single_shot(
    "support_triage",
    version=3,
    input=Ticket,
    output=Triage,
    tier="small",
    system="You sort support tickets.",
    prompt="{subject}\n\n{body}",
    max_output_tokens=200,
)
mail = effect("mail", perform=_send)
