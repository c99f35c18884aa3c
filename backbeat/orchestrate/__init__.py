"""What an orchestration is made of: steps that are done once, however often the workflow is replayed or retried.

Import it in a workflow's module; it does no I/O. Each helper is a step that people see (`backbeat workflow show`), and
each step's name is its key: give it explicitly, and do not let it depend on time or chance.
"""

from backbeat.orchestrate.fan import FanOutError, Joined, fan_out
from backbeat.orchestrate.saga import Saga, saga
from backbeat.orchestrate.steps import Approval, approve, barrier, effect, in_region, llm, tool, wait_until

__all__ = [
    "Approval",
    "FanOutError",
    "Joined",
    "Saga",
    "approve",
    "barrier",
    "effect",
    "fan_out",
    "in_region",
    "llm",
    "saga",
    "tool",
    "wait_until",
]
