"""An orchestrator hands regions to scouts, which are agents, headlines to single calls, and writes the report."""

import csv
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from backbeat import Children, Context, agent, orchestrator, single_shot
from backbeat.tools.function import tool
from shared.definitions import Definition

DATA = Path(__file__).parent


class Watch(BaseModel):
    """What to look at."""

    day: str
    regions: list[str]


class Region(BaseModel):
    """A scout's part."""

    region: str


class Headline(BaseModel):
    """A line of the day's news."""

    headline: str


class Finding(BaseModel):
    """What a scout says."""

    summary: str


class Mood(BaseModel):
    """What a headline says."""

    mood: Literal["positive", "negative", "neutral"]


class Report(BaseModel):
    """What the parent makes of it."""

    day: str
    findings: list[str]
    moods: dict[str, int]
    failed: int


def _rows(file: str) -> list[dict[str, str]]:
    with (DATA / file).open(newline="") as lines:
        return list(csv.DictReader(lines))


def prices(region: str) -> list[dict[str, str]]:
    """The price changes of a region."""
    return [row for row in _rows("prices.csv") if row["region"] in region]


scout = agent(
    "market_scout",
    version=1,
    goal="Say in a sentence what the prices of the region did.",
    input=Region,
    output=Finding,
    tier="small",
    tools=[tool(prices)],
    max_steps=6,
    max_tokens=20_000,
)
mood = single_shot(
    "headline_mood", version=1, input=Headline, output=Mood, tier="small", prompt="{headline}", max_output_tokens=50
)


async def _plan(_ctx: Context, watch: Watch) -> list[tuple[Definition, BaseModel]]:
    lines = [row["headline"] for row in _rows("headlines.csv") if row["day"] == watch.day]
    return [
        *((scout, Region(region=region)) for region in watch.regions),
        *((mood, Headline(headline=line)) for line in lines),
    ]


async def _merge(_ctx: Context, watch: Watch, children: Children) -> Report:
    report: dict[str, Any] = {"day": watch.day, "findings": [], "moods": {}, "failed": 0}
    async for page in children.pages():
        for child in page:
            match child["result"]:
                case {"summary": summary}:
                    report["findings"].append(summary)
                case {"mood": said}:
                    report["moods"][said] = report["moods"].get(said, 0) + 1
                case _:
                    report["failed"] += 1
    return Report(**report)


watch = orchestrator(
    "market_watch",
    version=1,
    input=Watch,
    output=Report,
    tier="small",
    plan=_plan,
    merge=_merge,
    policy=0.8,
    max_tokens=100_000,
)
