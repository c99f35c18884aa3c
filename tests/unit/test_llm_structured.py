"""The schema that is sent, and the check of what comes back."""

import json
from collections.abc import Iterator
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import anthropic
import pytest
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field

from shared.errors import DefinitionError
from shared.llm.structured import OutputInvalidError, json_schema, parse, reask_prompt, validator


class Severity(Enum):
    LOW = "low"
    HIGH = "high"


class Finding(BaseModel):
    title: str = Field(description="one line", max_length=80)
    line: int = Field(ge=1)
    severity: Severity = Field(description="how bad")
    kind: Literal["bug"]
    since: date
    where: str = Field(json_schema_extra={"format": "uri"})


class Good(BaseModel):
    verdict: Literal["good"]


class Bad(BaseModel):
    verdict: Literal["bad"]
    why: str | None = None


class Review(BaseModel):
    main: Finding = Field(description="the worst one")
    others: list[Finding] = Field(max_length=5)
    overall: Annotated[Good | Bad, Field(discriminator="verdict")]
    tags: list[str] = Field(default_factory=list, min_length=1)
    score: float = 0.5


OBJECT_WORDS = {"title", "type", "description", "properties", "required", "additionalProperties"}
OTHER_WORDS = {"type", "description", "items", "minItems", "anyOf", "enum", "format"}


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every subschema, not the maps of properties, whose keys are anybody's names."""
    yield schema
    for child in [
        *schema.get("properties", {}).values(),
        *schema.get("anyOf", []),
        *filter(None, [schema.get("items")]),
    ]:
        yield from nodes(child)


def test_every_node_is_in_the_subset_of_both_vendors() -> None:
    for node in nodes(json_schema(Review)):
        assert node.keys() <= (OBJECT_WORDS if node.get("type") == "object" else OTHER_WORDS)
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])


def test_the_vendors_own_helpers_find_nothing_left_to_do() -> None:
    schema = json_schema(Review)
    assert not list(_told_by_anthropic(anthropic.transform_schema(schema), schema))

    class Sent(BaseModel):
        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return json.loads(json.dumps(schema))  # type: ignore[no-any-return]  # a copy: the helper edits in place

    assert to_strict_json_schema(Sent) == schema


def _told_by_anthropic(theirs: Any, ours: Any) -> Iterator[str]:
    """Descriptions that Anthropic's helper wrote: it writes one for each keyword it takes away."""
    for left, right in zip(nodes(theirs), nodes(ours), strict=True):
        if left.get("description") != right.get("description"):
            yield left["description"]


def test_shapes_and_notes() -> None:
    fields = json_schema(Review)["properties"]
    finding = fields["main"]
    assert finding["description"] == "the worst one"
    assert finding["properties"]["title"] == {"type": "string", "description": "one line\n\n{maxLength: 80}"}
    assert finding["properties"]["line"] == {"type": "integer", "description": "{minimum: 1}"}
    assert finding["properties"]["severity"] == {"type": "string", "enum": ["low", "high"], "description": "how bad"}
    assert finding["properties"]["kind"] == {"type": "string", "enum": ["bug"]}
    assert finding["properties"]["since"] == {"type": "string", "format": "date"}
    assert finding["properties"]["where"] == {"type": "string", "description": "{format: uri}"}
    assert fields["others"]["description"] == "{maxItems: 5}"
    assert fields["tags"] == {"type": "array", "items": {"type": "string"}, "minItems": 1}
    assert fields["score"] == {"type": "number", "description": "{default: 0.5}"}
    assert [one["properties"]["verdict"]["enum"] for one in fields["overall"]["anyOf"]] == [["good"], ["bad"]]
    assert fields["overall"]["anyOf"][1]["properties"]["why"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}


def test_a_raw_schema_is_brought_into_the_same_form() -> None:
    raw = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "title": {"type": ["string", "null"], "description": "a word", "pattern": "^a"},
            "description": {"allOf": [{"$ref": "#/definitions/Word"}], "description": "another"},
            "mixed": {"enum": [1, "one", None]},
        },
        "definitions": {"Word": {"type": "string", "minLength": 1}},
    }
    kept = json.dumps(raw)
    assert json_schema(raw) == {
        "title": "output",
        "type": "object",
        "properties": {
            "title": {
                "anyOf": [
                    {"type": "string", "description": "{pattern: ^a}"},
                    {"type": "null", "description": "{pattern: ^a}"},
                ],
                "description": "a word\n\n{pattern: ^a}",
            },
            "description": {"type": "string", "description": "another\n\n{minLength: 1}"},
            "mixed": {"enum": [1, "one", None]},
        },
        "required": ["title", "description", "mixed"],
        "additionalProperties": False,
    }
    assert json.dumps(raw) == kept


class Node(BaseModel):
    below: "list[Node]"


class Anything(BaseModel):
    value: Any


class Mapped(BaseModel):
    counts: dict[str, int]


class Pair(BaseModel):
    pair: tuple[int, str]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Node, "Node.below[] contains Node"),
        (Anything, "Anything.value may be anything"),
        (Mapped, "Mapped.counts has no fixed fields"),
        (Pair, "Pair.pair uses prefixItems"),
        (list[int], "list is not an object"),
        (type("Empty", (BaseModel,), {}), "Empty has no fixed fields"),
        ({"type": "object", "properties": {"x": {"$ref": "#/$defs/Y"}}}, "output.x refers to #/$defs/Y"),
        ({"type": "object", "properties": {"x": {"type": "array"}}}, "output.x[] may be anything"),
        ({"type": "object", "properties": {"x": {"not": {"type": "null"}}}}, "output.x uses not"),
    ],
)
def test_what_no_vendor_can_decode_by_is_refused_by_name(model: Any, said: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        json_schema(model)
    assert caught.value.what.startswith(said)
    assert caught.value.fix


def test_a_models_schema_is_made_once() -> None:
    assert json_schema(Review) is json_schema(Review)


def test_two_fields_of_one_model_are_no_recursion() -> None:
    class Twice(BaseModel):
        first: Good
        second: Good

    assert set(json_schema(Twice)["properties"]) == {"first", "second"}


def test_parse() -> None:
    assert parse(Bad, '{"verdict": "bad", "why": "slow"}') == Bad(verdict="bad", why="slow")
    assert parse(list[int], "[1, 2]") == [1, 2]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "answer: Invalid JSON: EOF while parsing a value at line 1 column 0"),
        ('{"verdict": "ba', "answer: Invalid JSON: EOF while parsing a string at line 1 column 15"),
        ('{"verdict": "ugly"}', "verdict: Input should be 'bad'"),
        ('{"verdict": "bad", "why": 3}', "why: Input should be a valid string"),
        ("{}", "verdict: Field required"),
    ],
)
def test_a_wrong_answer_says_what_is_wrong_and_never_quotes_more_than_the_model_said(text: str, error: str) -> None:
    with pytest.raises(OutputInvalidError) as caught:
        parse(Bad, text)
    assert caught.value.errors == [error]
    assert caught.value.text == text
    assert error in str(caught.value)


RAW = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 5}, "day": {"type": "string", "format": "date"}},
    "required": ["n"],
}


def test_parse_by_a_raw_schema() -> None:
    assert parse(RAW, '{"n": 7, "day": "2026-01-01"}') == {"n": 7, "day": "2026-01-01"}
    assert parse(None, "any { text") == "any { text"


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ('{"n": 1, "day": "x"}', ["n: the value is less than the minimum of 5", 'day: the value is not a "date"']),
        ("{}", ['answer: "n" is a required property']),
        ("[]", ['answer: the value is not of type "object"']),
    ],
)
def test_a_raw_schema_says_what_is_wrong_without_quoting_the_answer(text: str, errors: list[str]) -> None:
    with pytest.raises(OutputInvalidError) as caught:
        parse(RAW, text)
    assert caught.value.errors == errors


@pytest.mark.parametrize("text", ["{", '{"n": NaN}', '{"n": Infinity}', ""])
def test_what_is_no_json_fits_no_schema(text: str) -> None:
    with pytest.raises(OutputInvalidError, match="answer: Invalid JSON"):
        parse(RAW, text)


def test_a_fence_around_the_answer_is_taken_off() -> None:
    assert parse(RAW, '```json\n{"n": 7}\n```\n') == {"n": 7}
    assert parse(Bad, '```\n{"verdict": "bad"}\n```') == Bad(verdict="bad")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "objekt"}, "not valid"),
        ({"$ref": "http://127.0.0.1:9/never-fetched"}, "Retrieval is disabled"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"type": "string", "pattern": r"(a)\1"}, "regex"),
    ],
)
def test_what_is_no_schema_is_refused_and_nothing_is_fetched(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=f"this is no JSON Schema: .*{said}"):
        validator(json.dumps(schema))


def test_a_pattern_cannot_take_for_ever() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    with pytest.raises(OutputInvalidError):
        parse(schema, json.dumps({"a": "a" * 100_000 + "b"}))


def test_errors_are_listed_up_to_a_limit() -> None:
    with pytest.raises(OutputInvalidError) as caught:
        parse(list[int], json.dumps(["x"] * 100))
    assert len(caught.value.errors) == 20
    assert caught.value.errors[3].startswith("3: ")


def test_the_second_prompt_starts_with_the_first() -> None:
    error = OutputInvalidError(["line: Input should be a valid integer", "kind: Field required"], "{}" + "x" * 9000)
    prompt = reask_prompt("Review this.", error)
    assert prompt.startswith("Review this.\n")
    assert "- line: Input should be a valid integer\n- kind: Field required" in prompt
    assert len(prompt) < 4500
