"""A Temporal worker that kills itself at one step: `python -m tests.support.doomed_worker STEP NTH run …`."""

import sys

from temporal_worker.__main__ import main
from tests.chaos.support.doomed import STEPS, Doom

if __name__ == "__main__":
    step, nth, *rest = sys.argv[1:]
    STEPS[step](Doom(int(nth)))
    sys.exit(main(rest))
