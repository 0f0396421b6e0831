"""The house in figures beside the code that it is measured by: a mirror to look into, not a goal.

    python tests/project/mirror.py

The anchors' figures were counted by the same rules when the folders were laid out, over their
sources without tests.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Files in the fullest folder, median and longest function, docstrings and comments in percent of
#: lines, conditional expressions per 1,000 lines, mean length of a name.
ANCHORS = {
    "nanochat": (13, 10, 147, 13, 17, 9, 7.3),
    "einops": (8, 2, 153, 16, 4, 3, 6.2),
    "lark": (17, 5, 192, 12, 6, 7, 6.0),
    "httpx": (17, 9, 133, 17, 5, 9, 6.9),
    "prime-rl": (19, 9, 669, 8, 5, 9, 7.7),
    "pydantic": (35, 9, 305, 22, 6, 5, 8.1),
}
HEAD = ("fullest", "fn median", "longest", "doc %", "comment %", "ternaries", "name length")


def measure(package: Path) -> tuple[float, ...]:
    """The figures of `HEAD` for one package."""
    folders: Counter[Path] = Counter()
    functions: list[int] = []
    names: list[int] = []
    lines = comments = documented = ternaries = 0
    for path in package.rglob("*.py"):
        folders[path.parent] += path.name != "__init__.py"
        text = path.read_text("utf-8")
        lines += text.count("\n")
        comments += sum("# " in line for line in text.splitlines())
        for node in ast.walk(ast.parse(text)):
            ternaries += isinstance(node, ast.IfExp)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.append(len(node.id))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions.append((node.end_lineno or node.lineno) - node.lineno + 1)
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                docstring = ast.get_docstring(node)
                documented += docstring.count("\n") + 1 if docstring else 0
    return (
        max(folders.values()), statistics.median(functions), max(functions),
        100 * documented / lines, 100 * comments / lines, 1000 * ternaries / lines,
        statistics.mean(names),
    )  # fmt: skip


def main() -> None:
    """Print the table."""
    rows = {name: measure(ROOT / name) for name in ("grpo_rewards", "grpo_train")} | ANCHORS
    sys.stdout.write(f"{'':14}" + "".join(f"{title:>13}" for title in HEAD) + "\n")
    for name, figures in rows.items():
        shown = "".join(f"{figure:13.3g}" for figure in figures)
        sys.stdout.write(f"{name:14}{shown}\n")


if __name__ == "__main__":
    main()
