"""`backbeat metrics`: figures for operators."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from backbeat.cli.output import database, emit, run_async, talk

if TYPE_CHECKING:
    from backbeat.metrics.collect import Sample
    from shared.config import Config


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, int] | None:  # noqa: ARG001
    """PORT on loopback, or HOST:PORT."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{value!r} is no PORT and no HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


@click.command()
@click.option("--listen", callback=_address, metavar="[HOST:]PORT", help="Serve /metrics there until SIGTERM.")
@click.option(
    "--textfile", type=click.Path(path_type=Path, dir_okay=False), help="Write this file for node_exporter, whole."
)
@click.option(
    *("-o", "--output"),
    type=click.Choice(["text", "json", "prometheus"]),
    default="text",
    show_default=True,
    help="A table for people, JSON for programs, or Prometheus' format.",
)
def metrics(listen: tuple[str, int] | None, textfile: Path | None, output: str) -> None:
    """Show queues, ticks, routes, budgets, outbox, approvals and spool as figures.

    They are the state of the database and of this host's spool, so one `--listen` for a database is enough, whatever
    number of workers it has. Where only ticks run, `--textfile` after each keeps a file that node_exporter publishes.
    At most 20 tenants, routes and budgets have a name; the rest of the tenants and routes is `_other`.
    """
    from backbeat.metrics.expose import text, write
    from shared.config import load

    config = load()
    if listen and textfile:
        raise click.UsageError("--listen and --textfile are two ways; choose one")
    if listen:
        return _serve(config, *listen)
    samples = run_async(_samples(config))
    if textfile:
        write(textfile, text(samples))
    elif output == "prometheus":
        click.echo(text(samples), nl=False)
    else:
        rows = [_row(sample) for sample in samples]
        if output == "text":
            rows = [row | {"value": f"{row['value']:.6g}"} for row in rows]
        emit(rows, output=output)
    return None


async def _samples(config: "Config") -> "list[Sample]":
    from backbeat.metrics.collect import collect

    async with database(config) as db:
        return await collect(db, config.spool_dir)


def _serve(config: "Config", host: str, port: int) -> None:
    import signal
    import threading

    from backbeat.metrics.collect import Sample
    from backbeat.metrics.collect import host as here
    from backbeat.metrics.expose import Endpoint, text
    from shared.errors import UnavailableError

    def collected() -> str:
        try:
            return text(run_async(_samples(config)))
        except UnavailableError:
            return text([Sample("backbeat_up", (), 0), *here(config.spool_dir)])

    endpoint = Endpoint(host, port, collected)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=endpoint.close).start())
    talk(f"metrics: http://{host}:{endpoint.port}/metrics")
    endpoint.serve()


def _row(sample: "Sample") -> dict[str, object]:
    from backbeat.metrics.catalogue import CATALOGUE

    metric = next(each for each in CATALOGUE if each.name == sample.metric)
    labels = dict(zip(metric.labels, sample.labels, strict=True))
    about = ", ".join(f"{name}={value}" for name, value in labels.items())
    return {"metric": sample.metric, "labels": about, "value": sample.value, "unit": metric.unit}
