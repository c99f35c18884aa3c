"""A Temporal dev server for each test process, started when a test first needs one."""

from tests.support.temporal import temporal_server  # noqa: F401
