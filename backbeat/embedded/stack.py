"""The whole product's engines in one directory on loopback: `up`, `down`, `status`, and faults for tests.

Whoever kills what at whatever moment, the next `up` brings it back with its data.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from backbeat.embedded import settings
from backbeat.embedded.engines import ALL, CATALOGUE, CRON_ONLY, Catalogue, Engine, request_log
from backbeat.embedded.files import explained
from backbeat.embedded.postgres import dsn
from backbeat.embedded.site import Log, Site
from shared.errors import ConfigError, ConflictError, NotFoundError

_MISREAD = "#?%"  # as parts of a URL, so that data would land outside of the directory

__all__ = ["ALL", "CRON_ONLY", "EngineInfo", "StackInfo", "down", "kill", "restart", "status", "up"]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """One engine. `state` is `ready`, `silent` (runs, does not answer), `died` or `stopped`; `pid` 0 when it is not."""

    name: str
    state: str
    port: int
    pid: int
    log: Path


@dataclass(frozen=True, slots=True)
class StackInfo:
    """A stack as it is now, and what the call just did: `changed` names the engines it started or stopped."""

    directory: Path
    config: Path
    engines: tuple[EngineInfo, ...]
    changed: tuple[str, ...] = ()
    migrations: tuple[str, ...] = ()
    latency: str = ""

    def request_log(self, engine: str) -> Path:
        """What `provider` or `recorder` was asked, one JSON object a line."""
        return request_log(Site(self.directory), engine)


def up(
    directory: Path,
    *,
    engines: Sequence[str] = ALL,
    latency: str | None = None,
    args: Mapping[str, Sequence[str]] | None = None,
    ports: Mapping[str, int] | None = None,
    log: Log = lambda _line: None,
    catalogue: Catalogue = CATALOGUE,
) -> StackInfo:
    """Start what does not run, wait until all is ready, migrate, write `backbeat.toml`.

    Ports are the last ones where still free; those named in `ports` must be. The provider's `latency` ("0.2-2",
    seconds) and `args`, what to add to an engine's command line, are remembered too; a change restarts the
    engine. A second call while one works waits for it.

    The engines are remembered as what `status` is about.

    Raises ConfigError, ConflictError (a port is taken) or UnavailableError (an engine does not come up,
    disk full), after stopping whatever this very call started.
    """
    if unknown := [name for name in engines if name not in catalogue]:
        raise ConfigError(f"there is no engine {unknown[0]!r}", fix=f"Known engines: {', '.join(catalogue)}")
    site = Site(directory.absolute())
    if odd := [letter for letter in str(site.directory) if letter in _MISREAD or not letter.isprintable()]:
        what = f"{str(site.directory)!r} holds {odd[0]!r}, which some engines misread in a path"
        raise ConfigError(what, fix="Name another --dir")
    with explained(site.directory):
        site.make(engines)
        with site.alone():
            before = Site.read(directory)
            added = {**before.args, **{name: list(words) for name, words in (args or {}).items()}}
            site = replace(before, latency=latency or before.latency, args=added, engines=list(engines))
            changed = {name for name in added if added[name] != before.args.get(name, [])}
            changed |= {"provider"} if site.latency != before.latency else set()
            _stop(before, changed.intersection(engines), catalogue, log)
            site, missing = _choose_ports(site, engines, ports or {}, catalogue, log)
            replace(before, ports=site.ports, engines=site.engines).write()
            applied = _bring_up(site, engines, missing, catalogue, log)
            site.write()  # not before: a latency that the provider refuses is not remembered
    if not missing:
        log(f"already running in {site.directory}")
    return replace(_look(site, engines, catalogue), changed=tuple(missing), migrations=tuple(applied))


def _choose_ports(
    site: Site, names: Sequence[str], wanted: Mapping[str, int], catalogue: Catalogue, log: Log
) -> tuple[Site, list[str]]:
    """The stack with a port for each engine, and which of them do not run."""
    missing = []
    for name in names:
        if not _keep(site, name, wanted.get(name), catalogue):
            site.daemon(name).clear()
            site = site.with_port(name, wanted.get(name), log)
            missing.append(name)
    return site, missing


def _keep(site: Site, name: str, wanted: int | None, catalogue: Catalogue) -> bool:
    """Whether an engine runs and may go on; one whose port nobody knows (`stack.json` was lost) is stopped."""
    if site.daemon(name).process is None:
        return False
    if not site.port(name):
        return not catalogue[name](site).stop()
    if wanted not in (None, site.port(name)):
        raise ConflictError(f"{name} already runs on port {site.port(name)}", fix="Stop it first: `backbeat down`")
    return True


def _bring_up(site: Site, names: Sequence[str], missing: Sequence[str], catalogue: Catalogue, log: Log) -> list[str]:
    """Start the missing ones, prepare all; return the migrations applied."""
    try:
        for name in missing:
            log(f"starting {name} on 127.0.0.1:{site.port(name)}")
            catalogue[name](site).start()
        for name in names:
            engine = catalogue[name](site)
            engine.daemon.ready(engine.probe, within=engine.within)
        applied = _prepare(site, names, log)
        settings.write(site, _running(site, catalogue))
    except BaseException:
        _stop(site, missing, catalogue, log)
        raise
    return applied


def down(directory: Path, *, log: Log = lambda _line: None, catalogue: Catalogue = CATALOGUE) -> StackInfo:
    """Stop every engine of the directory, cleanly where it obeys, and return once all are gone."""
    site, stopped = Site(directory.absolute()), []
    if site.directory.is_dir():
        with explained(site.directory), site.alone():
            stopped = _stop(site, catalogue, catalogue, log)
    if not stopped:
        log(f"nothing runs in {site.directory}")
    site = Site.read(directory)
    return replace(_look(site, _known(site, catalogue), catalogue), changed=tuple(stopped))


def status(directory: Path, *, catalogue: Catalogue = CATALOGUE) -> StackInfo:
    """Ask the engines that `up` last started, and any other that runs. Raises NotFoundError where there is no stack."""
    site = Site.read(directory)
    if not site.file.exists():
        raise NotFoundError(f"there is no stack in {site.directory}", fix="`backbeat up` makes one")
    names = [name for name in _known(site, catalogue) if name in site.engines or site.daemon(name).process]
    return _look(site, names, catalogue)


def kill(directory: Path, name: str) -> None:
    """SIGKILL one engine, for tests of faults; return once it is gone. Raises NotFoundError when it does not run."""
    if not Site.read(directory).daemon(name).kill():
        raise NotFoundError(f"{name} does not run in {directory}", fix="See `backbeat status`")


def restart(directory: Path, name: str, *, catalogue: Catalogue = CATALOGUE) -> None:
    """Stop one engine if it runs, start it on the port its clients know, wait until it is ready."""
    site = Site.read(directory)
    if name not in _known(site, catalogue):
        raise NotFoundError(f"{name} never ran in {directory}", fix="`backbeat up` starts it")
    with explained(site.directory), site.alone():
        engine = catalogue[name](site)
        engine.stop()
        engine.daemon.clear()
        site.with_port(name, site.port(name), str)
        engine.start()
        engine.daemon.ready(engine.probe, within=engine.within)


def _prepare(site: Site, names: Sequence[str], log: Log) -> list[str]:
    """Make databases and logins, and bring the schemas up to date. Doing it again changes nothing."""
    applied: list[str] = []
    if "postgres" in names:
        from backbeat.embedded import roles
        from backbeat.migrate import postgres_up
        from backbeat.prompt import make_known

        admin = dsn(site.home("postgres"), site.port("postgres"))
        roles.create_owner(admin, site.secret(roles.OWNER))
        applied += postgres_up(settings.database_url(site, roles.OWNER), log=log)
        make_known(settings.database_url(site, roles.OWNER))
        for login in roles.MEMBERS:
            roles.create_member(admin, login, site.secret(login))
    if "clickhouse" in names:
        from backbeat.migrate_clickhouse import clickhouse_up

        applied += clickhouse_up(settings.clickhouse_url(site))
    return applied


def _stop(site: Site, names: Iterable[str], catalogue: Catalogue, log: Log) -> list[str]:
    """Stop those that run, and what is left of those that died, all at once; return the names of the former."""
    recorded = [name for name in names if site.daemon(name).pid_file.exists()]
    running = [name for name in recorded if site.daemon(name).process]
    if running:
        log(f"stopping {', '.join(running)}")
    with ThreadPoolExecutor(len(catalogue)) as pool:
        list(pool.map(lambda name: catalogue[name](site).stop(), recorded))
    return running


def _running(site: Site, catalogue: Catalogue) -> list[str]:
    return [name for name in _known(site, catalogue) if site.daemon(name).process]


def _known(site: Site, catalogue: Catalogue) -> list[str]:
    return [name for name in catalogue if site.port(name)]


def _look(site: Site, names: Sequence[str], catalogue: Catalogue) -> StackInfo:
    found = tuple(_engine_info(name, site.port(name), catalogue[name](site)) for name in names)
    return StackInfo(site.directory, site.config, found, latency=site.latency)


def _engine_info(name: str, port: int, engine: Engine) -> EngineInfo:
    process = engine.daemon.process
    if process is None:
        state = "died" if engine.daemon.pid_file.exists() else "stopped"
    else:
        state = "silent" if engine.probe() else "ready"
    return EngineInfo(name, state, port, process.pid if process else 0, engine.daemon.log)
