"""`backbeat` that kills itself (SIGKILL) when it would mark a message: `python -m tests.support.doomed_notify …`."""

import os
import signal
import sys
from typing import Any

from backbeat.cli.main import main
from backbeat.notify import run, senders
from backbeat.notify.senders import Message


async def _send(channel: Any, message: Message) -> None:
    await senders.send(channel, message)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    vars(run)["send"] = _send
    sys.exit(main())
