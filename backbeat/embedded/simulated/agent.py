"""The next step of an agent, by rules: the same past gives the same step.

An input with a `script`, a JSON list of steps, is followed to the letter, for tests. Else tools are tried in their
order: one that looks something up once, with the input's words; one that opens something by its path, name, id or url
for each that was seen and not opened yet, a few at most; handing over once, a child for each item of the input's first
list. Then it is done.
"""

import json
import re
from collections.abc import Callable
from typing import Any

FIELDS = {"reasoning", "action", "tool", "args"}
MOST_OPENED = 3
_POINTERS = ("path", "name", "id", "url")
_STEP = re.compile(r'<step number="\d+">\n(.*?)\n</step>\n\n<observation>\n(.*?)\n</observation>', re.DOTALL)

Build = Callable[[dict[str, Any], str], Any]


def decide(schema: dict[str, Any], prompt: str, build: Build) -> dict[str, Any] | None:
    """The step; None when the schema asks for something else. `build(schema, text)` makes a value from a text."""
    if set(schema.get("properties", {})) != FIELDS:
        return None
    given = _json(re.search(r"<input>\n(.*?)\n</input>", prompt, re.DOTALL))
    past = [(json.loads(step), seen) for step, seen in _STEP.findall(prompt)]
    script = given.get("script") if isinstance(given, dict) else None
    if script:
        steps = json.loads(script)
        chosen = steps[min(len(past), len(steps) - 1)]
        return {"reasoning": "as the script says", "tool": None, "args": None, **chosen}
    args = {one.get("description", "").removeprefix("args of "): one for one in schema["properties"]["args"]["anyOf"]}
    for tool, wanted in args.items():
        if tool != "done" and (chosen := _use(tool, wanted, given, past, build)) is not None:
            return {"reasoning": f"{tool} may help", "action": "tool_call", "tool": tool, "args": chosen}
    told = "\n".join(_text(seen) for _, seen in past) or _text(json.dumps(given))
    done = build(args["done"], told) if "done" in args else None
    return {"reasoning": "nothing is left to look at", "action": "done", "tool": None, "args": done}


def _use(tool: str, wanted: dict[str, Any], given: Any, past: list[tuple[Any, str]], build: Build) -> Any:
    """Arguments for one more call of this tool, or None when it is of no more use."""
    used = [step["args"] for step, _ in past if step["tool"] == tool]
    fields = wanted.get("properties", {})
    if tool == "read_results" or not fields:
        return None
    if tool == "delegate":
        return None if used else _children(fields["children"]["items"], given, build)
    pointer = next((name for name in fields if name in _POINTERS), None)
    if pointer is None:
        return None if used else _filled(wanted, _words(given), build)
    opened = {one[pointer] for one in used}
    seen = [name for _, text in past for name in re.findall(rf'"{pointer}": "([^"]+)"', text)]
    left = [name for name in dict.fromkeys(seen) if name not in opened]
    return {**build(wanted, _words(given)), pointer: left[0]} if left and len(opened) < MOST_OPENED else None


def _children(kind: dict[str, Any], given: Any, build: Build) -> Any:
    items = next((value for value in given.values() if isinstance(value, list) and value), None)
    if items is None:
        return None
    one = kind["anyOf"][0] if "anyOf" in kind else kind
    name = one["properties"]["definition"]["enum"][0]
    wanted = one["properties"]["input"]
    return {"children": [{"definition": name, "input": _filled(wanted, str(item), build)} for item in items]}


def _filled(wanted: dict[str, Any], text: str, build: Build) -> dict[str, Any]:
    """Every field that takes a text says the same; the others are built."""
    made: dict[str, Any] = build(wanted, text)
    texts = [name for name, one in wanted["properties"].items() if one.get("type") == "string" and "enum" not in one]
    return made | dict.fromkeys(texts, text)


def _words(given: Any) -> str:
    return " ".join(value for value in given.values() if isinstance(value, str)) if isinstance(given, dict) else ""


def _text(seen: str) -> str:
    """The longest text in what a tool answered."""
    found = re.findall(r'"(?:[^"\\]|\\.)*"', seen)
    longest = max(found, key=len, default="")
    return str(json.loads(longest)) if longest else seen


def _json(match: re.Match[str] | None) -> Any:
    try:
        return json.loads(match[1]) if match else {}
    except ValueError:
        return {"text": match[1]} if match else {}
