"""Where one stack lives and what it was told to be: its directory, and `stack.json` in it."""

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    """One stack. `ports` has every engine that ever ran here, `engines` what `up` last started.

    `args` is what the user adds to an engine's command line.
    """

    directory: Path
    ports: Mapping[str, int] = field(default_factory=dict)
    latency: str = "0.2-2"
    args: Mapping[str, list[str]] = field(default_factory=dict)
    engines: Sequence[str] = ()

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The stack of this directory as it was last started; a new one where there is none."""
        site = cls(directory.absolute())
        try:
            return replace(site, **_checked(json.loads(site.file.read_text(encoding="utf-8"))))
        except (FileNotFoundError, NotADirectoryError):
            return site
        except OSError as error:
            raise ConfigError(f"{site.file} cannot be read: {error.strerror}", fix="Correct its rights") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"{site.file} is damaged: {error}", fix="Remove it; `backbeat up` writes it anew"
            ) from error

    def write(self) -> None:
        """Make `stack.json` say this."""
        stored = {"ports": self.ports, "latency": self.latency, "args": self.args, "engines": self.engines}
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


def _checked(stored: Any) -> dict[str, Any]:
    """What stood in `stack.json`. Raises ValueError when it is not what `write` writes."""
    if not isinstance(stored, dict):
        raise ValueError("it is no object")  # noqa: TRY004  told apart from our own mistakes
    ports, args = stored.get("ports", {}), stored.get("args", {})
    if not isinstance(ports, dict) or not all(type(port) is int and 0 < port < 65536 for port in ports.values()):
        raise ValueError("`ports` is not engines with their ports")
    if not isinstance(args, dict) or not all(map(_words, args.values())):
        raise ValueError("`args` is not engines with their arguments")
    if not isinstance(stored.get("latency", ""), str) or not _words(stored.get("engines", [])):
        raise ValueError("`latency` or `engines` is something else")
    # A stack of before `engines` was kept is about all that ever ran.
    return {"engines": list(ports), **stored}


def _words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
