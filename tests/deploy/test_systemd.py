"""The units: what systemd itself says of them, offline."""

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import cron_worker.__main__
import temporal_worker.__main__
from tests.support.tree import ROOT

UNITS = sorted((ROOT / "deploy/systemd").glob("*.service")) + sorted((ROOT / "deploy/systemd").glob("*.timer"))
SERVICES = [path for path in UNITS if path.suffix == ".service"]
EXPOSURE = 20  # of 100, as systemd counts; 50 is what it calls medium
systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here (Debian's package systemd)"
)


def _analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def _read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys of units are case sensitive
    parser.read_string("\n".join(path.read_text(encoding="utf-8").splitlines()))
    return parser


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units beside commands that exist: verify looks for them."""
    for name in ("cron-worker", "temporal-worker"):
        (tmp_path / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    for path in UNITS:
        text = path.read_text(encoding="utf-8").replace("/opt/backbeat/bin", str(tmp_path))
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    return tmp_path


def test_there_are_units() -> None:
    assert [path.name for path in UNITS] == ["cron-worker.service", "temporal-worker.service", "cron-worker.timer"]


@systemd
def test_systemd_has_nothing_to_say(installed: Path) -> None:
    """It exits 0 with a warning for a key it does not know, so silence is what counts."""
    checked = _analyze("verify", "--man=no", *(installed / path.name for path in UNITS))
    assert (checked.returncode, checked.stderr) == (0, "")


@systemd
def test_a_misspelt_key_is_seen(installed: Path) -> None:
    unit = installed / "cron-worker.service"
    unit.write_text(unit.read_text(encoding="utf-8").replace("NoNewPrivileges", "NoNewPriviliges"), encoding="utf-8")
    assert "NoNewPriviliges" in _analyze("verify", "--man=no", unit).stderr


@systemd
@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_it_is_locked_down(path: Path) -> None:
    checked = _analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", path)
    assert checked.returncode == 0, checked.stdout[-200:]


@systemd
def test_a_unit_without_its_locks_is_refused(tmp_path: Path) -> None:
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n", encoding="utf-8")
    assert _analyze("security", "--offline=true", f"--threshold={EXPOSURE}", bare).returncode == 1


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_the_commands_know_their_flags_and_no_secret_is_in_the_environment(path: Path) -> None:
    service = _read(path)["Service"]
    command, *words = shlex.split(service["ExecStart"])
    module = {"cron-worker": cron_worker, "temporal-worker": temporal_worker}[Path(command).name]
    module.__main__._parser().parse_args(words)
    assert service["LoadCredential"].split(":")[0] == "backbeat.toml"
    assert service["Environment"].split()[0] == "BACKBEAT_CONFIG=%d/backbeat.toml"


def test_a_tick_is_given_its_budget_and_grace() -> None:
    service = _read(ROOT / "deploy/systemd/cron-worker.service")["Service"]
    arguments = cron_worker.__main__._parser().parse_args(shlex.split(service["ExecStart"])[1:])
    assert float(service["TimeoutStartSec"]) == arguments.budget + arguments.grace + 5
