"""`backbeat task enqueue`: a few payloads with their answers, or a file of any size with a summary."""

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import click

from backbeat.cli.arguments import json_value, moment
from backbeat.cli.output import database, emit, output_option, run_async
from backbeat.visible import clean

if TYPE_CHECKING:
    from rich.progress import Progress

    from backbeat.producer.rows import Enqueued, Terms
    from shared.config import Config
    from shared.definitions import Definition
    from shared.execution.payloads import Row

SHOWN = 100  # bad lines that the summary repeats
IN_MEMORY = 8 * 1_048_576  # bytes of checked payloads before they go to a temporary file


@dataclass(slots=True)
class Summary:
    """What became of a file's lines."""

    new: int = 0
    known: int = 0
    bad: int = 0
    bad_lines: list[dict[str, Any]] = field(default_factory=list)


@click.command()
@click.argument("name")
@click.option("--payload", "--input", type=json_value, metavar="JSON", help="One payload.")
@click.option(
    "--file", "file", type=click.File(encoding="utf-8"), help="A JSON payload, or a list of them; - is stdin."
)
@click.option(
    "--from", "source", type=click.File("rb"), help="Many: JSON lines, or CSV with a header, of any size; - is stdin."
)
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv"]), help="Of --from, if its name does not say.")
@click.option(
    "--on-bad",
    type=click.Choice(["abort", "skip"]),
    default="abort",
    show_default=True,
    help="With --from: one bad line and nothing is enqueued, or the others are.",
)
@click.option("--version", type=click.IntRange(1), help="Of the definition; the newest if not given.")
@click.option("--tenant", default="default", show_default=True)
@click.option(
    "--class",
    "class_",
    type=click.Choice(["urgent", "high", "normal", "low"]),
    default="normal",
    show_default=True,
)
@click.option("--run-after", type=moment, metavar="WHEN", help="Not before: 2030-01-31T08:00:00Z, or +10m.")
@click.option("--expires-at", type=moment, metavar="WHEN", help="Drop it if it has not begun by then.")
@click.option("--salt", default="", help="Equal payloads are one task; a salt makes them another.")
@output_option
def enqueue(
    name: str,
    payload: Any,
    file: TextIO | None,
    source: BinaryIO | None,
    format_: str | None,
    on_bad: str,
    version: int | None,
    output: str,
    **how: Any,
) -> None:
    """Enqueue tasks of a definition.

    Payloads are checked against the definition first, which must be in a module that BACKBEAT_DEFINITIONS names, or
    `prompt`, which is always there. The same payload again answers with the task that has it. --from goes in by the
    thousand, each of those at once: killed half-way and run again, every line is one task.
    """
    if sum(given is not None for given in (payload, file, source)) != 1:
        raise click.UsageError("give one of --payload, --file and --from")
    if source is not None:
        emit(_from(source, format_, on_bad == "skip", name, version, how), output=output)
        return
    payloads = [payload] if file is None else _read(file)
    added = run_async(_enqueue(name, version, payloads, how))
    emit([{"task_id": each.task_id, "status": each.status, "new": each.created} for each in added], output=output)


def _definition(config: "Config", name: str, version: int | None) -> "Definition":
    from shared.definitions import load_definitions
    from shared.errors import DefinitionError

    registry = load_definitions(config.definitions)
    definition = registry.newest(name) if version is None else registry.tasks.get(f"{name}@{version}")
    if definition is None:
        loaded = ", ".join(sorted(registry.tasks)) or "none"
        raise DefinitionError(f"no loaded module defines {name}@{version}", fix=f"Loaded: {loaded}")
    return definition


async def _enqueue(name: str, version: int | None, payloads: Sequence[Any], how: Mapping[str, Any]) -> "list[Enqueued]":
    from backbeat.producer.submit import submit
    from shared.config import load
    from shared.execution.telemetry import open_telemetry

    config = load()
    definition = _definition(config, name, version)
    async with database(config) as db:
        telemetry = open_telemetry(config, "backbeat")
        try:
            return await submit(db, telemetry, definition, payloads, **how)
        finally:
            telemetry.close()


def _read(file: TextIO) -> list[Any]:
    try:
        found = json.load(file)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{file.name} is not JSON: {error}", param_hint="--file") from None
    return found if isinstance(found, list) else [found]


def _from(
    source: BinaryIO, format_: str | None, skip: bool, name: str, version: int | None, how: Mapping[str, Any]
) -> Summary:
    from rich.console import Console
    from rich.progress import Progress

    from backbeat.producer.rows import Terms
    from shared.config import load

    csv = format_ == "csv" if format_ else source.name.lower().endswith(".csv")
    config = load()
    definition = _definition(config, name, version)
    terms = Terms(workflow=name, version=definition.version, **{key: how[key] for key in how if key != "salt"})
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        checked = _Checked(definition, source, csv, how["salt"], progress)
        rows: Iterable[Row] = checked if skip else _all_or_none(checked, progress)
        return run_async(_send(config, definition, terms, rows, checked.summary))


class _Checked:
    """The good lines of a file, prepared; iterating counts and reports the bad ones."""

    def __init__(self, definition: "Definition", source: BinaryIO, csv: bool, salt: str, progress: "Progress") -> None:
        self.summary = Summary()
        self._definition, self._source, self._csv, self._salt = definition, source, csv, salt
        self._progress = progress

    def __iter__(self) -> "Iterator[Row]":
        from backbeat.cli.lines import csv_rows, json_lines
        from shared.errors import InputError
        from shared.execution.payloads import prepared

        size = _size(self._source)
        bar = self._progress.add_task("reading", total=size)
        for count, (number, value) in enumerate((csv_rows if self._csv else json_lines)(self._source)):
            if size and count % 1000 == 0:
                self._progress.update(bar, completed=self._source.tell())
            try:
                if isinstance(value, InputError):
                    raise value
                yield prepared(self._definition, value, self._salt, strings=self._csv)
            except InputError as error:
                self._report(number, error.what.removeprefix(f"{self._definition.full_name}: "))
        self._progress.remove_task(bar)

    def _report(self, number: int, reason: str) -> None:
        self.summary.bad += 1
        if self.summary.bad <= SHOWN:
            self.summary.bad_lines.append({"line": number, "reason": reason})
        said = clean(f"line {number}: {reason}")
        self._progress.console.print(said, markup=False, highlight=False, soft_wrap=True)


def _all_or_none(checked: _Checked, progress: "Progress") -> "Iterator[Row]":
    """The rows, once all lines were found good; in between they lie in a file. Raises InputError when one was bad."""
    from shared.errors import InputError

    with tempfile.SpooledTemporaryFile(IN_MEMORY) as spool:
        good = 0
        for text, key in checked:
            spool.write(b"%b %b\n" % ((key or b"").hex().encode(), text))
            good += 1
        if bad := checked.summary.bad:
            what = f"{bad} line{' is' if bad == 1 else 's are'} bad, so nothing was enqueued"
            raise InputError(what, fix="Correct the file, or leave such lines out with --on-bad skip")
        spool.seek(0)
        for line in progress.track(spool, total=good, description="enqueuing"):
            key, _, text = line[:-1].partition(b" ")
            yield text, bytes.fromhex(key.decode()) or None


async def _send(
    config: "Config", definition: "Definition", terms: "Terms", rows: "Iterable[Row]", summary: Summary
) -> Summary:
    from backbeat.producer.submit import ABREAST, submit_many
    from shared.execution.telemetry import open_telemetry

    async with database(config, connections=ABREAST) as db:
        telemetry = open_telemetry(config, "backbeat")
        try:
            async for sent, new in submit_many(db, telemetry, definition, terms, rows):
                summary.new += new
                summary.known += sent - new
        finally:
            telemetry.close()
    return summary


def _size(file: BinaryIO) -> int | None:
    """How many bytes there are to read, where that is known."""
    import os
    import stat

    try:
        status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
