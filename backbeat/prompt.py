"""The task that every worker knows: `prompt`, a model call whose payload says all. Nobody writes Python for it."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backbeat.authoring import bounded_loop
from backbeat.pieces import in_pieces
from shared.domain.outcome import Dead
from shared.errors import DefinitionError
from shared.execution.context import Context
from shared.llm.structured import json_schema, validator


class Prompt(BaseModel):
    """What to ask, of which tier, and the JSON Schema that the answer must fit; without one the answer is text.

    By `batch` the answer may take a day, at half the price.
    """

    model_config = ConfigDict(extra="forbid", serialize_by_alias=True)

    prompt: str = Field(min_length=1)
    system: str = ""
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    tier: str = Field(default="small", min_length=1)
    max_output_tokens: int = Field(default=1024, ge=1, le=128_000)
    overflow: Literal["dead", "chunk"] = "dead"
    batch: bool = False

    @field_validator("schema_")
    @classmethod
    def _usable(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            if schema is not None:
                validator(json.dumps(schema))
                json_schema(schema)
        except (DefinitionError, ValueError, RecursionError) as error:
            raise ValueError(str(error)) from None
        return schema


class Completion(BaseModel):
    """The answer: what the schema describes, or text."""

    output: Any


async def _run(ctx: Context, asked: Prompt) -> Completion | Dead:
    if asked.tier not in ctx.tiers:
        return Dead("unknown_tier", f"no tier is called {asked.tier!r}: use one of {', '.join(ctx.tiers)}")
    options: Any = asked.model_dump(include={"prompt", "system", "tier", "max_output_tokens"})
    options["batch"] = asked.batch or None
    if asked.overflow == "chunk":
        answer = await in_pieces(ctx, "answer", output=asked.schema_, **options)
    else:
        answer = await ctx.llm("answer", output=asked.schema_, **options)
    return Completion(output=answer)


prompt = bounded_loop("prompt", version=1, input=Prompt, output=Completion, tier="small", run=_run)


def make_known(url: str) -> None:
    """Register it in a migrated database, so that producers may enqueue it before any worker came."""
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute("SELECT backbeat.register_definitions('cron', %s)", [json.dumps([prompt.row])])
