"""A directory of migrations that a test may add to, and runners in processes of their own."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.databases import Database
from tests.support.signals import until

_RUNNER = """
import sys
from pathlib import Path
from backbeat.migrate import postgres_up
print(postgres_up(sys.argv[1], Path(sys.argv[2]), log=lambda line: print(line, flush=True)))
"""
_RUNS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'backbeat migrate' AND datname = current_database()
        AND state = 'active' AND query LIKE %s"""


@dataclass(frozen=True, slots=True)
class Directory:
    """Begins with the project's own 0001_base.sql, which makes the ledger."""

    path: Path

    @classmethod
    def under(cls, parent: Path) -> "Directory":
        """A new one."""
        path = parent / "migrations" / "postgres"
        path.mkdir(parents=True)
        shutil.copy(Path(__file__).parents[2] / "migrations" / "postgres" / "0001_base.sql", path)
        return cls(path)

    def add(self, name: str, sql: str, *, alone: bool = False) -> Path:
        """Write `name`.sql; `alone` is transaction:false."""
        file = self.path / f"{name}.sql"
        file.write_text(f"-- migrate:up{' transaction:false' if alone else ''}\n{sql}\n")
        return file

    def verify(self, version: str, sql: str) -> None:
        """Write the proof of a version."""
        directory = self.path.parent / "verify"
        directory.mkdir(exist_ok=True)
        (directory / f"{version}.sql").write_text(sql)


class Runner:
    """`postgres_up` in a process of its own, to be raced or killed."""

    def __init__(self, database: Database, directory: Directory, log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            command = [sys.executable, "-c", _RUNNER, database.owner_url, str(directory.path)]
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        """All it printed; the last line is what it applied."""
        return self._log.read_text()

    def says(self, line: str) -> None:
        """Wait until it prints this."""
        until(lambda: line in self.output, within=60, what=f"a runner that says {line!r}")

    def result(self) -> str:
        """Wait for its end and return the last line. Raises AssertionError when it failed."""
        assert self.process.wait(timeout=30) == 0, self.output
        return self.output.splitlines()[-1]

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(timeout=10)


def statement_runs(database: Database, part: str) -> None:
    """Wait until a runner is inside the statement that contains this."""
    until(lambda: database.value(_RUNS, [f"%{part}%"]), within=60, what=f"a runner in {part!r}")
