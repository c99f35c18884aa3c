"""`backbeat audit`: the hash-chained record of decisions and of what operators did."""

import json
from typing import Any

import click

from backbeat.cli.output import database, emit, output_option, run_async
from shared.errors import EXIT_FAILURE

_PAGE = 1000


@click.group()
def audit() -> None:
    """Verify and export the record of what people decided and did.

    Each row holds the hash of the one before it. Who owns the database could write the whole chain anew, so keep the
    head that `verify` prints somewhere else, and hand it back as --head.
    """


@audit.command()
@click.option("--head", metavar="ID:HASH", help="A head that was kept elsewhere: the log must still contain it.")
@output_option
def verify(head: str | None, output: str) -> int | None:
    """Recompute the chain; exit 1 at the first row that is not as it was written."""
    kept, _, wanted = (head or "").partition(":")
    if head and not (kept.isdigit() and wanted):
        raise click.BadParameter(f"{head!r} is not ID:HASH", param_hint="--head")

    async def main() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        from backbeat.operate import approvals
        from shared.config import load

        async with database(load()) as db:
            broken = await approvals.audit_problems(db)
            if not broken and head:
                (row,) = await approvals.audit_rows(db, int(kept) - 1, 1) or [{"id": None, "hash": ""}]
                if (row["id"], row["hash"]) != (int(kept), wanted.lower()):
                    broken = [{"id": int(kept), "problem": "it is not the row that was kept: the chain was rewritten"}]
            return await approvals.audit_head(db), broken

    found, broken = run_async(main())
    sheet: dict[str, Any] = {"head": f"{found['id']}:{found['hash']}", "rows": found["id"], "problem": None}
    if broken:
        sheet["problem"] = f"row {broken[0]['id']}: {broken[0]['problem']}"
    emit(sheet, output=output)
    return EXIT_FAILURE if broken else None


@audit.command()
@click.option(
    "--after", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Rows with a higher id only."
)
def export(after: int) -> None:
    """Print the log as JSON lines, oldest first, with the hashes that chain it."""

    async def main() -> None:
        from backbeat.operate import approvals
        from shared.config import load

        async with database(load()) as db:
            last = after
            while rows := await approvals.audit_rows(db, last, _PAGE):
                for row in rows:
                    click.echo(json.dumps({**row, "at": row["at"].isoformat()}, ensure_ascii=True))
                last = rows[-1]["id"]

    run_async(main())
