"""Names and durations that workflows, activities and loops must agree on. Pure: workflows import it."""

from datetime import timedelta

TASK_QUEUE = "backbeat"

# Activities on Postgres are milliseconds long; one whose worker died is tried elsewhere after this.
QUICK = timedelta(seconds=10)
# The far write is bounded by its own time-out; a silent worker is noticed by its missing heartbeat.
EFFECT_LIMIT = timedelta(minutes=10)
EFFECT_HEARTBEAT = timedelta(seconds=5)
REVISE_LIMIT = timedelta(minutes=5)
REVISE_ATTEMPTS = 5  # then people edit it themselves, or the deadline comes
RETRY_FIRST = timedelta(milliseconds=200)
RETRY_LONGEST = timedelta(seconds=10)
# An effect nobody can know about waits for a person; somebody looks again after one minute, two, four, up to an hour.
RECHECK_FIRST = timedelta(minutes=1)
RECHECK_LONGEST = timedelta(hours=1)
# A sticky queue of a dead worker holds a workflow's next task back for this long.
STICKY = timedelta(seconds=1)
GRACE = timedelta(seconds=10)

POLL = 0.05  # seconds between looks at an empty outbox; what a start waits for at most before Temporal hears of it
BATCH = 50  # messages a lease
LEASE = 15.0  # seconds; longer than one call to Temporal may take
RPC_TIMEOUT = 5.0  # seconds for one call to Temporal; the SDK's own limit is not kept while it retries
PATIENCE = 4.0  # seconds an activity waits for Postgres before Temporal retries it
LONGEST_PAUSE = 2.0  # seconds between attempts while Postgres or Temporal is away
PRESENCE_EVERY = 5.0  # seconds between signs of life, ours and Temporal's
SHIP_EVERY = 5.0  # seconds between looks at the spool
SHIP_DEADLINE = 3.0  # seconds that one look may take; a stop waits for it
RECONCILE_EVERY = 15.0  # seconds
RECONCILE_AFTER = 30.0  # seconds since anybody last heard of a workflow
RECONCILE_BATCH = 50
