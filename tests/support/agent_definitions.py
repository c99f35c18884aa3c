"""The definitions of the agents' tests and campaigns."""

from pydantic import BaseModel

from backbeat import Children, Context, agent, orchestrator, single_shot, tool
from shared.definitions import Definition
from tests.support.agents import Found, Job, fail, hang, job, long, look_up, note, slow


class Part(BaseModel):
    n: int
    text: str = ""


class Parts(BaseModel):
    n: int
    parts: int = 2
    bad: int = 0


class Whole(BaseModel):
    parts: int
    failed: int


scripted = agent(
    "scripted",
    version=1,
    goal="Do as the script says.",
    input=Job,
    output=Found,
    tier="small",
    tools=[look_up, tool(slow, timeout=0.3), fail, long, tool(hang, timeout=0.2), note],
    max_steps=8,
    max_observation=400,
    max_output_tokens=200,
    attempts=2,
)
asking = agent(
    "asking", version=1, goal="Ask.", input=Job, output=Found, tier="small", escalate_to="helped", max_output_tokens=200
)
part = single_shot(
    "part", version=1, input=Part, output=Found, tier="small", prompt="Sum up {n}: {text}", max_output_tokens=80
)
lead = agent(
    "lead",
    version=1,
    goal="Have others do it.",
    input=Job,
    output=Found,
    tier="small",
    children=[part, scripted],
    policy="any",
    max_output_tokens=200,
)


nested = agent(
    "nested",
    version=1,
    goal="Deeper.",
    input=Job,
    output=Found,
    tier="small",
    children=[lead, part],
    max_output_tokens=200,
)


async def _plan(_ctx: Context, value: Parts) -> list[tuple[Definition, BaseModel]]:
    well = [(part, Part(n=value.n, text=f"part {at}")) for at in range(value.parts - value.bad)]
    end = {"action": "escalate", "reasoning": "cannot"}
    return [*well, *((scripted, Job.model_validate(job(at, end))) for at in range(value.bad))]


async def _merge(ctx: Context, value: Parts, children: Children) -> Whole:
    found = await children.results()
    await ctx.tool("note", "note", text=f"merged {value.n}")
    return Whole(parts=len(found), failed=sum(one["status"] not in ("succeeded", "done") for one in found))


boss = orchestrator(
    "boss", version=1, input=Parts, output=Whole, tier="small", plan=_plan, merge=_merge, policy=2, tools=[note]
)
