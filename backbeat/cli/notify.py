"""`backbeat notify`: what waits for people, on its way to mail, chat and webhooks."""

import asyncio
import signal

import click

from backbeat.cli.output import database, emit, output_option, run_async, talk

_COLUMNS = ("id", "channel", "recipient", "status", "attempts", "notifications", "due_at", "last_error")


@click.group()
def notify() -> None:
    """Tell people what waits for them: mail, chat, webhooks.

    The table [notify] of the settings names the channels. Run `notify send --watch` as a service, or `notify send` on a
    timer; several at once are fine. Everything arrives at least once, under an id that stays the same.
    """


@notify.command()
@click.option("--watch", is_flag=True, help="Go on until SIGTERM.")
@output_option
@click.pass_context
def send(ctx: click.Context, watch: bool, output: str) -> None:
    """Send what is due.

    Exits 75 when something was not taken and will be tried again.
    """
    from backbeat.notify import run
    from backbeat.notify.settings import read
    from shared.config import load
    from shared.errors import EXIT_OK, EXIT_TEMPORARY

    config = load()
    settings = read(config.notify, config.source)

    async def main() -> run.Report:
        async with database(config) as db:
            if not watch:
                return await run.once(db, settings)
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            talk(f"notify: sending to {', '.join(settings.channels)}")
            return await run.watch(db, settings, stop, talk)

    report = run_async(main())
    if report.unheard:
        talk(f"note: {report.unheard} notifications are for nobody whom a channel reaches")
    emit(report, output=output)
    ctx.exit(EXIT_TEMPORARY if report.waiting and not watch else EXIT_OK)


@notify.command("list")
@click.option("--status", type=click.Choice(["open", "sent", "dead", "withdrawn"]))
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@output_option
def list_(status: str | None, limit: int, output: str) -> None:
    """List messages, the newest first, with what went wrong last."""
    from backbeat.notify import run
    from shared.config import load

    async def main() -> list[dict[str, object]]:
        async with database(load()) as db:
            return await run.messages(db, status, limit)

    emit(run_async(main()), columns=_COLUMNS, output=output)
