"""What the inner beat loads: the children alone, so that a parent is planned and merged by the outer one."""

from examples.market_watch.definitions import mood, scout

__all__ = ["mood", "scout"]
