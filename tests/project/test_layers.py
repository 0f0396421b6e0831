"""The house: imports point one way, nothing goes in circles, and a name means one thing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ["grpo_rewards", "grpo_train"]

#: From top to bottom. A line imports only from the lines above it; the names of one line are
#: folders or modules that stand side by side.
ORDER = {
    "grpo_rewards": """
        errors limits columns types json_text
        syntax
        rules
        compiler
        adapters
        scoring
        explain
        data
        audit
        testing report pandas
        server lsp
        cli
    """,
    "grpo_train": """
        errors
        bounds
        config distributed
        config_text
        model
        rollouts data
        engines objective
        scoring
        run
        session
        rollout_batch
        train
        demo
        cli
    """,
}

#: No folder holds more modules than can be taken in at a glance.
FULLEST = 16


@cache
def modules(package: str) -> dict[str, Path]:
    """Every module of a package, by its dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(package: str) -> dict[str, set[str]]:
    """module → the modules of its package that it imports, anywhere in its text."""
    known = modules(package)
    found: dict[str, set[str]] = {}
    for module, path in known.items():
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in known else node.module for name in inside]
            found[module] |= {name for name in names if name in known} - {module}
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_imports_only_from_those_above_it(package: str) -> None:
    lines = ORDER[package].split("\n")
    place = {room: number for number, line in enumerate(lines) for room in line.split()}
    for module, others in imports(package).items():
        if module == package:
            continue  # the public face, which names everything
        room = module.split(".")[1]
        assert room in place, f"say where `{room}` stands in the house"
        for other in others:
            if (there := other.split(".")[1]) != room:
                assert place[there] <= place[room], f"{module} imports {other}, below it"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_goes_in_a_circle(package: str) -> None:
    TopologicalSorter(imports(package)).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("package", PACKAGES)
def test_a_class_name_is_used_once(package: str) -> None:
    names: Counter[str] = Counter()
    for path in modules(package).values():
        tree = ast.parse(path.read_text("utf-8"))
        names.update(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_can_be_taken_in_at_a_glance(package: str) -> None:
    folders = Counter(path.parent for path in modules(package).values())
    assert {folder: count for folder, count in folders.items() if count > FULLEST} == {}


def test_the_trainer_uses_the_public_face_only() -> None:
    for path in modules("grpo_train").values():
        text = path.read_text("utf-8")
        assert "from grpo_rewards" not in text and "import grpo_rewards." not in text, path


def test_the_loop_stays_the_loop() -> None:
    """A run's reader starts in train.py: it must fit a screen or two."""
    assert len((ROOT / "grpo_train" / "train.py").read_text("utf-8").splitlines()) <= 150


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
