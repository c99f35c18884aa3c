"""Small rooms: caps on modules and functions, budgets of whole parts, and the distribution printed for all to see."""

import ast
import io
import tokenize
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median, quantiles

import pytest

from tests.support.tree import PACKAGES, ROOT, modules, tracked

MODULE_CAP, MODULE_MEDIAN = 500, 150  # lines
FUNCTION_CAP, FUNCTION_MEDIAN = 60, 9  # lines
WORKERS_BUDGET = 9_000  # lines of Python in what runs in production
SCHEMA_BUDGET = 2_500  # lines of SQL


@dataclass(frozen=True)
class Module:
    """One file, measured."""

    path: Path
    lines: int
    comments: int
    functions: dict[str, int]

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))


@cache
def measure(path: Path) -> Module:
    """Count physical lines, lines that are only a comment, and the lines of each function with its decorators."""
    text = path.read_text(encoding="utf-8")
    functions = {
        f"{node.name}:{node.lineno}": (node.end_lineno or 0)
        - min([node.lineno, *(d.lineno for d in node.decorator_list)])
        + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = sum(token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip() for token in tokens)
    return Module(path, len(text.splitlines()), comments, functions)


def _shape(sizes: list[int]) -> str:
    ninetieth = quantiles(sizes, n=10)[-1] if len(sizes) > 1 else sizes[0]
    return f"{len(sizes):5} · median {median(sizes):5.1f} · p90 {ninetieth:5.1f} · max {max(sizes)}"


def test_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    """Medians are of what is installed; empty modules would only flatter them."""
    measured = [module for path in modules(*PACKAGES) if (module := measure(path)).lines]
    lines = [module.lines for module in measured]
    functions = [size for module in measured for size in module.functions.values()]
    with capsys.disabled():
        print(f"\nmodules   {_shape(lines)} lines")
        print(f"functions {_shape(functions)} lines")
        print(f"comments  {sum(module.comments for module in measured) / sum(lines):.1%} of {sum(lines)} lines")
    assert median(lines) <= MODULE_MEDIAN
    assert median(functions) <= FUNCTION_MEDIAN


def test_no_file_is_past_a_cap() -> None:
    measured = [measure(path) for path in tracked() if path.suffix == ".py"]
    assert len(measured) > 10
    long = [f"{module.name}: {module.lines} lines" for module in measured if module.lines > MODULE_CAP]
    for module in measured:
        long += [
            f"{module.name}:{name}: {size} lines" for name, size in module.functions.items() if size > FUNCTION_CAP
        ]
    assert not long, "split, do not excuse"


def test_the_caps_see_what_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("# why\n@decorated\ndef f():\n" + "    pass  # not a line of its own\n" * 59)
    module = measure(path)
    assert (module.lines, module.comments, module.functions) == (62, 1, {"f:3": 61})


def statements(sql: str) -> int:
    """Lines that are neither blank nor only a comment (docs/decisions/0010)."""
    return sum(bool(line.strip()) and not line.lstrip().startswith("--") for line in sql.splitlines())


def test_what_counts_as_sql() -> None:
    assert statements("-- why\n\nSELECT 1, -- one\n    2;\n   -- no\n") == 2


def test_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    python = sum(measure(path).lines for path in modules("cron_worker", "temporal_worker", "shared"))
    sql = sum(statements(path.read_text(encoding="utf-8")) for path in (ROOT / "migrations/postgres").glob("*.sql"))
    with capsys.disabled():
        print(f"\nworkers and shared: {python} of {WORKERS_BUDGET} lines; migrations: {sql} of {SCHEMA_BUDGET}")
    assert 0 < python <= WORKERS_BUDGET
    assert 0 < sql <= SCHEMA_BUDGET
