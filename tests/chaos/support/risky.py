"""A definition module for the campaigns on the Temporal side: an orchestration, and the tasks that it fans out."""

from typing import Any

from pydantic import BaseModel

from backbeat import Context, bounded_loop, orchestration


class Job(BaseModel):
    """`fails`: after its write, which is then undone."""

    name: str
    fails: bool = False


class Said(BaseModel):
    summary: str


async def _piece(_ctx: Context, job: Job) -> Any:
    return job


piece = bounded_loop("piece", version=1, input=Job, output=Job, tier="small", run=_piece)
risky = orchestration("risky", version=1, input=Job, workflow="tests.chaos.support.risky_run:Risky")
