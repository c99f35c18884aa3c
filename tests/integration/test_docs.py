"""The documentation says what the programs do: generated pages are current, links lead somewhere, the tutorial runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import clean_environ
from tests.support.tree import ROOT, tracked

PAGES = sorted(path for path in tracked() if path.suffix == ".md")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_reference_is_current() -> None:
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, env=clean_environ(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_page_that_is_not_current_is_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    page = tmp_path / "docs/reference/settings.md"
    page.write_text(page.read_text(encoding="utf-8").replace("BACKBEAT_TELEMETRY", "BACKBEAT_TELEMETRIE"))
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environ(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "not current: settings.md. Run: python docs/generate.py\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [page.parent / link for link, _ in _LINK.findall(page.read_text(encoding="utf-8"))]
    assert [str(target) for target in targets if not target.exists()] == []


def test_every_page_is_linked_from_the_readme() -> None:
    linked: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in linked:
            continue
        linked.add(page)
        links = [(page.parent / link).resolve() for link, _ in _LINK.findall(page.read_text(encoding="utf-8"))]
        for link in links:
            waiting += sorted(link.glob("*.md")) if link.is_dir() else [link] if link.suffix == ".md" else []
    assert {path for path in PAGES if path.is_relative_to(ROOT / "docs")} <= linked


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Somebody's home directory, and the commands on the path as an activated environment has them."""
    made = tmp_path / "home"
    (made / "bin").mkdir(parents=True)
    for command, module in (("backbeat", "backbeat"), ("cron-worker", "cron_worker")):
        shim = made / "bin" / command
        python, tree = shlex.quote(sys.executable), shlex.quote(str(ROOT))
        shim.write_text(
            f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH":{tree} exec {python} -m {module} "$@"\n', encoding="utf-8"
        )
        shim.chmod(0o755)
    return made


@pytest.mark.parametrize("page", ["docs/tutorial.md", "docs/how-to/add-a-task.md"])
def test_a_page_works_as_it_is_written(home: Path, page: str) -> None:
    """Python blocks that name their file are files, shell blocks are typed in order, output blocks are what came."""
    script = "set -eu\n"
    expected = []
    for kind, text in _BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if kind == "python" and (file := re.match(r"# (\w+\.py)\n", text)):
            script += f"cat > {file[1]} <<'END'\n{text}END\n"
        elif kind == "sh":
            script += text
        elif kind == "text":
            expected += [line for line in text.splitlines() if "…" not in line]
    environ = clean_environ(PATH=f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}", HOME=str(home))
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=home,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=150,
        )
    finally:
        for stack in home.glob("*/var"):
            subprocess.run([home / "bin/backbeat", "down", "--dir", stack], env=environ, capture_output=True)
    assert done.returncode == 0, done.stdout
    missing = [line for line in expected if line not in done.stdout]
    assert expected
    assert missing == [], done.stdout
