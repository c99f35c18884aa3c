"""Any definition gets an object that fits its model, whose values say what the prompt says."""

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from anthropic import transform_schema
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field, TypeAdapter

from backbeat.embedded.simulated import rules, schema
from shared.llm.structured import json_schema

DIFF = """diff --git a/shop/a.py b/shop/a.py
--- a/shop/a.py
+++ b/shop/a.py
@@ -0,0 +1,2 @@
+eval(x)
+print(x)
"""


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    title: Annotated[str, Field(min_length=3, max_length=12)]
    weight: Annotated[float, Field(gt=0, lt=1)]


class Wide(BaseModel):
    colour: Colour
    label: Literal["billing", "bug", "other"]
    count: Annotated[int, Field(ge=2, le=4)]
    even: Annotated[int, Field(multiple_of=2, ge=7)]
    rate: Annotated[float, Field(ge=0.5)]
    inner: Inner
    inners: Annotated[list[Inner], Field(min_length=2)]
    maybe: Inner | None
    either: int | str
    flags: list[bool]
    when: datetime
    day: date
    key: UUID
    code: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    note: str = "none"
    tags: list[str] = []


class Tree(BaseModel):
    name: str
    children: list["Tree"]


class Pair(BaseModel):
    both: tuple[int, str]
    prices: dict[str, float]
    amount: Decimal
    mail: Literal["a"] | None = None


def built(model: Any, prompt: str, shape: dict[str, Any] | None = None) -> Any:
    """Build for the model's own schema (or another form of it) and validate with the model."""
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    return adapter.validate_python(schema.build(shape or adapter.json_schema(), rules.read(prompt)))


@pytest.mark.parametrize("prompt", ["Hello there, 17 times", DIFF, "", "{}" * 9])
@pytest.mark.parametrize(
    "shape",
    [Wide.model_json_schema(), json_schema(Wide), transform_schema(Wide), to_strict_json_schema(Wide)],
    ids=["pydantic", "ours", "anthropic", "openai"],
)
def test_whatever_form_the_schema_arrives_in(shape: dict[str, Any], prompt: str) -> None:
    assert 2 <= built(Wide, prompt, shape).count <= 4


@pytest.mark.parametrize("model", [Tree, Pair, list[Inner], int, bool, Literal["x"]])
def test_schemas_the_vendors_would_refuse(model: Any) -> None:
    built(model, DIFF)


def test_the_same_prompt_gets_the_same_object() -> None:
    assert built(Wide, DIFF) == built(Wide, DIFF)


class Ticket(BaseModel):
    category: Literal["billing", "bug", "account", "other"]
    urgent: bool


@pytest.mark.parametrize(
    ("prompt", "category", "urgent"),
    [
        ("I was charged twice, please refund the invoice", "billing", False),
        ("The app crashes with an exception. We are blocked, it is urgent", "bug", True),
        ("I cannot login with my password", "account", False),
        ("Where are you?", "other", False),
    ],
)
def test_options_are_chosen_by_keywords(prompt: str, category: str, urgent: bool) -> None:
    assert built(Ticket, prompt) == Ticket(category=category, urgent=urgent)


class Found(BaseModel):
    file: str
    line: int
    severity: Literal["low", "medium", "high"]
    issue: str


class Report(BaseModel):
    verdict: Literal["approve", "comment", "request_changes"]
    blocking: bool
    comments: list[Found]
    concerns: list[Found]
    messages: list[str]


def test_lists_of_findings_hold_the_findings() -> None:
    report = built(Report, DIFF)
    assert (report.verdict, report.blocking, report.concerns) == ("request_changes", True, [])
    assert [(one.file, one.line, one.severity) for one in report.comments] == [
        ("shop/a.py", 1, "high"),
        ("shop/a.py", 2, "medium"),
    ]
    assert report.messages == [one.issue for one in report.comments]


def test_a_clean_diff_is_approved() -> None:
    report = built(Report, DIFF.replace("eval(x)", "y = 1").replace("print(x)", "z = 2"))
    assert (report.verdict, report.blocking, report.comments) == ("approve", False, [])
