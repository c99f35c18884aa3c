"""Writes spans of model calls until it is killed: `python -m tests.chaos.support.spanner DIRECTORY FIRST SEED`.

Call n is in batch n // BATCH. Each batch is announced before it is flushed, and acknowledged after. Every fifth call is
told as lost first and comes in truth with the next batch, as when a worker closes a call that others gave up.
"""

import sys
from decimal import Decimal
from pathlib import Path
from random import Random

from shared.telemetry.recorder import SpoolTelemetry
from shared.telemetry.spans import SpanRecord
from tests.support.clickhouse import call

BATCH = 40


def cost(seed: int, number: int) -> Decimal:
    """Up to a hundred dollars, to the last of nine decimals."""
    return Decimal(Random(f"{seed}:{number}").randrange(10**11)).scaleb(-9)


def spans(seed: int, batch: int) -> list[SpanRecord]:
    """What one batch holds: its calls, and the truth about the lost ones of the batch before."""
    numbers = range(batch * BATCH, (batch + 1) * BATCH)
    told = [call(n, status="lost") if n % 5 == 0 else _real(seed, n) for n in numbers]
    return told + [_real(seed, n - BATCH) for n in numbers if n % 5 == 0 and batch]


def _real(seed: int, number: int) -> SpanRecord:
    return call(number, backbeat__cost_usd=str(cost(seed, number)))


def main() -> None:
    directory, first, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    telemetry = SpoolTelemetry(directory, "cron-worker")
    for batch in range(first, 10**6):
        print("begin", batch, flush=True)
        for span in spans(seed, batch):
            telemetry.record(span)
        telemetry.flush()
        (writer,) = telemetry._writers
        assert writer.wait(60)
        print("done", batch, flush=True)


if __name__ == "__main__":
    main()
