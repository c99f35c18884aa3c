"""`backbeat.testing`: handlers against answers that a test wrote."""

from typing import Any

import pytest
from pydantic import BaseModel

from backbeat import Context, Dead, EffectRefusedError, Escalate, InputError, Retry, bounded_loop
from backbeat.testing import canned
from tests.support.triage import Ticket, Triage, triage

GOOD = {"category": "billing", "urgent": True}
TICKET = {"subject": "Bill", "body": "charged twice"}


class Sent(BaseModel):
    message: str


async def _answer(ctx: Context, ticket: Ticket) -> Any:
    kind = await ctx.llm("kind", output=Triage, prompt=ticket.subject, tier="small")
    if kind.urgent:
        return ctx.escalate("approve_effect", {"effect": "mail"}, result=Sent(message="later"))
    sent = await ctx.effect("send", "mail", {"to": ticket.subject})
    return Sent(message=sent["message"])


loop = bounded_loop("answer", version=1, input=Ticket, output=Sent, tier="small", run=_answer)


def test_the_answer_is_the_definitions_output() -> None:
    with canned({"answer": GOOD}) as models:
        end = models.run(triage, TICKET)
    assert end.result == Triage(category="billing", urgent=True)
    (call,) = models.calls
    assert (call.key, call.prompt, call.system) == ("answer", "Bill\n\ncharged twice", "You sort support tickets.")


def test_an_invalid_answer_is_sent_back_once() -> None:
    with canned({"answer": ['{"category": "weather"}', Triage(**GOOD)]}) as models:
        assert models.run(triage, TICKET).result.category == "billing"
    assert "weather" in models.calls[1].prompt
    with canned({"answer": lambda _: "no JSON"}) as models:
        outcome = models.run(triage, TICKET).outcome
    assert isinstance(outcome, Retry)
    assert outcome.error_class == "invalid_output"


def test_effects_and_escalations_are_recorded() -> None:
    with canned({"kind": {**GOOD, "urgent": False}}, effects={"mail": {"message": "m1"}}) as models:
        assert models.run(loop, TICKET).result == Sent(message="m1")
    assert models.effects == [{"key": "send", "kind": "mail", "request": {"to": "Bill"}}]
    with canned({"kind": GOOD}) as models:
        end = models.run(loop, TICKET)
    assert (models.effects, models.escalations) == ([], [end.outcome])
    assert isinstance(end.outcome, Escalate)


def test_a_refused_effect_is_a_retry() -> None:
    refused = {"mail": EffectRefusedError("unknown address")}
    with canned({"kind": {**GOOD, "urgent": False}}, effects=refused) as models:
        outcome = models.run(loop, TICKET).outcome
    assert isinstance(outcome, Retry)
    assert outcome.error_class == "effect_refused"


def test_what_is_not_canned_and_what_is_not_asked_for_fail_the_test() -> None:
    with canned() as models, pytest.raises(AssertionError, match="no answer is canned for call 'answer'"):
        models.run(triage, TICKET)
    with (
        pytest.raises(AssertionError, match="never asked for: reply"),
        canned({"answer": GOOD, "reply": "x"}) as models,
    ):
        models.run(triage, TICKET)


def test_a_bad_payload_is_refused() -> None:
    with canned() as models, pytest.raises(InputError, match="support_triage@3: subject"):
        models.run(triage, {"body": "x"})


async def test_inside_a_coroutine() -> None:
    with canned({"answer": GOOD}) as models:
        assert not isinstance((await models.run_async(triage, TICKET)).outcome, Dead)
