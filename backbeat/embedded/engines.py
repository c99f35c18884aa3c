"""The engines a stack is made of: how each is started, when it is ready, how it is asked to stop."""

import functools
import http.client
import importlib.util
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from backbeat.embedded import postgres, temporal
from backbeat.embedded.daemon import Daemon
from backbeat.embedded.site import Site
from shared.errors import ConfigError

_PACKAGE_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Engine:
    """One process of a stack. `probe` answers why it is not ready yet, or nothing; `within` and `grace` are seconds."""

    daemon: Daemon
    start: Callable[[], object]
    probe: Callable[[], str]
    stop_signal: signal.Signals = signal.SIGTERM
    within: float = 60.0
    grace: float = 15.0

    def stop(self) -> bool:
        """Ask it to end, then make it; False when it did not run."""
        return self.daemon.stop(self.stop_signal, grace=self.grace)


def _postgres(site: Site) -> Engine:
    home, port, daemon = site.home("postgres"), site.port("postgres"), site.daemon("postgres")

    def start() -> None:
        postgres.initialise(home)
        postgres.start(home, port, log=daemon.log)

    return Engine(daemon, start, lambda: postgres.probe(postgres.dsn(home, port)), signal.SIGINT, 120.0, 20.0)


def _temporal(site: Site) -> Engine:
    port, daemon = site.port("temporal"), site.daemon("temporal")

    def start() -> None:
        daemon.start(temporal.command(site.home("temporal"), port))

    return Engine(daemon, start, lambda: temporal.probe(port))


def _clickhouse(site: Site) -> Engine:
    for name in ("clickhouse", "analyst"):
        site.secret(name)
    flags = ["--path", str(site.home("clickhouse") / "data"), "--user", "backbeat"]
    flags += ["--password-file", str(site.secret_file("clickhouse"))]
    flags += ["--analyst", "analyst", "--analyst-password-file", str(site.secret_file("analyst"))]
    flags += ["--analyst-database", "backbeat"]
    return _service(site, "clickhouse", flags, "/ping", needs=("chdb", "lz4", "starlette", "uvicorn", "zstandard"))


def _provider(site: Site) -> Engine:
    flags = ["--log", str(request_log(site, "provider")), "--latency", site.latency]
    return _service(site, "provider", flags, "/health", needs=("starlette", "uvicorn"))


def _recorder(site: Site) -> Engine:
    site.secret("github")
    flags = ["--log", str(request_log(site, "recorder")), "--token-file", str(site.secret_file("github"))]
    return _service(site, "recorder", flags, "/health", needs=("starlette", "uvicorn"))


def request_log(site: Site, engine: str) -> Path:
    """What the provider or the recorder was asked, one JSON object a line."""
    return site.home(engine) / "requests.jsonl"


def _service(site: Site, name: str, flags: list[str], path: str, *, needs: tuple[str, ...]) -> Engine:
    """An engine that is a module of this package with an HTTP health check."""
    port, daemon = site.port(name), site.daemon(name)

    def start() -> None:
        if missing := [package for package in needs if importlib.util.find_spec(package) is None]:
            raise ConfigError(f"{name} needs the package {missing[0]}", fix="pip install 'backbeat[embedded]'")
        module = f"backbeat.embedded.{name}"
        daemon.start(
            [sys.executable, "-m", module, "--port", str(port), *flags, *site.args.get(name, ())], cwd=_PACKAGE_ROOT
        )

    return Engine(daemon, start, functools.partial(_answers, port, path))


def _answers(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    return "" if status == http.client.OK else f"GET {path} answers {status}"


Catalogue = Mapping[str, Callable[[Site], Engine]]
CATALOGUE: Catalogue = {
    "postgres": _postgres,
    "temporal": _temporal,
    "clickhouse": _clickhouse,
    "provider": _provider,
    "recorder": _recorder,
}
ALL = tuple(CATALOGUE)
CRON_ONLY = ("postgres", "provider", "recorder")
