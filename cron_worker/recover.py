"""Takes back what dead workers left running."""

from types import SimpleNamespace

from shared.db import calls, queue
from shared.execution.environment import Environment
from shared.execution.spans import lost_process_span, recovered_call_span, retold_enqueue_span


async def recover(env: Environment, limit: int = 100) -> int:
    """Return expired runs to the queue, and tell their attempts and calls to the traces: their worker may not have.

    The spans are on disk before exactly those rows move: a tick that dies between repeats them, and a span told twice
    is one span, while one told never would be missing. Returns how many runs were taken back.
    """
    expired = await queue.expired_leases(env.db, limit)
    if not expired:
        return 0
    for run in expired:
        env.telemetry.record(retold_enqueue_span(SimpleNamespace(**run)))
        env.telemetry.record(lost_process_span(env, run))
        for call in await calls.calls_of_lease(env.db, run["id"], run["lease"]):
            env.telemetry.record(recovered_call_span(env, run, call))
    env.telemetry.flush()
    return await queue.reap(env.db, limit, [run["lease"] for run in expired])
