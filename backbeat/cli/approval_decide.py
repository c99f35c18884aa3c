"""`backbeat approval approve | reject | request-changes | revoke | edit`: decisions on exactly what was shown."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from backbeat.cli.approval_sheet import SHORTEST_HASH, comment_option, request_argument, show, token_option
from backbeat.cli.arguments import Id, json_value
from backbeat.cli.output import database, emit, output_option, run_async, talk

if TYPE_CHECKING:
    from backbeat.decide import DecisionResult
    from shared.config import Config
    from shared.db.approvals import Request
    from shared.db.pool import Database

_hash_option = click.option("--hash", "shown", metavar="HEX", help="What `show` showed: at least its first 12 digits.")


@dataclass(frozen=True, slots=True)
class Wish:
    """What one command wants to do, to one request or to each of several."""

    decision: str
    comment: str
    body: dict[str, Any] | None = None
    problem: str | None = None


class Shown(Id):
    """A request's id, and behind a colon the first digits of the hash that was shown, where several are decided."""

    def __init__(self) -> None:
        super().__init__("request")
        self.name = "request[:hash]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """(id, hash or None)."""
        id_, _, shown = str(value).partition(":")
        return super().convert(id_, param, ctx), _digits(shown) if shown else None


def _command(name: str, decision: str, help_: str) -> click.Command:
    """A decision on one request, or on many: each its own transaction and its own line."""

    @click.command(name, help=help_)
    @click.argument("requests", type=Shown(), nargs=-1)
    @click.option("--all", "everything", is_flag=True, help="All that you may approve and have not.")
    @click.option("--yes", is_flag=True, help="With --all: do not ask.")
    @_hash_option
    @comment_option
    @token_option
    @output_option
    def command(
        requests: tuple[tuple[UUID, str | None], ...],
        everything: bool,
        yes: bool,
        shown: str | None,
        comment: str,
        token_file: Path | None,
        output: str,
    ) -> int | None:
        wish = Wish(decision, comment)
        if everything == bool(requests):
            raise click.UsageError("name requests, or say --all")
        if len(requests) == 1 and not everything:
            (id_, behind), *_ = requests
            _one(id_, wish, _digits(shown) if shown else behind, token_file, output)
            return None
        if shown is not None:
            raise click.UsageError("with several requests the hash stands behind each: ID:HASH")
        return _many(dict(requests), wish, yes, token_file, output)

    return command


approve = _command("approve", "approve", "Let it happen. At a terminal without --hash, you see it first and are asked.")
reject = _command("reject", "reject", "Do not let it happen. One rejection is enough.")
changes = _command(
    "request-changes", "request_changes", "Send it back with a --comment; whoever asked comes with a new revision."
)
revoke = _command("revoke", "revoke", "Take an approval back, as long as its effect has not begun.")


@click.command()
@request_argument
@click.option("--file", type=click.File(), metavar="FILE", help="The new content as JSON; - is stdin.")
@click.option("--set", "fields", multiple=True, metavar="FIELD=JSON", help="Change one field; may be repeated.")
@_hash_option
@comment_option
@token_option
@output_option
def edit(
    request: UUID,
    file: Any,
    fields: tuple[str, ...],
    shown: str | None,
    comment: str,
    token_file: Path | None,
    output: str,
) -> None:
    """Change what would happen. It is a new revision with a new hash: earlier approvals are void.

    The content must fit the model its effect declares, so this host loads the workers' definitions
    (BACKBEAT_DEFINITIONS).
    """
    if bool(file) == bool(fields):
        raise click.UsageError("say either --file FILE or --set FIELD=JSON")
    given = json_value(file.read()) if file else None

    def wish(found: "Request", config: "Config") -> Wish:
        from backbeat.decide import edit_problem
        from shared.definitions import load_definitions

        body = given if file else {**found.payload["request"], **dict(_field(text) for text in fields)}
        effects = load_definitions(config.definitions, config.prompt_tools).effects
        # One that nobody may edit is refused by Postgres, on record, whatever is loaded here.
        problem = edit_problem(effects, found.payload["effect"], body) if found.editable else None
        return Wish("edit", comment, body, problem)

    _one(request, wish, _digits(shown) if shown else None, token_file, output)


COMMANDS = (approve, reject, changes, edit, revoke)


def _field(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise click.BadParameter(f"{text!r} is not FIELD=JSON", param_hint="--set")
    return name, json_value(value)


def _digits(shown: str) -> str:
    if len(shown) < SHORTEST_HASH:
        raise click.BadParameter(f"needs at least {SHORTEST_HASH} digits", param_hint="--hash")
    return shown.lower()


def _one(
    request: UUID,
    wish: "Wish | Callable[[Request, Config], Wish]",
    shown: str | None,
    file: Path | None,
    output: str,
) -> None:
    from backbeat import tokens
    from shared.config import load

    config = load(token_file=file)
    token = tokens.read(config.token_file)

    async def main() -> "DecisionResult":
        from shared.db import approvals

        async with database(config) as db:
            found = await approvals.get(db, request)
            wanted = wish if isinstance(wish, Wish) else wish(found, config)
            if shown is None and found.closed_at is None:
                if not sys.stdin.isatty():
                    raise click.UsageError("--hash is needed when nobody sits at a terminal: `approval show` prints it")
                show(found if wanted.body is None else replace(found, payload=found.payload | {"request": wanted.body}))
                click.confirm(f"\n{wanted.decision} exactly this?", abort=True, err=True)
            return await _submit(db, token, found, wanted, shown)

    result = run_async(main())
    if output == "json":
        emit(result, output=output)
        return
    more = " (others must approve too)" if result.state == "pending" and result.decision == "approve" else ""
    talk(f"{result.user}: {result.decision}; the request is {result.state}{more}")


async def _submit(db: "Database", token: str, found: "Request", wish: Wish, shown: str | None) -> "DecisionResult":
    from backbeat.decide import decide

    actual = found.content_hash
    if shown is not None and not actual.startswith(shown):
        # Postgres refuses it, on record: no content hashes to the digits that were given with noughts behind them.
        actual = shown.ljust(64, "0")
    return await decide(
        db, token, found.id, wish.decision, actual, comment=wish.comment, body=wish.body, problem=wish.problem
    )


def _many(named: dict[UUID, str | None], wish: Wish, yes: bool, file: Path | None, output: str) -> int:
    """The exit code of the first that was refused; the others are decided all the same."""
    from backbeat import tokens
    from shared.config import load

    config = load(token_file=file)
    token = tokens.read(config.token_file)
    if missing := [str(id_) for id_, shown in named.items() if shown is None]:
        raise click.UsageError(f"say what you were shown: {missing[0]}:HASH (`approval list -o json` has the hashes)")

    async def main() -> list[tuple[dict[str, Any], int]]:
        from backbeat.operate.approvals import find

        async with database(config) as db:
            shown: dict[UUID, str | None] = dict(named)
            if not named:
                found = await find(db, "open", 1000, tokens.fingerprint(token))
                _ask(found, wish, yes)
                shown = {each.id: each.content_hash for each in found}
            return [await _line(db, token, id_, wish, seen) for id_, seen in shown.items()]

    lines = run_async(main())
    emit([line for line, _ in lines], columns=("id", "verdict", "note"), output=output, title="requests")
    return next((code for _, code in lines if code), 0)


def _ask(found: "list[Request]", wish: Wish, yes: bool) -> None:
    if yes or not found:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("--all needs --yes when nobody sits at a terminal")
    for each in found:
        show(each)
    click.confirm(f"\n{wish.decision} exactly these {len(found)}?", abort=True, err=True)


async def _line(db: "Database", token: str, request: UUID, wish: Wish, shown: str | None) -> tuple[dict[str, Any], int]:
    from shared.db import approvals
    from shared.errors import BackbeatError, UnavailableError

    try:
        result = await _submit(db, token, await approvals.get(db, request), wish, shown)
    except UnavailableError:
        raise
    except BackbeatError as error:
        return {"id": request, "verdict": "refused", "note": str(error), "state": None}, error.exit_code
    return {"id": request, "verdict": result.state, "note": "", "state": result.state}, 0
