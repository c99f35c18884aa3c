"""A task whose one call goes to the tier that its payload names."""

from typing import Any

from pydantic import BaseModel

from backbeat import Context, bounded_loop

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


class Cell(BaseModel):
    tier: str


async def _ask(ctx: Context, cell: Cell) -> Any:
    said = await ctx.llm("ask", output=None, prompt=f"Say something of {cell.tier}", tier=cell.tier)
    return {"text": said}


matrix = bounded_loop("matrix", version=1, input=Cell, output=SCHEMA, tier="calm", run=_ask)
