"""What is known of a card payment, and what rules, a model and people say of it."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Category = Literal[
    "groceries", "fuel", "restaurant", "travel", "clothing", "digital", "electronics", "jewellery", "gift_cards"
]
RESOLD = ("electronics", "jewellery", "gift_cards")  # what thieves buy: easily sold again


class Transaction(BaseModel):
    """One payment by card, with what the bank knows of that card at this moment.

    `last_hour` counts the card's payments in the hour before, this one included; `last_country` and `minutes_since` are
    of the payment before it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    card: str
    at: datetime
    cents: int = Field(gt=0)
    category: Category
    country: str
    home: str
    usual_cents: int = Field(gt=0)
    last_hour: int = Field(ge=1)
    last_country: str | None = None
    minutes_since: int | None = None

    @property
    def ratio(self) -> float:
        """How many times the usual amount of this card."""
        return self.cents / self.usual_cents

    @property
    def jumped(self) -> bool:
        """Whether the card was used in another country less than two hours ago."""
        return self.last_country not in (None, self.country) and (self.minutes_since or 0) < 120


class Screened(BaseModel):
    """What the written rules say. The doubtful ones go on to a model."""

    state: Literal["clear", "doubtful"]
    points: int
    rules: tuple[str, ...]


class Doubt(BaseModel):
    """A payment the rules could not clear, and why."""

    transaction: Transaction
    rules: tuple[str, ...]


class Judgement(BaseModel):
    """What the model answers."""

    verdict: Literal["clear", "watch", "block"]
    risk: int = Field(ge=0, le=100)
    reason: str = Field(max_length=200)


def block_request(transaction: Transaction, judgement: Judgement) -> dict[str, Any]:
    """Exactly what the issuer would be asked, and what analysts are shown."""
    return {
        "transaction": transaction.id,
        "card": transaction.card,
        "cents": transaction.cents,
        "reason": judgement.reason,
    }
