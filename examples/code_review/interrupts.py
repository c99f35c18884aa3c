"""Ctrl-C and the like: the first one ends the demo in good order, and what follows cannot cut that short."""

import os
import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PARTING = b"demo: interrupted; stopping what it started. Nothing is lost: the next run goes on from here\n"
_heard: list[int] = []


class Interrupted(KeyboardInterrupt):
    """Somebody wants the demo to end: Ctrl-C, SIGTERM, or the terminal is gone."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def listen() -> None:
    """From now on the first such signal says so and raises Interrupted; later ones are ignored."""

    def interrupted(number: int, _frame: FrameType | None) -> None:
        deafen()
        _heard.append(number)
        # Past all buffers, which it may have interrupted, and over the progress bar.
        os.write(2, (b"\r\x1b[2K" if os.isatty(2) else b"") + _PARTING)
        raise Interrupted(number)

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and `&` want it
            signal.signal(number, interrupted)


def deafen() -> None:
    """Nothing interrupts the cleaning up that follows."""
    for number in _SIGNALS:
        # Not SIG_IGN, which processes started from now on would inherit.
        signal.signal(number, lambda _number, _frame: None)


def heard() -> bool:
    """Whether one came."""
    return bool(_heard)
