"""What goes into an order's journey, and what comes out."""

from pydantic import BaseModel, Field


class Line(BaseModel):
    sku: str = Field(min_length=1)
    quantity: int = Field(ge=1, le=1000)


class Order(BaseModel):
    """An order as the shop took it; `rest_seconds` is how long the customer is left alone after it was shipped."""

    customer: str = Field(min_length=1)
    country: str = Field(pattern="^[A-Z]{2}$")
    cents: int = Field(ge=1)
    lines: list[Line] = Field(min_length=1)
    new_customer: bool = False
    gift: bool = False
    rest_seconds: float = 0.0


class Risk(BaseModel):
    """What a model thinks of an order."""

    risky: bool
    reason: str


class Letter(BaseModel):
    text: str


class Picked(BaseModel):
    sku: str
    shelf: str


class Quote(BaseModel):
    carrier: str
    cents: int


class Done(BaseModel):
    """How it ended: shipped, declined by people, or refunded."""

    status: str
    parcel: str = ""
    picked: int = 0
