"""What every test may ask for. Servers start when the first test needs them and are shared by all processes."""

import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings

from shared.db import pool
from tests.support import databases, pooler, servers
from tests.support.clickhouse import (  # noqa: F401
    clickhouse,
    clickhouse_server,
    deliver,
    empty_clickhouse,
    private_clickhouse,
)
from tests.support.databases import Database
from tests.support.servers import Server
from tests.support.temporal import temporal_server  # noqa: F401

_POOLED = os.environ.get("BACKBEAT_TEST_POOLER") == "1"
_MAJOR = os.environ.get("BACKBEAT_TEST_POSTGRES", "18")
_ROOT = pytest.StashKey[Path]()

# The same examples at every run, so that a change is red for what it does; `make soak` looks further, at random.
settings.register_profile("seeded", derandomize=True, deadline=None)
settings.register_profile("soak", derandomize=False, deadline=None)
settings.load_profile("soak" if os.environ.get("BACKBEAT_SOAK") == "1" else "seeded")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as jobs in the background are begun, and what they begin
        signal.signal(signal.SIGINT, signal.default_int_handler)
    pool.CONNECT_TIMEOUT = 30.0  # of this process: it may stand still for longer than five seconds
    config.addinivalue_line("markers", "durable: on a server with fsync on, for tests that kill things")
    given = getattr(config, "workerinput", {}).get("backbeat_root")
    place = servers.place()
    if not given:
        servers.clear(place)
    config.stash[_ROOT] = Path(given or f"{place}/{servers.NAME}-{os.getpid()}-{uuid4().hex[:6]}")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["backbeat_root"] = str(node.config.stash[_ROOT])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Behind a pooler only what uses a database is worth running again, on one version of Postgres."""
    if _POOLED:
        other = re.compile(rf"[\[-]{'15' if _MAJOR == '18' else '18'}[]-]")
        behind = [one for one in items if "database" in getattr(one, "fixturenames", ()) and not other.search(one.name)]
        config.hook.pytest_deselected(items=[item for item in items if item not in behind])
        items[:] = behind


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        servers.stop_all(config.stash[_ROOT])
        shutil.rmtree(config.stash[_ROOT], ignore_errors=True)


@pytest.fixture
def seed() -> int:
    """The seed of a random test, printed so that BACKBEAT_SEED=… repeats it."""
    value = int(os.environ.get("BACKBEAT_SEED") or random.getrandbits(32))
    print(f"BACKBEAT_SEED={value}")
    return value


@pytest.fixture
def postgres_major() -> str:
    """The PostgreSQL version to use; `tests.support.every_postgres` parametrises it."""
    return _MAJOR


@pytest.fixture
def server(request: pytest.FixtureRequest, postgres_major: str) -> Server:
    """The running server of this version, shared by all tests: do not stop it."""
    if postgres_major == "15" and not (servers.DEBIAN_15 / "initdb").exists():
        pytest.skip(f"no PostgreSQL 15: {servers.DEBIAN_15} does not exist (Debian's package postgresql-15)")
    durable = request.node.get_closest_marker("durable") is not None
    return servers.shared(request.config.stash[_ROOT], major=postgres_major, durable=durable)


@pytest.fixture(scope="session")
def _poolers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Server], int]]:
    """Start a pooler a server, at its first use by this test process."""
    if not pooler.PGBOUNCER.exists():
        pytest.skip(f"no PgBouncer: {pooler.PGBOUNCER} does not exist (Debian's package pgbouncer)")
    started: dict[int, tuple[Any, int]] = {}

    def port(server: Server) -> int:
        if server.port not in started:
            started[server.port] = pooler.start(tmp_path_factory.mktemp("pgbouncer") / "run", server)
        return started[server.port][1]

    yield port
    for daemon, _ in started.values():
        daemon.stop()


@pytest.fixture
def database(request: pytest.FixtureRequest, server: Server) -> Iterator[Database]:
    """A migrated database of this test's own, with the test clock. BACKBEAT_TEST_POOLER=1 puts PgBouncer before it."""
    pooler_port = request.getfixturevalue("_poolers")(server) if _POOLED else None
    with databases.lent(server, pooler_port=pooler_port) as made:
        yield made


@pytest.fixture
def pgbouncer(server: Server, _poolers: Callable[[Server], int]) -> Iterator[Database]:
    """Like `database`, its workers always behind PgBouncer in transaction mode."""
    with databases.lent(server, pooler_port=_poolers(server)) as made:
        yield made


@pytest.fixture
def empty_database(server: Server) -> Iterator[Database]:
    """A database of the owner's in which no migration ran."""
    with databases.lent(server, template="template0") as made:
        yield made


@pytest.fixture
def private_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A durable server of this test's own, to kill and start again; takes about two seconds."""
    made = servers.new(tmp_path_factory.mktemp("private") / "postgres", durable=True)
    yield made
    made.daemon.stop(signal.SIGQUIT)  # killed, it would leave shared memory behind for ever


@pytest.fixture
def private_database(private_server: Server) -> Iterator[Database]:
    """A database on the private server, which goes with it."""
    made = databases.create(private_server)
    yield made
    databases.forget(made)
