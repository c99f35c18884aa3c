"""An object for any JSON schema: the schema gives the shape, `answer` gives the values.

Understood: type, properties, required, items, prefixItems, enum, const, $ref, anyOf, oneOf, allOf, the
usual string formats, and length, size and range limits, also where a client moved them into the last
line of the description (`minimum: 1, maximum: 5`). A `pattern` is met only if a few common texts hold one
that meets it.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any

from backbeat.embedded.simulated import agent, answer
from backbeat.embedded.simulated.rules import Facts, Finding, read

MOST_ITEMS = 8  # of a list, unless the schema wants more
_DEEPEST = 8  # levels, after which lists stay empty and optional fields are left out
_FINDING_FIELDS = {"path", "file", "line", "severity", "message", "comment", "rule", "issue"}
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1M",
    "email": "simulated@example.invalid",
    "hostname": "simulated.invalid",
    "uri": "https://simulated.invalid/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}
_PATTERN_TEXTS = ("simulated", "SIMULATED", "A1", "1", "2026-01-01", "a-b", "0" * 40, "EUR", "1.0", "v1.0.0")
_LIMITS = re.compile(r"\b(m(?:in|ax)(?:imum|Length|Items)|exclusiveM(?:in|ax)imum|multipleOf): (-?\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the schema we are: its root, the facts, the field's name, the finding we are inside, the depth."""

    root: dict[str, Any]
    facts: Facts
    name: str = ""
    finding: Finding | None = None
    depth: int = 0


def build(schema: dict[str, Any], facts: Facts) -> Any:
    """A value that fits the schema and says what the facts say."""
    step = agent.decide(schema, facts.text, lambda part, text: _value(part, _Place(part, read(text))))
    if step is not None:
        return step
    return _value(schema, _Place(schema, facts))


def _value(schema: Any, at: _Place) -> Any:
    node = _resolved(schema, at.root)
    if "const" in node:
        return node["const"]
    if node.get("enum"):
        return answer.choose(node["enum"], at.facts, at.finding)
    kind = _kind(node)
    if kind == "object":
        return _object(node, at)
    if kind == "array":
        return _array(node, at)
    if kind == "boolean":
        return answer.yes(at.name, at.facts, at.finding)
    if kind in ("integer", "number"):
        return _number(node, kind, at)
    return None if kind == "null" else _text(node, at)


def _resolved(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    """The schema with references followed, unions decided for their first real variant, and limits moved back."""
    node: dict[str, Any] = dict(schema) if isinstance(schema, dict) else {}
    for _ in range(_DEEPEST):
        reference = node.pop("$ref", None)
        if reference is None:
            break
        target: Any = root
        for part in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            target = target[part.replace("~1", "/").replace("~0", "~")]
        node = {**target, **node}
    for union in ("anyOf", "oneOf"):
        if variants := node.pop(union, None):
            real = [one for one in (_resolved(variant, root) for variant in variants) if _kind(one) != "null"]
            node = {**node, **(real[0] if real else {"type": "null"})}
    for part in node.pop("allOf", ()):
        one = _resolved(part, root)
        merged = {**node.get("properties", {}), **one.get("properties", {})}
        node = {**node, **one, **({"properties": merged} if merged else {})}
    return {**node, **_moved(node.get("description", ""))}


def _moved(description: str) -> dict[str, Any]:
    last = description.rpartition("\n")[2]
    last = last[1:-1] if last.startswith("{") else last
    if not re.match(r"[a-zA-Z]+: ", last):
        return {}
    found: dict[str, Any] = {key: float(value) for key, value in _LIMITS.findall(last)}
    if pattern := re.search(r"\bpattern: (.+?)(?:, [a-zA-Z]+: .*)?$", last):
        found["pattern"] = json.loads(pattern[1]) if pattern[1].startswith('"') else pattern[1]
    return found


def _kind(node: dict[str, Any]) -> str:
    kind = node.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        return "object" if "properties" in node else "array" if "items" in node else "string"
    return str(kind)


def _object(node: dict[str, Any], at: _Place) -> dict[str, Any]:
    properties = node.get("properties", {})
    required = node.get("required", [])
    names = [name for name in properties if at.depth < _DEEPEST or name in required]
    made = {name: _value(properties[name], replace(at, name=name.lower(), depth=at.depth + 1)) for name in names}
    if not properties and isinstance(node.get("additionalProperties"), dict):
        keys = answer.keywords(at.facts)[: int(node.get("minProperties", 0))]
        made = {key: _value(node["additionalProperties"], replace(at, name=key, depth=at.depth + 1)) for key in keys}
    return made


def _array(node: dict[str, Any], at: _Place) -> list[Any]:
    least = int(node.get("minItems", 0))
    most = int(node.get("maxItems", max(MOST_ITEMS, least)))
    below = replace(at, depth=at.depth + 1)
    if prefix := node.get("prefixItems"):
        return [_value(item, below) for item in prefix]
    if at.depth >= _DEEPEST and not least:
        return []
    item = _resolved(node.get("items", {}), at.root)
    made = _items(item, below)[:most]
    while len(made) < least:
        made.append(_value(item, replace(below, finding=None)))
    return made


def _items(item: dict[str, Any], at: _Place) -> list[Any]:
    kind = _kind(item)
    if kind == "object" and len(_FINDING_FIELDS & set(item.get("properties", {}))) >= 2:
        return [_value(item, replace(at, finding=one)) for one in answer.findings_for(at.name, at.facts)]
    if kind == "string" and not item.get("enum") and at.facts.about_code:
        return [one.message for one in answer.findings_for(at.name, at.facts)]
    if kind == "string" and not item.get("enum"):
        return list(answer.keywords(at.facts))[:3]
    return [_value(item, at)]


def _number(node: dict[str, Any], kind: str, at: _Place) -> float | int:
    step = node.get("multipleOf", 1 if kind == "integer" else None)
    nudge = step or 1e-6
    low = max(node.get("minimum", -math.inf), node.get("exclusiveMinimum", -math.inf) + nudge)
    high = min(node.get("maximum", math.inf), node.get("exclusiveMaximum", math.inf) - nudge)
    value = min(max(answer.number(at.name, at.facts, at.finding), low), high)
    if step:
        value = math.ceil(value / step) * step
        value = value - step if value > high else value
    return int(value) if kind == "integer" else value


def _text(node: dict[str, Any], at: _Place) -> str:
    if node.get("format") == "uuid":
        digits = hashlib.sha256(at.facts.text.encode()).hexdigest()
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"
    if node.get("format") in _FORMATS:
        return _FORMATS[node["format"]]
    said = answer.text(at.name, at.facts, at.finding)
    if pattern := node.get("pattern"):
        said = next((one for one in (said, *_PATTERN_TEXTS) if re.search(pattern, one)), said)
    least, most = int(node.get("minLength", 0)), int(node.get("maxLength", len(said) + 10_000))
    return said.ljust(least, ".")[:most]
