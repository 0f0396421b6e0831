"""Imports point one way: a module imports only what stands above it."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

#: The house from top to bottom. A name stands for a module or a folder of modules.
REWARDS = [
    "errors",
    "tables",
    "limits",
    "columns",
    "types",
    "expr",
    "printer",
    "catalog",
    "rules",
    "mistakes",
    "parse",
    "graph",
    "lower",
    "hacks",
    "extern",
    "check",
    "plan",
    "worker",
    "nursery",
    "workers",
    "memo",
    "execute",
    "scores",
    "batch",
    "build",
    "scorer",
    "checks",
    "grade",
    "namespaces",
    "lines",
    "parquet",
    "groups",
    "dataset",
    "totals",
    "journal",
    "output",
    "profile",
    "parallel",
    "offline",
    "frames",
    "pandas",
    "distributed",
    "ruletest",
    "explain",
    "audit",
    "laws",
    "testing",
    "fuzz",
    "adapters",
    "fmt",
    "savetables",
    "look",
    "charts",
    "report",
    "scorereport",
    "openapi",
    "serve",
    "terminal",
    "cli_audit",
    "cli_fuzz",
    "cli_grade",
    "editor",
    "cli_lsp",
    "cli_report",
    "cli_score",
    "cli_serve",
    "cli",
]

#: `str()` of a node prints canonical text, and `scorer.as_trl()` shows a scorer to a trainer: the
#: printer and the adapters are views, which stand below what they show.
VIEWS = {("expr", "printer"), ("scorer", "adapters")}


def _imports(package: str) -> list[tuple[str, str, str]]:
    """(module, imported sibling, file) for every import inside a package."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
                if node.module == package:
                    names = [f"{package}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                if name.startswith(f"{package}."):
                    found.append((parts[0], name.split(".")[1], str(path.relative_to(ROOT))))
    return found


def test_rewards_imports_point_upward_only() -> None:
    order = {name: i for i, name in enumerate(REWARDS)}
    for module, imported, path in _imports("grpo_rewards"):
        assert module in order, f"{path}: say where `{module}` stands in the house"
        allowed = order[imported] < order[module] or imported == module
        assert allowed or (module, imported) in VIEWS, f"{path} imports {imported}, below it"


def test_trainer_uses_the_public_face_only() -> None:
    for path in (ROOT / "grpo_train").rglob("*.py"):
        text = path.read_text("utf-8")
        assert "from grpo_rewards" not in text and "import grpo_rewards." not in text, path


@pytest.mark.parametrize("package", ["torch", "transformers", "grpo_train", "pandas", "pyarrow"])
def test_importing_the_rewards_stays_light(package: str) -> None:
    code = f"import sys, grpo_rewards; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_rewards_leaves_sympy_alone() -> None:
    code = "import sys, grpo_rewards; sys.exit('sympy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_sorted_and_there() -> None:
    import grpo_rewards as gr

    assert gr.__all__ == sorted(gr.__all__)
    assert all(hasattr(gr, name) for name in gr.__all__)
