"""What people read. Titles and comments come from models and other people: they are one line and carry no markup."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Item = Mapping[str, Any]
_LONGEST = 300
_SAYS = {
    "unloaded": "No worker has loaded what this asks for; you will be asked when one has",
    "asked": "You are asked to decide",
    "reminded": "Still waiting for you",
    "escalated": "Escalated to you",
    "changes": "Changes were requested",
    "delegated": "Somebody's right to decide is yours now",
    "stuck": "Nobody who may decide holds a token",
    "decided": "Decided",
}


def subject(items: Sequence[Item]) -> str:
    """One line for all of it."""
    if len(items) == 1:
        return f"{_SAYS[items[0]['event']]}: {_about(items[0])}"
    counts = Counter(item["event"] for item in items)
    return f"Approvals: {', '.join(f'{n} {event}' for event, n in counts.items())}"


def lines(item: Item, link: str) -> list[str]:
    """One item: what happened, until when, where to look. The link navigates; nothing is decided by following it."""
    first = f"{_SAYS[item['event']]}: {_about(item)}"
    if item["event"] == "decided":
        first += f": {item['state']} by {_line(item.get('by'))}"
    said = [first]
    if item.get("comment"):
        said.append(f"  {_line(item['comment'])}")
    if item["event"] not in ("decided", "delegated") and item.get("deadline"):
        until = datetime.fromisoformat(item["deadline"]).astimezone(UTC)
        said.append(f"  until {until:%Y-%m-%d %H:%M} UTC, revision {item['revision']}, tenant {item['tenant']}")
    if item["request"]:
        said.append(f"  {address(item, link) or 'backbeat approval show ' + item['request']}")
    return said


def address(item: Item, link: str) -> str:
    """Where a person looks at the request; empty when the settings do not say."""
    return link.replace("{request}", item["request"]) if link and item["request"] else ""


def _about(item: Item) -> str:
    if item.get("title"):
        return _line(item["title"])
    handed = f"of {_line(item['from'])}, " if item.get("from") else ""
    return f"{handed}by {_line(item.get('by'))}"


def _line(text: Any) -> str:
    shown = "".join(c if c.isprintable() else " " for c in str(text))
    return " ".join(shown.split())[:_LONGEST]
