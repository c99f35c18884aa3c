"""`backbeat agent`: what agents did and what it cost, and a hand on them."""

from collections.abc import Coroutine
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from backbeat.cli.arguments import MOST_ROWS, MOST_TOKENS, Id, amount, duration
from backbeat.cli.output import database, emit, os_user, output_option, run_async, say_what_is_simulated, talk
from backbeat.money import dollars

if TYPE_CHECKING:
    from backbeat.operate.agents import Transcript

STATUSES = ["thinking", "waiting", "done", "escalated", "dead", "cancelled", "expired"]
_LIST = ("id", "workflow", "status", "steps", "tokens", "cost_usd", "error")
_STEPS = ("number", "action", "tool", "args", "reasoning", "observation", "tokens", "cost_usd")
agent_argument = click.argument("agent_id", type=Id("agent"))
reason_option = click.option("--reason", required=True, metavar="TEXT", help="Stands in the record.")


@click.group()
def agent() -> None:
    """See what agents did and what it cost; cancel, resume and fork them.

    An agent's id is that of its first task.
    """


@agent.command("list")
@click.option("--status", "statuses", type=click.Choice(STATUSES), multiple=True, help="Only these; may be repeated.")
@click.option("--workflow", help="Only of this definition.")
@click.option("--since", type=duration, default="7d", show_default=True, help="Only those that began since.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, show_default=True)
@output_option
def list_(statuses: tuple[str, ...], workflow: str | None, since: timedelta, limit: int, output: str) -> None:
    """List agents, the newest first. Tokens and cost count what is presumed spent, and what their children used."""

    async def main() -> list[dict[str, Any]]:
        from backbeat.operate import agents
        from shared.config import load

        async with database(load()) as db:
            return await agents.agents(db, since, statuses, workflow, limit)

    emit(run_async(main()), columns=_LIST, output=output)


@agent.command()
@agent_argument
@output_option
def show(agent_id: UUID, output: str) -> None:
    """Show the transcript of one agent: each step, what it saw, its tokens and its cost."""

    async def main() -> "Transcript":
        from backbeat.operate import agents
        from shared.config import load

        say_what_is_simulated(config := load())
        async with database(config) as db:
            return await agents.transcript(db, agent_id)

    told = run_async(main())
    if output == "json":
        emit(told, output=output)
        return
    emit({name: value for name, value in told.agent.items() if value is not None})
    bill = sum((step["cost_usd"] or Decimal() for step in told.steps), Decimal())
    tokens = sum(step["tokens"] for step in told.steps)
    if told.steps:
        click.echo()
        title = f"{len(told.steps)} steps, {tokens:,} tokens, {dollars(bill)}"
        emit(told.steps, columns=_STEPS, title=title, fold=True)


@agent.command()
@agent_argument
@reason_option
def cancel(agent_id: UUID, reason: str) -> None:
    """End an agent that has not ended, and all it handed work to. Takes an operator's login."""
    ended = _operate(lambda agents, db: agents.cancel(db, agent_id, reason, os_user()))
    talk(f"cancelled {agent_id}: {ended} task(s) ended")


@agent.command()
@agent_argument
@click.option("--max-tokens", type=click.IntRange(1, MOST_TOKENS), help="What it may use in all from now on.")
@click.option("--max-usd", type=amount, metavar="AMOUNT", help="The same in dollars.")
@click.option("--max-steps", type=click.IntRange(1, 100_000), help="How many steps it may take in all.")
@reason_option
def resume(agent_id: UUID, max_tokens: int | None, max_usd: Decimal | None, max_steps: int | None, reason: str) -> None:
    """Let a dead agent go on from the step that died, with what that had on record. Takes an operator's login."""
    caps = {"tokens": max_tokens, "usd": max_usd, "steps": max_steps}
    task = _operate(lambda agents, db: agents.resume(db, agent_id, **caps, by=os_user(), reason=reason))
    talk(f"resumed {agent_id} as task {task}")


@agent.command()
@agent_argument
@click.option(
    "--at", "steps", type=click.IntRange(1, MOST_ROWS), required=True, help="The last step that the new agent shares."
)
def fork(agent_id: UUID, steps: int) -> None:
    """Begin a new agent from the first steps of another; its id is printed. Takes an operator's login.

    What those steps did is not done again, and not billed again.
    """
    click.echo(_operate(lambda agents, db: agents.fork(db, agent_id, steps, os_user())))


def _operate(work: Any) -> Any:
    async def main() -> Any:
        from backbeat.operate import agents
        from shared.config import load

        async with database(load(), operator=True) as db:
            asked: Coroutine[Any, Any, Any] = work(agents, db)
            return await asked

    return run_async(main())
