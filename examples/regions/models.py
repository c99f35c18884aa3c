"""What is moved."""

from pydantic import BaseModel, Field


class Shipment(BaseModel):
    """So many units from each warehouse; the first region is asked before the second."""

    order: str = Field(min_length=1)
    units: int = Field(ge=1, le=1000)
    regions: list[str] = Field(min_length=1, max_length=10)
