"""`backbeat batch`: calls that wait for a vendor's batch, at half the price."""

from typing import Any

import click

from backbeat.cli import pausing
from backbeat.cli.output import emit, os_user, output_option, talk

_COLUMNS = ("tag", "status", "route", "calls", "open", "reserved_usd", "vendor_id", "intended_at", "note")


@click.group()
def batch() -> None:
    """See the calls that go by batch; cancel a batch; say what became of one.

    A batch is intended before it is submitted, and ended when each of its calls is closed. One is unsure when nobody
    but you can say whether the vendor has it: ticks go on asking, and nothing is submitted twice meanwhile.
    """


@batch.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that are over, too.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@output_option
def list_(everything: bool, limit: int, output: str) -> None:
    """List the batches under way, the newest first, and what waits for one."""
    from backbeat.operate import batches

    found = pausing.with_database(lambda db: batches.listing(db, limit, everything=everything), operator=False)
    waits = pausing.with_database(batches.waiting, operator=False)
    if output == "json":
        emit({"batches": found, "waiting": waits}, output=output)
        return
    emit(found, columns=_COLUMNS, title="batches")
    for row in waits:
        talk(f"{row['calls']} calls wait for a batch on {row['route']} since {row['since']:%H:%M:%S} UTC")


@batch.command()
@click.argument("tag")
def cancel(tag: str) -> None:
    """Let the vendor begin no more of a batch. Takes an operator's login (BACKBEAT_OPERATOR_URL).

    What is answered by then is paid for and used; the rest is asked again, in another batch. To give the work up,
    cancel its tasks: `backbeat task cancel`.
    """
    talk(f"batch {_say(tag, 'cancel')}: the next tick asks the vendor to cancel it")


@batch.command()
@click.argument("tag")
@click.option("--found", metavar="VENDOR_ID", help="It is at the vendor's under this id.")
@click.option("--unsent", is_flag=True, help="The vendor certainly never got it: its calls wait for another batch.")
@click.option("--lost", is_flag=True, help="Nobody will ever know: its calls are presumed spent and asked again.")
def resolve(tag: str, found: str | None, unsent: bool, lost: bool) -> None:
    """Say what became of an unsure batch, after looking at the vendor's own page of batches.

    Takes an operator's login (BACKBEAT_OPERATOR_URL). Presumed spent is presumed until `backbeat budget reconcile`.
    """
    words: dict[str, Any] = {"found": found, "unsent": unsent, "lost": lost}
    said = [word for word, given in words.items() if given]
    if len(said) != 1:
        raise click.UsageError("say one of --found VENDOR_ID, --unsent and --lost")
    talk(f"batch {_say(tag, said[0], found)}: {said[0]}")


def _say(tag: str, word: str, vendor_id: str | None = None) -> str:
    from backbeat.operate import batches

    return pausing.with_database(lambda db: batches.resolve(db, tag, word, vendor_id, os_user()))
