"""Where one stack lives and what it was told to be: its directory, and `stack.json` in it."""

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Self

from backbeat.embedded import files, ports
from backbeat.embedded.daemon import Daemon
from shared.clock import monotonic
from shared.errors import ConfigError, ConflictError

Log = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Site:
    """One stack. `ports` has every engine that ever ran here, `args` what the user adds to an engine's command line."""

    directory: Path
    ports: Mapping[str, int] = field(default_factory=dict)
    latency: str = "0.2-2"
    args: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The stack of this directory as it was last started; a new one where there is none."""
        site = cls(directory.absolute())
        try:
            stored: dict[str, Any] = json.loads(site.file.read_text(encoding="utf-8"))
            return replace(site, **stored)
        except (FileNotFoundError, NotADirectoryError):
            return site
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{site.file} is damaged: {error}", fix="Remove it; `backbeat up` writes it anew"
            ) from error

    def write(self) -> None:
        """Make `stack.json` say this."""
        stored = {"ports": self.ports, "latency": self.latency, "args": self.args}
        files.write(self.file, json.dumps(stored, indent=2) + "\n")

    @property
    def file(self) -> Path:
        """`stack.json`."""
        return self.directory / "stack.json"

    @property
    def config(self) -> Path:
        """What the workers and commands read."""
        return self.directory / "backbeat.toml"

    def port(self, engine: str) -> int:
        """Where an engine listens; 0 when it never ran."""
        return self.ports.get(engine, 0)

    def home(self, engine: str) -> Path:
        """Where an engine keeps its data, its pid file and its lock."""
        return self.directory / engine

    def daemon(self, engine: str) -> Daemon:
        """An engine's process, running or not."""
        return Daemon(engine, self.home(engine), self.directory / "log" / f"{engine}.log")

    def secret(self, name: str) -> str:
        """A generated password of this stack."""
        return files.secret(self.secret_file(name))

    def secret_file(self, name: str) -> Path:
        """Where that password lies, mode 0600."""
        return self.directory / "secrets" / name

    def make(self, engines: Iterable[str]) -> None:
        """Create the directories; only their owner may look inside."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("log", "secrets", *engines):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)

    def with_port(self, engine: str, wanted: int | None, log: Log) -> Self:
        """The same stack with a port to listen on: the wanted one, else the last one, else any free one.

        Raises ConflictError when the wanted port is taken; a remembered one that is taken moves, and says so.
        """
        port = wanted or self.port(engine)
        if port and ports.is_free(port):
            return replace(self, ports={**self.ports, engine: port})
        if wanted:
            raise ConflictError(f"port {wanted} for {engine} is taken", fix="Stop what listens there, or name another")
        new = ports.find(avoid=self.ports.values())
        if port:
            log(f"{engine} moves to port {new}: its port {port} is taken by something else")
        return replace(self, ports={**self.ports, engine: new})

    @contextlib.contextmanager
    def alone(self, patience: float = 120.0) -> Iterator[None]:
        """Keep other `up`s and `down`s of this directory out; they wait. Raises ConflictError after `patience` s."""
        deadline = monotonic() + patience
        with (self.directory / "stack.lock").open("w", encoding="ascii") as lock:
            while not _locked(lock):
                if monotonic() > deadline:
                    what = f"another up or down of {self.directory} has not ended for {patience:.0f} s"
                    raise ConflictError(what, fix="Try again when it ended")
                time.sleep(0.05)
            yield


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
