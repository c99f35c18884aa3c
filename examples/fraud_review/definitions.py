"""The tasks: written rules screen every payment in bulk, a small model judges the doubtful, people agree to a block."""

from collections.abc import Sequence
from decimal import Decimal

from backbeat import BatchContext, Context, Escalate, FanOut, bounded_loop, bulk, effect
from examples.fraud_review.issuer import block, find_block
from examples.fraud_review.models import Doubt, Judgement, Screened, Transaction, block_request
from examples.fraud_review.rules import screened

ANALYSTS = ("carol", "dave")
DECIDE_WITHIN = 86_400  # seconds
SYSTEM = """\
You judge card payments that a bank's written rules could not clear. Answer with a verdict, a risk and a reason.

block: the payment fits a known pattern of fraud: a card tried out with small amounts in quick succession, a cloned card
used in two countries at once, or goods that are easily sold again bought for many times what the card usually pays.
watch: unusual, but a traveller or a large purchase explains it as well.
clear: ordinary once looked at as a whole. Most are: a wrong block leaves an honest customer without money.

risk is 0 to 100. reason is one short sentence that an analyst can check against the payment."""
PROMPT = """\
card payment {one.id}
amount: {euros:.2f}, {one.ratio:.1f} times this card's usual
category: {one.category}
time: {one.at:%H:%M}
country: {one.country}, card of {one.home}{before}
payments of this card in the last hour: {one.last_hour}
unusual by the rules: {rules}"""


async def _screen(ctx: BatchContext, transactions: Sequence[Transaction]) -> list[Screened | FanOut]:
    return [_passed(ctx, one, screened(one)) for one in transactions]


def _passed(ctx: BatchContext, one: Transaction, found: Screened) -> Screened | FanOut:
    if found.state == "clear":
        return found
    return ctx.fan_out([(judge, Doubt(transaction=one, rules=found.rules))], result=found)


async def _judge(ctx: Context, doubt: Doubt) -> Judgement | Escalate:
    one = doubt.transaction
    judged = await ctx.llm(
        "verdict", output=Judgement, system=SYSTEM, prompt=prompt(doubt), tier="small", max_output_tokens=150
    )
    if judged.verdict != "block":
        return judged
    approval = {
        "effect": "block_payment",
        "request": block_request(one, judged),
        "title": f"Block {one.cents / 100:.2f} on card {one.card}, {one.category}: {judged.reason[:120]}",
        "deadline_seconds": DECIDE_WITHIN,
        "policy": {"approvers": list(ANALYSTS)},
    }
    return ctx.escalate("approve_effect", approval, result=judged)


def prompt(doubt: Doubt) -> str:
    """The payment in words."""
    one = doubt.transaction
    before = f"; {one.minutes_since} minutes before in {one.last_country}" if one.last_country else ""
    return PROMPT.format(one=one, euros=one.cents / 100, before=before, rules=", ".join(doubt.rules))


judge = bounded_loop(
    "judge", version=1, input=Doubt, output=Judgement, tier="small", run=_judge, max_usd=Decimal("0.01")
)
screen = bulk("screen", version=1, input=Transaction, output=Screened, run=_screen, rows=1000)
block_payment = effect("block_payment", perform=block, read_back=find_block, timeout=5.0, settle=5.0)
