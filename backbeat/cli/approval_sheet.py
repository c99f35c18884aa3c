"""How an approval request looks to people, and the options that its commands share."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbeat.cli.arguments import Id
from backbeat.cli.output import emit
from backbeat.visible import clean, one_line

if TYPE_CHECKING:
    from shared.db.approvals import Request

SHORTEST_HASH = 12  # digits that `--hash` needs
request_argument = click.argument("request", type=Id("request"))
comment_option = click.option("--comment", default="", metavar="TEXT", help="Why; kept with the decision for ever.")
token_option = click.option(
    "--token-file", type=click.Path(path_type=Path), metavar="FILE", help="Who you are. [env: BACKBEAT_TOKEN_FILE]"
)


def sheet(found: "Request") -> dict[str, Any]:
    from dataclasses import asdict

    from backbeat.decide import eligible

    approve = found.policy.get("on_expiry") == "approve"
    return {
        **asdict(found),
        "who_may_decide": eligible(found.policy),
        "on_expiry": "approved, if nobody edited it" if approve else "rejected: nothing happens",
        "note": _note(found),
    }


def _note(found: "Request") -> str | None:
    """What somebody who looks at an open request should know."""
    if found.closed_at is not None:
        return None
    notes = [
        "nobody who may decide holds a token" if found.stuck else "",
        "no worker has loaded its effect" if found.editable is None else "",
        f"changes requested: {found.asked}" if found.state == "changes" else "",
        f"{found.claimed_by} is looking at it" if found.claimed_by else "",
        f"{found.approvals} approved" if found.approvals else "",
        f"revision {found.revision}" if found.revision > 1 else "",
    ]
    return "; ".join(filter(None, notes)) or None


def event(entry: dict[str, Any]) -> dict[str, Any]:
    detail = entry["detail"]
    note = detail.get("problem") or detail.get("verdict") or detail.get("comment") or ""
    if "for" in detail:
        note = f"for {detail['for']}: {note}".rstrip(": ")
    return {"at": entry["at"], "who": entry["actor"], "what": entry["action"], "note": note}


def show(found: "Request") -> None:
    """What happens, first; then the content in full, each line marked, so that it cannot pass for ours."""
    from backbeat.decide import duration, moment

    left = f", {found.seconds_left / 60:,.0f} minutes left" if found.closed_at is None else ""
    silence = sheet(found)["on_expiry"]
    said = "is a no: nothing happens" if silence.startswith("rejected") else f"means: {silence}"
    asked = f"task {found.parent_task}, " if found.parent_task else ""
    facts = {
        "if approved": f"{found.payload['effect']}, once, exactly what stands below",
        "deadline": f"{moment(found.deadline)}{left}; no decision by then {said}",
        "who may decide": sheet(found)["who_may_decide"],
        "asked by": f"{asked}workflow {found.temporal_id}, at {moment(found.requested_at)}",
        "sha256": found.content_hash,
        "state": found.state if found.closed_at is None else f"{found.state} by {found.closed_by}",
    }
    if delay := found.policy.get("effect_delay"):
        facts["if approved"] += f"; {duration(delay)} after the approval, until when it can be revoked"
    if note := _note(found):
        facts["note"] = note
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
