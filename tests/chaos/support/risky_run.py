"""The workflow of risky.py."""

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from backbeat import orchestrate as bb

with workflow.unsafe.imports_passed_through():
    from tests.chaos.support.risky import Job, Said


@workflow.defn(name="risky")
class Risky:
    """A model call, tasks to wait for, and a write that may have to be undone."""

    @workflow.run
    async def run(self, job: Job) -> int:
        await bb.llm("look", output=Said, prompt=job.name, tier="small")
        joined = await bb.fan_out("pieces", [("piece", {"name": f"{job.name} {n}"}) for n in range(2)])
        done = len([child for child in await joined.results() if child.ok])
        async with bb.saga() as steps:
            await steps.step("write", "note", {"do": job.name}, undo=("note", {"undo": job.name}))
            if job.fails:
                raise ApplicationError("as it was told to", non_retryable=True)
        return done
