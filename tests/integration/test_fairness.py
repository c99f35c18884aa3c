"""Fairness by measured cost: what two backlogged flows were served differs by a bounded amount, whatever happens.

The bound is that of start-time fair queueing with windows: |served_i / w_i - served_j / w_j| stays below twice the
dearest task times what may be under way or promised at once. The oracle is a stride scheduler, which serves whoever
had least for its weight, one task at a time.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import psycopg

from shared.db import calls, queue
from shared.db.calls import Closing
from shared.db.pool import Database as Connection
from shared.db.queue import Task
from shared.domain.outcome import Outcome, Retry, Snooze, Succeed
from shared.domain.usage import Usage
from tests.support import tasks
from tests.support.databases import Database

CONCURRENCY = 8
WINDOW = 12  # by the tenants' caps; with the whole window of 64 the bound would be met by unfair queues too
DEAREST = 21.0  # 20,000 tokens, and one for the task
BOUND = 2 * DEAREST * (WINDOW + CONCURRENCY)
ROUNDS = 160


@dataclass
class Flow:
    """A tenant's weight, the mean cost of its tasks, and what it was served since the last pause."""

    weight: float
    cost: float
    served: float = 0.0


def _spread(flows: Mapping[str, Flow]) -> float:
    paces = [flow.served / flow.weight for flow in flows.values()]
    return (max(paces) - min(paces)) * min(flow.weight for flow in flows.values())


def _oracle(flows: Mapping[str, Flow]) -> dict[str, float]:
    served = dict.fromkeys(flows, 0.0)
    while sum(served.values()) < sum(flow.served for flow in flows.values()):
        least = min(flows, key=lambda name: served[name] / flows[name].weight)
        served[least] += flows[least].cost
    return served


async def _run(db: Connection, dice: random.Random, flow: Flow, task: Task) -> Outcome:
    """One attempt of about the flow's cost, and an end of one kind or another."""
    cost = max(1.0, min(dice.gauss(flow.cost, flow.cost / 4), DEAREST))
    usage = Usage(uncached=round((cost - 1) * 1000))
    key = f"call {task.lease}"
    seq = await tasks.opened(db, task, key)
    assert await calls.close_call(db, task.id, key, seq, Closing("done", usage=usage, cost=Decimal(0)))
    flow.served += 1 + usage.uncached / 1000
    ends: list[Outcome] = [Succeed(1), Retry("again", "x"), Snooze(task.created_at)]
    return dice.choices(ends, [8, 1, 1])[0]


async def test_backlogged_flows_are_served_by_weight_whatever_they_cost(database: Database, seed: int) -> None:
    dice = random.Random(seed)
    weights, costs = dice.sample([1.0, 2.0, 5.0], 3), dice.sample([5.0, 10.0, 20.0], 3)
    flows = {name: Flow(weight, cost) for name, weight, cost in zip("abc", weights, costs, strict=True)}
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        for name, flow in flows.items():
            values = [name, flow.weight, WINDOW]
            owner.execute("INSERT INTO backbeat.tenants (id, weight, max_running) VALUES (%s, %s, %s)", values)
        async with tasks.worker(database) as db:
            for name in flows:
                await tasks.add(db, 1500, tenant=name)
            pauses = {dice.randrange(20, ROUNDS // 4): dice.choice("abc")}
            for number in range(ROUNDS):
                if number in pauses:
                    # While one is away the others share what there is, and it is not paid back when it returns.
                    owner.execute("SELECT backbeat.pause('tenant', %s, 'a test', 'tester')", [pauses[number]])
                    for _ in range(5):
                        away = await tasks.take(db, CONCURRENCY)
                        assert pauses[number] not in {task.tenant for task in away}
                        await queue.settle(
                            db, [(task, await _run(db, dice, flows[task.tenant], task)) for task in away]
                        )
                    owner.execute("SELECT backbeat.unpause('tenant', %s, 'tester')", [pauses[number]])
                    await queue.sweep(db)
                    for flow in flows.values():
                        flow.served = 0.0
                running = await tasks.take(db, CONCURRENCY)
                await queue.settle(db, [(task, await _run(db, dice, flows[task.tenant], task)) for task in running])
                assert _spread(flows) <= BOUND
    exact = _oracle(flows)
    told = {name: (flow.weight, round(flow.served), round(exact[name])) for name, flow in flows.items()}
    assert all(abs(flow.served - exact[name]) <= BOUND / 2 for name, flow in flows.items()), told
    print(told, round(_spread(flows)), BOUND)
