"""Structured output: the schema to send, the check of what came back, the words of a second try.

Vendors accept different subsets of JSON Schema; what is sent is in both. A constraint that neither
decodes by is told to the model in the description and checked here, since some endpoints ignore schemas.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from shared.errors import BackbeatError, DefinitionError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_SCALARS = frozenset({"string", "integer", "number", "boolean", "null"})
_SHAPE = frozenset({"type", "enum", "const", "anyOf", "oneOf", "properties", "required", "items", "description"})
_SILENT = frozenset(
    {"title", "$defs", "definitions", "$schema", "$id", "$comment", "discriminator", "additionalProperties"}
)
_IMPOSSIBLE = frozenset({"allOf", "prefixItems", "patternProperties", "not", "if", "dependentSchemas"})
_MOST_ERRORS = 20
_MOST_TEXT = 4000  # characters of a wrong answer worth showing again


class OutputInvalidError(BackbeatError):
    """The model answered, and was paid, but the answer does not fit. `errors` may be shown to the model."""

    def __init__(self, errors: list[str], text: str) -> None:
        super().__init__(f"The answer does not fit its schema: {'; '.join(errors)}")
        self.errors = errors
        self.text = text


def json_schema(model: Any) -> dict[str, Any]:
    """The schema to send for a Pydantic model (or anything Pydantic validates) or a raw JSON Schema.

    Self-contained: every object closed, every property required, no references, a title. Raises DefinitionError
    for what no vendor can decode by: free-form mappings, recursion, tuples, a root that is no object.
    A model's schema is made once and shared, so leave it as it is.
    """
    return _closed(model, "output") if isinstance(model, Mapping) else _model_schema(model)


@lru_cache(maxsize=256)
def _model_schema(model: Any) -> dict[str, Any]:
    return _closed(_adapter(model).json_schema(), getattr(model, "__name__", str(model)))


def _closed(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    name = str(raw.get("title", name))
    strict = _strict(raw, {**raw.get("definitions", {}), **raw.get("$defs", {})}, name, frozenset())
    if strict.get("type") != "object":
        raise DefinitionError(f"{name} is not an object", fix="Wrap it in a model with one field")
    return {"title": name, **strict}


def parse(model: Any, text: str) -> Any:
    """The validated value: an instance of a Pydantic model, JSON for a raw JSON Schema, the text for None.

    Raises OutputInvalidError, also for what a validator of the author's raises.
    """
    if model is None:
        return text
    if fenced := _FENCE.fullmatch(text):  # what models do that decode by no schema
        text = fenced[1]
    try:
        return _fitting(model, text) if isinstance(model, Mapping) else _adapter(model).validate_json(text)
    except OutputInvalidError:
        raise
    except Exception as error:
        raise OutputInvalidError(_problems(error), text) from None


def _problems(error: Exception) -> list[str]:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return [f"{type(error).__name__}: {error}"]
    found = error.errors(include_url=False, include_input=False, include_context=False)[:_MOST_ERRORS]
    return [f"{'.'.join(map(str, one['loc'])) or 'answer'}: {one['msg']}" for one in found]


def _fitting(schema: Mapping[str, Any], text: str) -> Any:
    from pydantic_core import from_json

    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise OutputInvalidError([f"answer: Invalid JSON: {error}"], text) from None
    found = [*validator(json.dumps(schema)).iter_errors(value)][:_MOST_ERRORS]
    if found:
        lines = [f"{'.'.join(map(str, one.instance_path)) or 'answer'}: {one.message}" for one in found]
        raise OutputInvalidError(lines, text)
    return value


@lru_cache(maxsize=256)
def validator(schema: str) -> Any:
    """The check for a raw JSON Schema. It fetches nothing. Raises DefinitionError for what is no schema."""
    import jsonschema_rs

    try:
        linear = jsonschema_rs.RegexOptions()  # a pattern from a payload may not take for ever
        return jsonschema_rs.validator_for(
            schema, offline=True, mask="the value", validate_formats=True, pattern_options=linear
        )
    except ValueError as error:
        what = str(getattr(error, "message", error))
        raise DefinitionError(f"this is no JSON Schema: {what}", fix="Correct the schema") from None


def reask_prompt(prompt: str, error: OutputInvalidError) -> str:
    """The same prompt, so that its prefix stays cached, followed by what was wrong with the answer to it."""
    problems = "\n".join(f"- {line}" for line in error.errors)
    return (
        f"{prompt}\n\nYour previous answer was:\n<previous_answer>\n{error.text[:_MOST_TEXT]}\n</previous_answer>\n"
        f"It does not fit the required schema:\n{problems}\nAnswer again, in full, as one JSON object that fits."
    )


@lru_cache(maxsize=256)
def _adapter(model: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(model)


def _strict(node: Any, defs: Mapping[str, Any], path: str, above: frozenset[str]) -> dict[str, Any]:
    node, above = _resolved(node, defs, path, above)
    out = _shape(node, defs, path, above)
    told = {key: value for key, value in node.items() if key not in _SHAPE | _SILENT | out.keys() and value is not None}
    notes = [node["description"]] if node.get("description") else []
    if told:
        notes.append("{" + ", ".join(f"{key}: {_plain(value)}" for key, value in told.items()) + "}")
    return {**out, "description": "\n\n".join(notes)} if notes else out


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _resolved(
    node: Any, defs: Mapping[str, Any], path: str, above: frozenset[str]
) -> tuple[dict[str, Any], frozenset[str]]:
    """The node with its reference put in place, and the references it stands inside of."""
    if not isinstance(node, Mapping):
        raise DefinitionError(f"{path} may be anything", fix="Give it a type")
    rest = {key: value for key, value in node.items() if key not in ("$ref", "allOf")}
    if "$ref" in node:
        name = str(node["$ref"]).rpartition("/")[2]
        if name in above:
            raise DefinitionError(
                f"{path} contains {name}, which contains it", fix="Bound the depth with separate models"
            )
        if name not in defs:
            raise DefinitionError(f"{path} refers to {node['$ref']}, which is not there", fix="Define it under $defs")
        return _resolved({**defs[name], **rest}, defs, path, above | {name})
    if len(node.get("allOf", ())) == 1:
        return _resolved({**node["allOf"][0], **rest}, defs, path, above)
    for keyword in sorted(_IMPOSSIBLE & node.keys()):
        raise DefinitionError(f"{path} uses {keyword}", fix="Use objects with fixed fields, lists and unions")
    return dict(node), above


def _shape(node: dict[str, Any], defs: Mapping[str, Any], path: str, above: frozenset[str]) -> dict[str, Any]:
    kind, variants = node.get("type"), node.get("anyOf") or node.get("oneOf")
    if "enum" in node or "const" in node:
        values = list(node["enum"]) if "enum" in node else [node["const"]]
        return {"type": kind, "enum": values} if isinstance(kind, str) else {"enum": values}
    if isinstance(kind, list):
        variants = [{**node, "type": one, "description": None} for one in kind]
    if variants:
        return {"anyOf": [_strict(one, defs, path, above) for one in variants]}
    if kind == "object":
        return _object(node, defs, path, above)
    if kind == "array":
        smallest = {"minItems": node["minItems"]} if node.get("minItems") in (0, 1) else {}
        return {"type": kind, "items": _strict(node.get("items"), defs, f"{path}[]", above), **smallest}
    if kind not in _SCALARS:
        raise DefinitionError(f"{path} may be anything", fix="Give it a type")
    return {"type": kind, "format": node["format"]} if node.get("format") in _FORMATS else {"type": kind}


def _object(node: dict[str, Any], defs: Mapping[str, Any], path: str, above: frozenset[str]) -> dict[str, Any]:
    properties = node.get("properties")
    if not properties:
        raise DefinitionError(f"{path} has no fixed fields", fix="Use a list of objects with a key and a value")
    return {
        "type": "object",
        "properties": {key: _strict(value, defs, f"{path}.{key}", above) for key, value in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }
