"""`backbeat approval`: what waits for a person, what exactly would happen, and the decision."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from backbeat.cli.arguments import Id
from backbeat.cli.output import clean, database, emit, one_line, output_option, run_async, talk

if TYPE_CHECKING:
    from shared.db.approvals import Request

SHORTEST_HASH = 12  # digits that `--hash` needs
_STATES = ("pending", "approved", "rejected", "expired", "cancelled", "all")
_request = click.argument("request", type=Id("request"))
_comment = click.option("--comment", default="", metavar="TEXT", help="Why; kept with the decision for ever.")
_token_file = click.option(
    "--token-file", type=click.Path(path_type=Path), metavar="FILE", help="Who you are. [env: BACKBEAT_TOKEN_FILE]"
)


@click.group()
def approval() -> None:
    """See what waits for a person, and decide.

    Who decides is who the token says; there is no flag for it. A decision holds for exactly what was shown, until the
    request's deadline. No decision by then is a no.
    """


@approval.command("list")
@click.option("--state", type=click.Choice(_STATES), default="pending", show_default=True)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@output_option
def list_(state: str, limit: int, output: str) -> None:
    """List requests: open ones first, the nearest deadline first."""

    async def main() -> "list[Request]":
        from shared.config import load
        from shared.db import approvals

        async with database(load()) as db:
            return await approvals.find(db, None if state == "all" else state, limit)

    columns = ("deadline", "who_may_decide") if state == "pending" else ("state", "closed_by", "closed_at")
    emit([_sheet(found) for found in run_async(main())], columns=("id", "title", *columns), output=output)


@approval.command()
@_request
@output_option
def show(request: UUID, output: str) -> None:
    """Show exactly what would happen, and what has been decided."""

    async def main() -> "tuple[Request, list[dict[str, Any]]]":
        from shared.config import load
        from shared.db import approvals

        async with database(load()) as db:
            return await approvals.get(db, request), await approvals.history(db, request)

    found, history = run_async(main())
    if output == "json":
        emit({**_sheet(found), "history": history}, output=output)
        return
    _show(found)
    emit([_event(entry) for entry in history])
    if found.state == "pending":
        shown = found.content_hash[:SHORTEST_HASH]
        talk(f"\nbackbeat approval approve|reject {found.id} --hash {shown} --comment TEXT")


@approval.command()
@_request
@click.option("--hash", "shown", metavar="HEX", help="What `show` showed: at least its first 12 digits.")
@_comment
@_token_file
@output_option
def approve(request: UUID, shown: str | None, comment: str, token_file: Path | None, output: str) -> None:
    """Let it happen. At a terminal without --hash, you see it first and are asked."""
    _decide(request, "approve", shown, comment, token_file, output)


@approval.command()
@_request
@click.option("--hash", "shown", metavar="HEX", help="What `show` showed: at least its first 12 digits.")
@_comment
@_token_file
@output_option
def reject(request: UUID, shown: str | None, comment: str, token_file: Path | None, output: str) -> None:
    """Do not let it happen. One rejection is enough."""
    _decide(request, "reject", shown, comment, token_file, output)


@approval.command()
@_request
@click.argument("decision", type=click.Choice(["approve", "reject"]))
@_comment
@_token_file
def sign(request: UUID, decision: str, comment: str, token_file: Path | None) -> None:
    """Print the input of a Temporal signal that requests this decision.

    It is good for this decision on this content only. Send it with
    `temporal workflow signal --workflow-id ID --name decide --input JSON`.
    """
    import json

    from shared.config import load
    from shared.security import tokens

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


def _decide(request: UUID, decision: str, shown: str | None, comment: str, file: Path | None, output: str) -> None:
    from backbeat.decide import DecisionResult, decide
    from shared.config import load
    from shared.security import tokens

    if shown is not None and len(shown) < SHORTEST_HASH:
        raise click.BadParameter(f"needs at least {SHORTEST_HASH} digits", param_hint="--hash")
    config = load(token_file=file)
    token = tokens.read(config.token_file)

    async def main() -> DecisionResult:
        from shared.db import approvals
        from shared.errors import ConflictError

        async with database(config) as db:
            found = await approvals.get(db, request)
            actual = found.content_hash
            if shown is not None and not actual.startswith(shown.lower()):
                fix = f"Look again: `backbeat approval show {request}`"
                raise ConflictError(f"the request shows something else now: {actual[:SHORTEST_HASH]}", fix=fix)
            if shown is None and found.state == "pending":
                if not sys.stdin.isatty():
                    raise click.UsageError("--hash is needed when nobody sits at a terminal: `approval show` prints it")
                _show(found)
                click.confirm(f"\n{decision} exactly this?", abort=True, err=True)
            return await decide(db, token, request, decision, actual, comment=comment)

    result = run_async(main())
    if output == "json":
        emit(result, output=output)
    else:
        more = " (others must approve too)" if result.state == "pending" else ""
        talk(f"{result.user}: {result.decision}; the request is {result.state}{more}")


def _sheet(found: "Request") -> dict[str, Any]:
    from dataclasses import asdict

    from backbeat.decide import eligible

    return {**asdict(found), "who_may_decide": eligible(found.policy), "on_expiry": "rejected: nothing happens"}


def _event(entry: dict[str, Any]) -> dict[str, Any]:
    detail = entry["detail"]
    note = detail.get("verdict") or detail.get("comment") or ""
    return {"at": entry["at"], "who": entry["actor"], "what": entry["action"], "note": note}


def _show(found: "Request") -> None:
    """What happens, first; then the content in full, each line marked, so that it cannot pass for ours."""
    from backbeat.decide import moment

    left = f", {found.seconds_left / 60:,.0f} minutes left" if found.state == "pending" else ""
    asked = f"task {found.parent_task}, " if found.parent_task else ""
    facts = {
        "if approved": f"{found.payload['effect']}, once, exactly what stands below",
        "deadline": f"{moment(found.deadline)}{left}; no decision by then is a no: nothing happens",
        "who may decide": _sheet(found)["who_may_decide"],
        "asked by": f"{asked}workflow {found.temporal_id}, at {moment(found.requested_at)}",
        "sha256": found.content_hash,
        "state": found.state if found.state == "pending" else f"{found.state} by {found.closed_by}",
    }
    emit({name: one_line(value) for name, value in facts.items()}, title=one_line(found.title))
    click.echo()
    for line in _lines(found.payload["request"]):
        click.echo(f"  | {clean(line)}")
    click.echo()


def _lines(value: Any, indent: str = "") -> Iterator[str]:
    """A JSON value for reading: fields by line, texts as they are. What is yielded holds no line break."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else ((f"[{at}]", item) for at, item in enumerate(value))
        for name, item in items:
            if isinstance(item, dict | list) or (isinstance(item, str) and "\n" in item):
                yield f"{indent}{one_line(name)}:"
                yield from _lines(item, f"{indent}    ")
            else:
                yield f"{indent}{one_line(name)}: {item}"
    elif isinstance(value, str):
        yield from (f"{indent}{line}" for line in value.split("\n"))
    else:
        yield f"{indent}{value}"
