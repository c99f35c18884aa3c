"""The task whose calls are counted; its peers ask the same."""

from typing import Literal

from pydantic import BaseModel

from backbeat import single_shot

SYSTEM, PROMPT = "You sort support tickets.", "{subject}\n\n{body}"
MODEL, MOST = "claude-haiku-4-5", 200


class Ticket(BaseModel):
    subject: str
    body: str


class Triage(BaseModel):
    category: Literal["billing", "bug", "account", "other"]
    urgent: bool


triage = single_shot(
    "bench_triage",
    version=1,
    input=Ticket,
    output=Triage,
    tier="small",
    system=SYSTEM,
    prompt=PROMPT,
    max_output_tokens=MOST,
)
