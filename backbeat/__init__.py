"""Backbeat: AI work in production on one Postgres. These are the names a task author needs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backbeat.authoring import bounded_loop, bulk, effect, orchestration, single_shot
    from backbeat.authoring_agents import Children, agent, orchestrator
    from backbeat.pieces import in_pieces
    from backbeat.tools.function import tool, writing_tool
    from shared.domain.outcome import Dead, Escalate, FanOut, Outcome, Retry, Snooze, Succeed
    from shared.errors import BackbeatError, InputError
    from shared.execution.batch import BatchContext
    from shared.execution.context import Context
    from shared.execution.effects import EffectRefusedError
    from shared.execution.tools import ToolError

__version__ = "0.1.0"
__all__ = [
    "BackbeatError",
    "BatchContext",
    "Children",
    "Context",
    "Dead",
    "EffectRefusedError",
    "Escalate",
    "FanOut",
    "InputError",
    "Outcome",
    "Retry",
    "Snooze",
    "Succeed",
    "ToolError",
    "agent",
    "bounded_loop",
    "bulk",
    "effect",
    "in_pieces",
    "orchestration",
    "orchestrator",
    "single_shot",
    "tool",
    "writing_tool",
]

_HOMES = {
    **dict.fromkeys(("single_shot", "bounded_loop", "bulk", "effect", "orchestration"), "backbeat.authoring"),
    **dict.fromkeys(("agent", "orchestrator"), "backbeat.authoring_agents"),
    **dict.fromkeys(("tool", "writing_tool"), "backbeat.tools.function"),
    **dict.fromkeys(("Dead", "Escalate", "FanOut", "Outcome", "Retry", "Snooze", "Succeed"), "shared.domain.outcome"),
    **dict.fromkeys(("BackbeatError", "InputError"), "shared.errors"),
    "in_pieces": "backbeat.pieces",
    "BatchContext": "shared.execution.batch",
    "Children": "backbeat.authoring_agents",
    "Context": "shared.execution.context",
    "EffectRefusedError": "shared.execution.effects",
    "ToolError": "shared.execution.tools",
}


def __getattr__(name: str) -> Any:
    """Load a name when it is asked for, so that `import backbeat` costs a command nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'backbeat' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
