"""What the simulated judge says to a card payment in the prompt: points for what is unusual together.

A payment is lines of `name: words` after a line that begins with `card payment`; a line that is missing says nothing.
"""

import re
from dataclasses import dataclass

BLOCK_FROM, WATCH_FROM = 60, 35
RESOLD = ("electronics", "jewellery", "gift_cards")
OPTIONS = {
    "high": ("block", "fraud", "reject", "high"),
    "medium": ("watch", "review", "medium"),
    "low": ("clear", "approve", "legitimate", "low"),
}


@dataclass(frozen=True, slots=True)
class Payment:
    """The risk of a payment, 0 to 100, and what speaks for it."""

    risk: int
    reasons: tuple[str, ...]

    @property
    def options(self) -> tuple[str, ...]:
        """The words of a verdict that say so, best first."""
        return OPTIONS["high" if self.risk >= BLOCK_FROM else "medium" if self.risk >= WATCH_FROM else "low"]


def read(text: str) -> Payment | None:
    """Weigh the payment in a prompt; None where there is none."""
    if not re.search(r"^card payment", text, re.MULTILINE):
        return None
    ratio = float(_first(r"([\d.]+) times", text) or 1)
    amount = float(_first(r"^amount: ([\d.]+)", text) or 0)
    often = int(_first(r"in the last hour: (\d+)", text) or 1) >= 4
    minutes, before = _first(r"(\d+) minutes before", text), _first(r"minutes before in (\w+)", text)
    country, home = _first(r"^country: (\w+)", text), _first(r"card of (\w+)", text)
    resold = _first(r"^category: (\w+)", text) in RESOLD
    jumped = bool(minutes) and int(minutes) < 120 and before != country
    evidence = (
        (45, often and amount < 5, "small amounts in quick succession"),
        (25, resold and ratio >= 3, "goods that are easily sold again, for much more than usual"),
        (25, ratio >= 5, "far above the usual amount"),
        (25, jumped, "in two countries at once"),
        (15, country != home, "abroad"),
        (20, often and resold, "an easily sold purchase after many payments"),
        (15, _first(r"^time: (\d\d)", text) < "05", "at night"),
    )
    found = [(points, words) for points, holds, words in evidence if holds]
    risk = min(sum(points for points, _ in found), 100)
    return Payment(risk, tuple(words for _, words in found) or ("ordinary as a whole",))


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else ""
