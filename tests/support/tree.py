"""The source tree, as the architecture tests read it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_IGNORED = {".git", ".venv", "var", "dist", "__pyc", ".mypy", ".ruff", ".pyte"}  # first five letters
PACKAGES = ("backbeat", "cron_worker", "temporal_worker", "shared")


def modules(*packages: str) -> Iterator[Path]:
    """The Python files of these top-level directories."""
    for package in packages:
        yield from sorted((ROOT / package).rglob("*.py"))


def tracked() -> list[Path]:
    """Every file that belongs to the project: what git knows or would add, else what lies in the tree."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        found = [ROOT / name for name in done.stdout.splitlines()]
    else:
        found = [path for path in ROOT.rglob("*") if not _IGNORED & {part[:5] for part in path.relative_to(ROOT).parts}]
    return [path for path in found if path.is_file()]


def query_files() -> list[tuple[str, str]]:
    """Package and noun of every file of named queries."""
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("sql/*.sql")]
    return sorted((".".join(path.relative_to(ROOT).parts[:-2]), path.stem) for path in found)
