"""Each import contract catches what it is there for, and importing a part costs only what that part needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import clean_environ
from tests.support.databases import Database
from tests.support.tree import PACKAGES, ROOT, modules

_LINT = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
_PLANTS = [
    ("The workers are strangers who meet in shared", "cron_worker/planted.py", "import temporal_worker"),
    ("The workers are strangers who meet in shared", "temporal_worker/planted.py", "from cron_worker import tick"),
    ("The workers are strangers who meet in shared", "shared/domain/planted.py", "import backbeat"),
    ("Shared has floors", "shared/db/planted.py", "from shared.llm import protocol"),
    ("Shared has floors", "shared/config.py", "from shared import domain"),
    ("Shared has floors", "shared/telemetry/planted.py", "import shared.execution"),
    ("Shared has floors", "shared/planted.py", "import json"),
    ("Workflows do no I/O", "temporal_worker/workflows/planted.py", "import psycopg"),
    ("Workflows do no I/O", "temporal_worker/workflows/planted.py", "from shared.db import queries"),
    ("Workflows do no I/O", "temporal_worker/workflows/planted.py", "import shared.execution.indirect"),
    ("The tick knows neither Temporal nor a command line library", "cron_worker/planted.py", "import click"),
    ("The tick knows neither Temporal nor a command line library", "cron_worker/planted.py", "import temporalio"),
    ("Vendors' SDKs are known to their adapters alone", "shared/llm/planted.py", "import openai"),
    ("Vendors' SDKs are known to their adapters alone", "backbeat/cli/planted.py", "from anthropic import types"),
    ("The embedded engines are reached from the command line alone", "backbeat/planted.py", "import backbeat.embedded"),
    (
        "The embedded engines are reached from the command line alone",
        "shared/db/planted.py",
        "import backbeat.embedded",
    ),
    ("Only the embedded package knows the engines' wheels", "backbeat/cli/planted.py", "import chdb"),
    ("No rooms import each other in a circle", "shared/llm/planted.py", "import shared.execution"),
    ("What is installed imports nothing of the source tree around it", "backbeat/planted.py", "import tests.support"),
]


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """The project's modules, all empty, and its contracts."""
    for module in modules(*PACKAGES):
        copy = tmp_path / module.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    (tmp_path / "shared/execution/indirect.py").write_text("import shared.llm\n")
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def _broken(tree: Path) -> set[str]:
    """The names of the contracts that do not hold there."""
    command = [sys.executable, "-P", "-c", _LINT, "--no-cache"]
    path = os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))
    environ = {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True)
    verdicts = [line.rpartition(" ") for line in done.stdout.splitlines() if line.endswith((" KEPT", " BROKEN"))]
    assert len(verdicts) == (tree / ".importlinter").read_text().count("importlinter:contract:"), (
        done.stdout + done.stderr
    )
    return {name for name, _, verdict in verdicts if verdict == "BROKEN"}


def test_empty_modules_break_no_contract(skeleton: Path) -> None:
    assert _broken(skeleton) == set()


@pytest.mark.parametrize(("contract", "file", "statement"), _PLANTS)
def test_a_planted_violation_is_caught(skeleton: Path, contract: str, file: str, statement: str) -> None:
    (skeleton / file).write_text(f"def lazily() -> None:\n    {statement}\n")
    assert contract in _broken(skeleton)


def test_every_contract_has_a_planted_violation() -> None:
    named = {
        line.partition(" = ")[2]
        for line in (ROOT / ".importlinter").read_text().splitlines()
        if line.startswith("name = ")
    }
    assert {contract for contract, _, _ in _PLANTS} == named


def _loaded_by(*names: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after importing these."""
    code = f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_import_backbeat_is_light() -> None:
    heavy = {"anthropic", "openai", "temporalio", "clickhouse_connect", "chdb", "click", "rich", "psycopg", "pydantic"}
    assert not _loaded_by("backbeat") & heavy


# About a twentieth more than it takes: each module is milliseconds at every beat of every host.
AUTHORING_MODULES, EMPTY_TICK_MODULES = 62, 352


def test_importing_backbeat_loads_few_modules() -> None:
    assert _count("import backbeat") <= AUTHORING_MODULES


def test_an_empty_tick_loads_few_modules(database: Database) -> None:
    tick = "from cron_worker.__main__ import main; assert main(['tick']) == 0"
    assert _count(tick, **database.environ) <= EMPTY_TICK_MODULES
    # The guard sees what is loaded for work alone.
    assert _count(f"{tick}; import cron_worker.round", **database.environ) > EMPTY_TICK_MODULES


def _count(statement: str, **environ: str) -> int:
    """How many modules a fresh interpreter has loaded after this."""
    code = f"import sys; {statement}; print(len(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean_environ(**environ), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_tick_imports_neither_temporal_nor_a_command_line_library() -> None:
    names = [".".join(module.relative_to(ROOT).with_suffix("").parts) for module in modules("cron_worker")]
    strange = {"temporalio", "clickhouse_connect", "chdb", "click", "rich", "typer", "anthropic", "openai"}
    assert not _loaded_by(*(name.removesuffix(".__init__") for name in names)) & strange
