"""The agent: it searches a library, opens what looks promising, notes what it found, and answers with its sources."""

import re
from pathlib import Path

from pydantic import BaseModel

from backbeat import agent
from backbeat.tools.files import files

LIBRARY = Path(__file__).parent / "library"


class Question(BaseModel):
    """What somebody wants to know."""

    question: str


class Answer(BaseModel):
    """A short answer."""

    answer: str


def search(query: str) -> list[dict[str, str]]:
    """Find documents of the library by words; the best first, with the line that fits best."""
    words = _words(query)
    found = []
    for path in sorted(LIBRARY.glob("*.md")):
        scores = [(len(words & _words(line)), line) for line in path.read_text().splitlines()]
        if score := sum(one for one, _ in scores):
            found.append((-score, path.name, max(scores)[1]))
    return [{"path": name, "line": line} for _, name, line in sorted(found)[:5]]


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{4,}", text.lower()))


research = agent(
    "research",
    version=1,
    goal="Answer the question from the library alone. Search it, read what fits, and say which documents say so.",
    input=Question,
    output=Answer,
    tier="medium",
    tools=[search, *(one for one in files(LIBRARY) if one.name == "read_file")],
    max_steps=12,
    max_tokens=200_000,
)
