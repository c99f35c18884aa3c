"""PostgreSQL servers of the tests: one a version and durability, shared by all test processes of a run."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from backbeat import migrate
from backbeat.embedded import ports, postgres, roles
from backbeat.embedded.daemon import Daemon
from backbeat.embedded.files import secret

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
PASSWORD = "test"  # of all logins
TEMPLATE = "backbeat_template"
TEST_SCHEMA = Path(__file__).with_name("test_schema.sql")
NAME = "backbeat-tests"  # of such a directory, then the pid of the run
MEMORY, ROOM = "/dev/shm", 6 * 2**30  # 1 GB is used at most
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


@dataclass(frozen=True, slots=True)
class Server:
    """One server: `major` is 18 (the wheel's) or 15 (Debian's); durable keeps fsync on, for tests that kill it."""

    directory: Path
    port: int
    major: str = "18"
    durable: bool = False

    @property
    def daemon(self) -> Daemon:
        """The process: `kill`, `process`, `tail`."""
        return postgres.daemon(self.directory)

    def url(self, database: str, user: str = postgres.SUPERUSER) -> str:
        """A login of this server: the superuser, `roles.OWNER`, `roles.APP` or `roles.PEOPLE`."""
        password = None if user == postgres.SUPERUSER else PASSWORD
        return postgres.dsn(self.directory, self.port, user=user, password=password, database=database)

    def start(self) -> None:
        """Start it and wait until it answers; also after `daemon.kill()`."""
        settings = {} if self.durable else FAST
        if self.major == "18":
            postgres.start(self.directory, self.port, settings=settings)
        else:
            self._start_debian(settings)
        self.daemon.ready(lambda: postgres.probe(self.url("postgres")), within=30.0)

    def stop(self) -> None:
        """Stop it without waiting for its clients."""
        self.daemon.stop(signal.SIGQUIT if not self.durable else signal.SIGINT)

    def initialise(self) -> None:
        """Make the data directory, start, and build the template database that each test's is a copy of."""
        if self.major == "18":
            postgres.initialise(self.directory)
        else:
            self._initialise_debian()
        self.start()
        admin = self.url("postgres")
        roles.create_owner(admin, PASSWORD, TEMPLATE)
        migrate.postgres_up(self.url(TEMPLATE, roles.OWNER))
        for login in roles.MEMBERS:
            roles.create_member(admin, login, PASSWORD)
        with psycopg.connect(self.url(TEMPLATE, roles.OWNER), autocommit=True) as owner:
            owner.execute(TEST_SCHEMA.read_bytes())
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false".encode())

    def _initialise_debian(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True)
        secret(self.directory / "password")
        options = ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256", f"--username={postgres.SUPERUSER}"]
        paths = [f"--pgdata={self.directory / 'data'}", f"--pwfile={self.directory / 'password'}"]
        command = [*postgres._as_somebody(), str(DEBIAN_15 / "initdb"), *options, *paths]
        subprocess.run(command, check=True, capture_output=True, cwd=self.directory)

    def _start_debian(self, settings: dict[str, str]) -> None:
        options = {**postgres._SETTINGS, "port": str(self.port), **settings}
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        data = str(self.directory / "data")
        self.daemon.start([*postgres._as_somebody(), str(DEBIAN_15 / "postgres"), "-D", data, *flags])


def place() -> str:
    """Where shared ones live: in memory, where a database is made in a third of the time, or on disk."""
    with suppress(OSError, ValueError):
        (available,) = re.findall(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        room = min(shutil.disk_usage(MEMORY).free, int(available) * 1024)
        if room > ROOM and os.access(MEMORY, os.W_OK):
            return MEMORY
    return tempfile.gettempdir()


def clear(place: str) -> None:
    """End and remove what runs left there that were killed: memory is not given back by itself."""
    for left in Path(place).glob(f"{NAME}-*"):
        pid = left.name.split("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            stop_all(left)
            shutil.rmtree(left, ignore_errors=True)


def new(directory: Path, *, major: str = "18", durable: bool = False) -> Server:
    """A server that runs, with its template."""
    server = Server(directory, ports.find(), major, durable)
    server.initialise()
    return server


def shared(root: Path, *, major: str, durable: bool) -> Server:
    """The server of this run, started by whoever asks first."""
    root.mkdir(mode=0o700, exist_ok=True)
    directory = root / f"postgres-{major}{'-durable' if durable else ''}"
    known = directory / "port"
    with _locked(directory.with_suffix(".lock")):
        if known.exists():
            return Server(directory, int(known.read_text()), major, durable)
        server = new(directory, major=major, durable=durable)
        known.write_text(str(server.port))
        return server


def stop_all(root: Path) -> None:
    """End every server below the root."""
    for pid_file in root.glob("*/*.pid"):
        Daemon(pid_file.stem, pid_file.parent, pid_file.with_suffix(".log")).stop(signal.SIGQUIT)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
