"""The tasks of the campaigns: one call, three calls and a far write, and one that kills whoever runs it."""

import os
import signal
from typing import Any

import httpx2
from pydantic import BaseModel

from backbeat import Context, bounded_loop, effect, single_shot

PULLS = "/repos/acme/shop/pulls"
_HEADERS = {"authorization": "Bearer test"}


class Item(BaseModel):
    """`n` tells payloads apart and is the pull request that is reviewed; `text` makes prompts as long as wanted."""

    n: int
    text: str = ""


class Answer(BaseModel):
    summary: str


class Posted(BaseModel):
    review: int


async def _review(ctx: Context, item: Item) -> Posted:
    """Each prompt quotes the answer before it, so a call that is not answered from the record shows."""
    said = item.text
    for step in ("first", "second", "third"):
        prompt = f"The {step} look at change {item.n}: {said}"
        answer = await ctx.llm(step, output=Answer, prompt=prompt, tier="small", max_output_tokens=80)
        said = answer.summary
    posted = await ctx.effect("post", "review", {"pull": item.n, "body": said})
    return Posted(review=posted["id"])


async def _die(_ctx: Context, _item: Item) -> Answer:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process outlived its own SIGKILL")


async def _post(request: dict[str, Any], key: str) -> dict[str, Any]:
    body = {"event": "COMMENT", "body": f"{request['body']}\n{_mark(key)}"}
    async with _far_side() as client:
        answer = await client.post(f"{PULLS}/{request['pull']}/reviews", json=body)
    answer.raise_for_status()
    return {"id": answer.json()["id"]}


async def _find(request: dict[str, Any], key: str) -> dict[str, Any] | None:
    async with _far_side() as client:
        answer = await client.get(f"{PULLS}/{request['pull']}/reviews", params={"per_page": 100})
    answer.raise_for_status()
    return next(({"id": one["id"]} for one in answer.json() if _mark(key) in one["body"]), None)


def _mark(key: str) -> str:
    return f"<!-- backbeat:{key} -->"


def _far_side() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=os.environ["BACKBEAT_GITHUB_API"], headers=_HEADERS, trust_env=False)


single = single_shot(
    "single", version=1, input=Item, output=Answer, tier="small", prompt="Sum up {n}: {text}", max_output_tokens=80
)
batched = single_shot(
    "batched",
    version=1,
    input=Item,
    output=Answer,
    tier="small",
    prompt="Sum up {n}: {text}",
    max_output_tokens=80,
    batch=True,
)
loop = bounded_loop("loop", version=1, input=Item, output=Posted, tier="small", run=_review)
sturdy = bounded_loop("sturdy", version=1, input=Item, output=Posted, tier="small", attempts=100, run=_review)
poison = bounded_loop("poison", version=1, input=Item, output=Answer, tier="small", run=_die)
review = effect("review", perform=_post, read_back=_find, timeout=1.0, settle=1.0)
