"""A day of card payments from a seed: honest ones with their oddities, and a few planted frauds.

What is planted is known here alone; no payment carries it.
"""

import random
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import get_args

from examples.fraud_review.models import Category, Transaction

DAY = datetime(2026, 1, 1, tzinfo=UTC)
COUNTRIES = ("DE", "FR", "ES", "IT", "NL", "PL", "AT", "SE")
FAR = ("US", "TH", "BR", "RO")
PATTERNS = ("tried_out", "cloned", "taken_over", "quiet")
_CATEGORIES: tuple[Category, ...] = get_args(Category)
_COMMON = (34, 12, 20, 4, 10, 12, 5, 1, 2)  # how common each category is
_HOURS = (1, 1, 1, 1, 1, 2, 4, 7, 9, 9, 9, 11, 12, 11, 9, 9, 10, 12, 12, 10, 8, 6, 4, 2)
_ONE_IN = 2500  # honest payments, to one fraud of each pattern


@dataclass(frozen=True, slots=True)
class Card:
    """Somebody's card; `away` is where its owner travels today."""

    name: str
    home: str
    usual: int
    away: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """A payment before anything is known of the card's other ones. `pattern` is the fraud it is part of, if any."""

    card: Card
    second: float
    cents: int
    category: Category
    country: str
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Labelled:
    """A payment as the bank sees it, and the truth."""

    transaction: Transaction
    pattern: str | None


def transactions(count: int, seed: int) -> list[Labelled]:
    """`count` payments in the order in which they come; the same for the same count and seed."""
    dice = random.Random(seed)  # noqa: S311  # repeatable, not secret
    cards = [_card(number, dice) for number in range(count // 6 + 10)]
    planted = [
        event
        for pattern in PATTERNS
        for _ in range(max(1, count // _ONE_IN))
        for event in _fraud(pattern, dice.choice(cards), dice)
    ][:count]
    events = planted + [_honest(dice.choice(cards), dice) for _ in range(count - len(planted))]
    return list(_seen(sorted(events, key=lambda one: one.second), f"{seed}.{count}"))


def _card(number: int, dice: random.Random) -> Card:
    away = dice.choice(COUNTRIES) if dice.random() < 0.03 else None
    return Card(f"c{number:06}", dice.choice(COUNTRIES), int(dice.lognormvariate(8.2, 0.5)), away)


def _honest(card: Card, dice: random.Random) -> Event:
    (category,) = dice.choices(_CATEGORIES, _COMMON)
    (hour,) = dice.choices(range(24), _HOURS)
    cents = max(50, int(card.usual * dice.lognormvariate(0, 0.65)))
    # Now and then a shop on the net is in another country than its customer.
    online = category in ("digital", "clothing") and dice.random() < 0.04
    country = dice.choice(COUNTRIES) if online else card.away or card.home
    return Event(card, hour * 3600 + dice.uniform(0, 3600), cents, category, country)


def _fraud(pattern: str, card: Card, dice: random.Random) -> Iterator[Event]:
    """The payments of one fraud, in order."""
    start = dice.uniform(3600, 20 * 3600)
    before = replace(_honest(card, dice), second=start - dice.uniform(300, 2400), country=card.home)
    far = dice.choice(FAR)
    match pattern:
        case "tried_out":
            for turn in range(6):
                yield Event(card, start + 45 * turn, dice.randint(90, 390), "digital", far, pattern)
            yield Event(card, start + 400, int(card.usual * 4), "gift_cards", far, pattern)
        case "cloned":
            yield before
            for turn in range(2):
                cents = int(card.usual * dice.uniform(4, 12))
                yield Event(card, start + 600 * turn, cents, dice.choice(("electronics", "jewellery")), far, pattern)
        case "taken_over":
            for turn in range(2):
                cents = int(card.usual * dice.uniform(6, 15))
                yield Event(card, 3600 * 2 + start / 8 + 300 * turn, cents, "gift_cards", card.home, pattern)
        case _:
            yield Event(card, start, int(card.usual * dice.uniform(1, 2)), "groceries", card.home, pattern)


def _seen(events: Sequence[Event], run: str) -> Iterator[Labelled]:
    """Each payment with what the card's earlier ones say about it."""
    recent: dict[str, deque[Event]] = defaultdict(lambda: deque(maxlen=50))
    for number, one in enumerate(events, 1):
        past = recent[one.card.name]
        last = past[-1] if past else None
        past.append(one)
        yield Labelled(
            Transaction(
                id=f"{run}-{number}",
                card=one.card.name,
                at=DAY + timedelta(seconds=int(one.second)),
                cents=one.cents,
                category=one.category,
                country=one.country,
                home=one.card.home,
                usual_cents=one.card.usual,
                last_hour=sum(one.second - other.second <= 3600 for other in past),
                last_country=last.country if last else None,
                minutes_since=int((one.second - last.second) / 60) if last else None,
            ),
            one.pattern,
        )
