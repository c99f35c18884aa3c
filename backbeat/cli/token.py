"""`backbeat token`: who may say that they are somebody."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from backbeat.cli.arguments import Id, duration
from backbeat.cli.output import database, emit, output_option, run_async, talk

_COLUMNS = ("id", "user_name", "groups", "created_at", "created_by", "expires_at", "revoked_at")


@click.group()
def token() -> None:
    """Make and revoke the tokens of approvers.

    A token says who its bearer is. Making and revoking takes the login that runs the migrations (BACKBEAT_DIRECT_URL).
    """


@token.command()
@click.option("--user", required=True, metavar="NAME", help="Who bears it.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="A group the bearer is in; may be repeated.")
@click.option("--expires", type=duration, metavar="30d", help="Worthless after this long; never if not given.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write it there, readable by you alone.")
@output_option
def create(user: str, groups: tuple[str, ...], expires: timedelta | None, out: Path | None, output: str) -> None:
    """Make a token. It is shown once; only what verifies it is kept."""
    from backbeat import tokens

    made = tokens.create()
    if out:
        _write(out, made)
    try:
        token_id = run_async(_store(tokens.key(made), user, groups, expires))
    except BaseException:
        if out:
            out.unlink()
        raise
    sheet = {"id": token_id, "user": user, "groups": list(groups), "file": str(out) if out else None}
    if output == "json":
        emit(sheet | ({} if out else {"token": made}), output=output)
        return
    if not out:
        click.echo(made)
    talk(f"token {token_id} of {user}" + (f" is in {out}" if out else "; it is not shown again"))


@token.command("list")
@output_option
def list_(output: str) -> None:
    """List tokens, without what makes them work."""

    async def main() -> list[dict[str, Any]]:
        from backbeat.operate import tokens
        from shared.config import load

        async with database(load()) as db:
            return await tokens.find(db)

    emit(run_async(main()), columns=_COLUMNS, output=output, title="tokens")


@token.command()
@click.argument("token_id", metavar="ID", type=Id("token", digits=16))
def revoke(token_id: str) -> None:
    """Make a token worthless from now on; what was decided with it stands."""

    async def main() -> None:
        from backbeat.operate import tokens
        from shared.config import load

        async with database(load(), owner=True) as db:
            await tokens.revoke(db, token_id)

    run_async(main())
    talk(f"token {token_id}: revoked")


async def _store(key: bytes, user: str, groups: tuple[str, ...], expires: timedelta | None) -> str:
    from backbeat.operate import tokens
    from shared.config import load

    async with database(load(), owner=True) as db:
        return await tokens.create(db, key, user, groups, expires.total_seconds() if expires else None)


def _write(path: Path, text: str) -> None:
    from shared.errors import ConfigError, ConflictError

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConflictError(f"{path} exists", fix="Name another file, or remove it: its token stays valid") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", fix="Name another file") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{text}\n")
