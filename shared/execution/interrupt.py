"""How a refusal inside a model call or an effect ends the attempt around it."""

from shared.domain.outcome import Outcome


class Interrupt(BaseException):
    """Unwinds a task's coroutine with the outcome of its attempt; None when the task is somebody else's by now.

    Not an Exception: an author's `except Exception` must not swallow a budget's refusal or the kill switch.
    """

    def __init__(self, outcome: Outcome | None) -> None:
        super().__init__(outcome)
        self.outcome = outcome
