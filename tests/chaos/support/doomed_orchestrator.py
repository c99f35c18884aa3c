"""A Temporal worker that kills itself at one labelled step: `python -m … STEP NTH run …`; nothing in it knows.

With BACKBEAT_TEST_STOPS=1 it stops there (SIGSTOP) until somebody lets it go on: time to kill what it talks to.
"""

import os
import signal
import sys
from collections.abc import Callable

from shared.db import approvals, effects, orchestrations, outbox
from temporal_worker.__main__ import main
from temporal_worker.activities import calls as activities
from temporal_worker.dispatcher import Dispatcher
from temporal_worker.relay import Relay
from tests.chaos.support import doomed
from tests.chaos.support.doomed import Doom

STEPS: dict[str, Callable[[Doom], None]] = {
    "after-lease": lambda doom: doom.after(outbox, "lease", bool),
    "before-start": lambda doom: doom.before(Dispatcher, "start"),
    "after-start": lambda doom: doom.after(Dispatcher, "start"),
    "before-poke": lambda doom: doom.before(Relay, "send"),
    "after-poke": lambda doom: doom.after(Relay, "send"),
    "after-mark": lambda doom: doom.after(outbox, "settle"),
    "after-ask": lambda doom: doom.after(approvals, "create"),
    "after-look": lambda doom: doom.after(approvals, "close_if_pending"),
    "before-far-write": lambda doom: doom.after(effects, "begin_effect", lambda answer: answer.verdict == "fire"),
    "after-far-write": lambda doom: doom.before(effects, "finish_effect"),
    "after-finish": lambda doom: doom.after(effects, "finish_effect"),
    "before-tell": lambda doom: doom.before(outbox, "project"),
    "after-tell": lambda doom: doom.after(outbox, "project"),
    "before-model-call": lambda doom: doom.before(activities, "model_call"),
    "after-model-call": lambda doom: doom.after(activities, "model_call"),
    "before-fan-out": lambda doom: doom.before(orchestrations, "add_children"),
    "after-fan-out": lambda doom: doom.after(orchestrations, "add_children"),
    "before-wake": lambda doom: doom.before(Relay, "send", lambda _, message: message.kind == "wake"),
    "after-join": lambda doom: doom.after(orchestrations, "join"),
    "after-results": lambda doom: doom.after(orchestrations, "results"),
    "before-write": lambda doom: doom.before(activities, "perform_effect"),
    "after-write": lambda doom: doom.after(activities, "perform_effect"),
    "before-undo": lambda doom: doom.before(activities, "perform_effect", lambda _, intent: ":undo:" in intent.key),
    "in-an-undo": lambda doom: doom.before(effects, "finish_effect", lambda _, key, *__: ":undo:" in key),
    "before-steps-are-told": lambda doom: doom.before(orchestrations, "project"),
    "after-steps-are-told": lambda doom: doom.after(orchestrations, "project"),
}


if __name__ == "__main__":
    if os.environ.get("BACKBEAT_TEST_STOPS") == "1":
        doomed.die = lambda: os.kill(os.getpid(), signal.SIGSTOP)
    step, nth, *rest = sys.argv[1:]
    STEPS[step](Doom(int(nth)))
    sys.exit(main(rest))
