"""Plants known bugs in a copy of the code, one at a time: a law must fail for each.

`language.py` and `train.py` hold the bugs, and print the law that caught each.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PARTS = ("grpo_train", "grpo_rewards", "tests", "rulesets", "docs", "experiments", "examples")


class Mutant(NamedTuple):
    """`old` becomes `new` in a package's `file`; `tests` should notice: words of their files'
    names, each with `::law` where it is known."""

    name: str
    file: str
    old: str
    new: str
    tests: str


def plant(package: str, mutants: Sequence[Mutant], *, profile: str = "") -> int:
    """Try the mutants whose names hold one of the words of the command line; exit 1 if one
    survives. `profile` is Hypothesis's."""
    words = sys.argv[1:]
    survivors = 0
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in PARTS:
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, copy / part, ignore=skip)
        shutil.copy(ROOT / "pyproject.toml", copy)
        environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        environment |= {"HYPOTHESIS_PROFILE": profile} if profile else {}
        for mutant in mutants:
            if words and not any(word in mutant.name for word in words):
                continue
            law = _caught_by(mutant, copy / package / mutant.file, environment)
            survivors += law is None
            sys.stdout.write(f"| {mutant.name} | {law or 'SURVIVED'} |\n")
            sys.stdout.flush()
    return 1 if survivors else 0


def _caught_by(mutant: Mutant, path: Path, environment: dict[str, str]) -> str | None:
    """The first law that fails, None if none does."""
    text = path.read_text("utf-8")
    if text.count(mutant.old) != 1:
        sys.exit(f"`{mutant.name}` does not fit {mutant.file} any more")
    path.write_text(text.replace(mutant.old, mutant.new), "utf-8")
    places = [test.partition("::") for test in mutant.tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not slow"]
    where = Path(environment["PYTHONPATH"])
    for file, colons, law in places:
        (found_at,) = where.glob(f"tests/**/test_{file}.py")
        command.append(f"{found_at.relative_to(where)}{colons}{law}")
    done = subprocess.run(
        command, cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    path.write_text(text, "utf-8")
    found = re.search(r"^(?:FAILED|ERROR) tests/(\S+?)(?:\[|\s|$)", done.stdout, re.MULTILINE)
    return found[1] if done.returncode == 1 and found else None
