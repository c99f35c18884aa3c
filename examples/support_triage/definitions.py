"""One single shot."""

from typing import Literal

from pydantic import BaseModel

from backbeat import single_shot


class Ticket(BaseModel):
    subject: str
    body: str


class Triage(BaseModel):
    category: Literal["billing", "bug", "account", "other"]
    urgent: bool


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
