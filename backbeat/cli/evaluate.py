"""`backbeat eval`: which tier is good enough, measured on labelled inputs through the real queue."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click

from backbeat.cli.arguments import Number
from backbeat.cli.output import database, emit, output_option, run_async, say_what_is_simulated, talk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backbeat.evaluate.dataset import Case
    from backbeat.evaluate.score import TierScore
    from shared.config import Config
    from shared.db.pool import Database
    from shared.definitions import Definition
    from shared.telemetry.spans import Telemetry

_COLUMNS = ("tier", "answered", "correct", "accuracy", "interval", "usd_per_correct", "usd", "p50_s", "p95_s", "faults")
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("eval")
def evaluate() -> None:
    """Measure what the tiers get right."""


@evaluate.command()
@click.option("--definition", "name", help="What to evaluate; may be left out where only one is loaded.")
@click.option("--dataset", type=_FILE, help='JSON lines: {"input": …, "expected": {…}}.')
@click.option("--from-feedback", is_flag=True, help="Take what people said of finished tasks instead.")
@click.option("--sample", "size", type=click.IntRange(1, 10_000), default=200, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Which sample.")
@click.option("--target", type=Number(0, 1, min_open=True, max_open=True), default=0.9, show_default=True)
@click.option("--tier", "tiers", multiple=True, help="Only these; may be given again.")
@click.option("--scorer", type=click.Choice(["exact", "schema", "model"]), default="exact", show_default=True)
@click.option("--grader", default="large", show_default=True, help="With --scorer model: the tier that grades.")
@click.option(
    "--within",
    type=Number(1),
    default=900.0,
    show_default=True,
    help="Seconds a round may take; then what waits is ended.",
)
@click.option("--svg", type=_FILE, help="Write a picture too.")
@output_option
def tiers(dataset: Path | None, from_feedback: bool, output: str, svg: Path | None, **how: Any) -> None:
    """Run every tier on the same sample and recommend the cheapest that is good enough.

    Each case is a task of the real queue at each tier, under budgets of its own (workflow NAME_eval_TIER), and paid.
    Nothing is written to the outside. exact compares the fields that `expected` has, schema asks only for a valid
    answer, model lets a tier grade. Errors that say nothing about the model are counted apart. Recommended is the tier
    with the least cost a right answer among those whose 95 % Wilson interval begins at the target or above; else it
    says that no tier reaches it, or that the sample is too small to tell. Exits 0 with a recommendation, else 1.
    """
    from backbeat.evaluate.score import recommend

    if (dataset is None) == (not from_feedback):
        raise click.UsageError("give one of --dataset and --from-feedback")
    if how["scorer"] == "schema" and from_feedback:
        raise click.UsageError("feedback is labels; take --scorer exact or model")
    about, scores = run_async(_measure(dataset, how))
    choice, why = recommend(scores, how["target"])
    if output == "json":
        found = {"about": about, "target": how["target"], "scorer": how["scorer"], "recommended": choice, "why": why}
        emit({**found, "tiers": scores}, output=output)
    else:
        if about:
            talk(about)
        emit([_line(one) for one in scores], columns=_COLUMNS, fold=True)
        for one in scores:
            if one.infrastructure:
                apart = ", ".join(f"{reason} {count}" for reason, count in one.infrastructure.items())
                click.echo(f"{one.tier}: not counted, infrastructure: {apart}")
        click.echo(f"recommended: {why}" if choice else why)
    if svg is not None:
        _draw(svg, scores, how["target"], why)
    click.get_current_context().exit(0 if choice else 1)


def _line(one: "TierScore") -> dict[str, Any]:
    return {
        **asdict(one),
        "accuracy": "-" if one.accuracy is None else f"{one.accuracy:.1%}",
        "interval": f"{one.low:.1%} – {one.high:.1%}",
        "p50_s": one.p50_seconds,
        "p95_s": one.p95_seconds,
    }


def _draw(path: Path, scores: "Sequence[TierScore]", target: float, why: str) -> None:
    from backbeat.evaluate.picture import svg
    from shared.config import load

    providers = load().providers
    names = {name for name, one in providers.items() if one.simulated}
    simulated = [one.tier for one in scores if any(model.split(" ")[0] in names for model in one.models)]
    drawn = svg("Tiers on the same sample", scores, target, why, simulated)
    try:
        path.write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror}") from error
    talk(f"wrote {path}")


async def _measure(dataset: Path | None, how: dict[str, Any]) -> "tuple[str, list[TierScore]]":
    from backbeat.evaluate.dataset import from_feedback, read, sample
    from shared.config import load
    from shared.errors import InputError
    from shared.execution.payloads import checked
    from shared.execution.telemetry import open_telemetry

    config = load()
    definition = _definition(config, how["name"])
    async with database(config) as db:
        about, cases = read(dataset) if dataset else ("", await from_feedback(db, definition.name))
        if not cases:
            raise InputError("there is no labelled case", fix="See docs/how-to/evaluate-tiers.md")
        chosen = sample(cases, how["size"], how["seed"])
        for case in chosen:
            checked(definition, case.input)
        say_what_is_simulated(config)
        telemetry = open_telemetry(config, "backbeat")
        try:
            return about, await _tiers(db, telemetry, config, definition, chosen, how)
        finally:
            telemetry.close()


def _definition(config: "Config", name: str | None) -> "Definition":
    from backbeat.local import stepwise
    from shared.definitions import load_definitions
    from shared.errors import InputError

    registry, built_in = load_definitions(config.definitions), load_definitions([]).tasks
    names = sorted({one.name for key, one in registry.tasks.items() if one is not built_in.get(key)})
    if name is None and len(names) != 1:
        raise InputError(f"which definition? Loaded: {', '.join(names) or 'none'}", fix="Name it with --definition")
    found = registry.newest(name or names[0])
    if stepwise(found):
        raise InputError(f"{found.full_name} goes on in steps of its own", fix="Evaluate one that ends in one task")
    if found.bulk is not None:
        raise InputError(
            f"{found.full_name} takes its rows by the hundred", fix="Evaluate a definition that asks models"
        )
    return found


async def _tiers(
    db: "Database",
    telemetry: "Telemetry",
    config: "Config",
    definition: "Definition",
    cases: "Sequence[Case]",
    how: dict[str, Any],
) -> "list[TierScore]":
    import json

    from backbeat.evaluate.drain import drained, enqueue
    from backbeat.evaluate.score import infrastructure_fault, judged, tally
    from backbeat.evaluate.variants import grader, variant
    from shared.llm.routes import load_routes

    routes = load_routes(config.routes_file)
    tiers = list(how["tiers"] or routes.tiers)
    for tier in tiers:
        routes.for_tier(tier, config.providers.keys())
    graded = how["grader"] if how["scorer"] == "model" else ""
    source = (config.definitions, definition.full_name, tiers, graded)
    salt = uuid4().hex
    payloads = [case.input for case in cases]
    ids = {
        tier: await enqueue(db, telemetry, variant(definition, tier), payloads, salt, how["within"]) for tier in tiers
    }
    every = [one for some in ids.values() for one in some]
    rows = await drained(db, every, source, how["within"], talk)
    right: dict[Any, bool | None] = {}
    for some in ids.values():
        for task, case in zip(some, cases, strict=True):
            right[task] = judged(how["scorer"], rows.get(task), case.expected)
    if graded:
        asked = [(task, case) for some in ids.values() for task, case in zip(some, cases, strict=True)]
        asked = [(task, case) for task, case in asked if infrastructure_fault(rows.get(task)) is None]
        asked = [(task, case) for task, case in asked if rows[task]["status"] == "succeeded"]
        texts = [(case.input, case.expected, rows[task]["result"]) for task, case in asked]
        names = ("asked", "expected", "answered")
        questions = [dict(zip(names, map(json.dumps, text), strict=True)) for text in texts]
        grades = await enqueue(db, telemetry, grader(definition, graded), questions, salt, how["within"])
        told = await drained(db, grades, source, how["within"], talk)
        for (task, _), grade in zip(asked, grades, strict=True):
            said = told.get(grade)
            right[task] = said["result"]["correct"] if said and said["status"] == "succeeded" else None
    return [tally(tier, [rows.get(one) for one in ids[tier]], [right[one] for one in ids[tier]]) for tier in tiers]
