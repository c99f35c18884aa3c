"""Agents: a pattern of what every task has: calls, tools, fan-out. To a worker each step is a task like others."""
