"""`backbeat approval`: what waits for a person, what exactly would happen, and the decision."""

from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from backbeat.cli import approval_decide, approval_more
from backbeat.cli.approval_sheet import SHORTEST_HASH, comment_option, event, request_argument, sheet, token_option
from backbeat.cli.approval_sheet import show as show_request
from backbeat.cli.output import database, emit, output_option, run_async, talk

if TYPE_CHECKING:
    from shared.db.approvals import Request

_STATES = ("open", "pending", "changes", "approved", "rejected", "expired", "cancelled", "revoked", "all")


@click.group()
def approval() -> None:
    """See what waits for a person, and decide.

    Who decides is who the token says; there is no flag for it. A decision holds for exactly what was shown, until the
    request's deadline. No decision by then is a no.
    """


@approval.command("list")
@click.option("--state", type=click.Choice(_STATES), default="open", show_default=True)
@click.option("--mine", is_flag=True, help="Only what you may approve and have not, as your token says.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@token_option
@output_option
def list_(state: str, mine: bool, limit: int, token_file: Path | None, output: str) -> None:
    """List requests: open ones first, the nearest deadline first."""
    from backbeat import tokens
    from shared.config import load

    config = load(token_file=token_file)
    me = tokens.fingerprint(tokens.read(config.token_file)) if mine else None

    async def main() -> "list[Request]":
        from backbeat.operate.approvals import find

        async with database(config) as db:
            return await find(db, None if state == "all" else state, limit, me)

    columns = ("deadline", "note", "who_may_decide") if state in _STATES[:3] else ("state", "closed_by", "closed_at")
    emit([sheet(found) for found in run_async(main())], columns=("id", "title", *columns), output=output)


@approval.command()
@request_argument
@output_option
def show(request: UUID, output: str) -> None:
    """Show exactly what would happen, and what has been decided."""

    async def main() -> "tuple[Request, list[dict[str, Any]]]":
        from backbeat.operate.approvals import history
        from shared.config import load
        from shared.db import approvals

        async with database(load()) as db:
            return await approvals.get(db, request), await history(db, request)

    found, past = run_async(main())
    if output == "json":
        emit({**sheet(found), "history": past}, output=output)
        return
    show_request(found)
    emit([event(entry) for entry in past])
    if found.closed_at is None:
        shown = found.content_hash[:SHORTEST_HASH]
        talk(f"\nbackbeat approval approve|reject {found.id} --hash {shown} --comment TEXT")


@approval.command()
@request_argument
@click.argument("decision", type=click.Choice(["approve", "reject"]))
@comment_option
@token_option
def sign(request: UUID, decision: str, comment: str, token_file: Path | None) -> None:
    """Print the input of a Temporal signal that requests this decision.

    It is good for this decision on this content only. Send it with
    `temporal workflow signal --workflow-id ID --name decide --input JSON`.
    """
    import json

    from backbeat import tokens
    from shared.config import load

    config = load(token_file=token_file)
    token = tokens.read(config.token_file)

    async def main() -> "Request":
        from shared.db import approvals

        async with database(config) as db:
            return await approvals.get(db, request)

    found = run_async(main())
    shown = found.content_hash
    proof = tokens.sign(token, request, decision, shown, comment)
    click.echo(json.dumps({"decision": decision, "hash": shown, "comment": comment, "proof": proof}))
    talk(f"for workflow {found.temporal_id}")


for _command in (*approval_decide.COMMANDS, *approval_more.COMMANDS):
    approval.add_command(_command)
