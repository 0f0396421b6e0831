"""The examples run, and the pages show them as they are."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from typer.testing import CliRunner

from grpo_rewards.cli.main import app

TOUR = ROOT / "examples" / "tour.ipynb"
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], 4)
NotebookClient(book, timeout=120, resources={"metadata": {"path": sys.argv[2]}}).execute()
nbformat.write(book, sys.argv[3])
"""


def printed(book: Any) -> list[str]:
    """What each cell of a notebook says, as text; a busy kernel says it in several pieces."""
    found = []
    for cell in book["cells"]:
        pieces = [
            out.get("text") or out.get("data", {}).get("text/plain") or ""
            for out in cell.get("outputs", ())
        ]
        found.append("".join("".join(piece) for piece in pieces))
    return [text for text in found if text.strip()]


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("nbclient", "ipykernel"))), reason="no Jupyter here"
)
def test_the_tour_executes_and_says_what_it_shows(tmp_path: Path) -> None:
    out = tmp_path / "tour.ipynb"
    command = [sys.executable, "-c", EXECUTE, str(TOUR), str(TOUR.parent), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown, found = (json.loads(path.read_text("utf-8")) for path in (TOUR, out))
    assert printed(found) == printed(shown)
    assert len(printed(shown)) == 7


def test_the_adapters_page_shows_the_example_files() -> None:
    page = (ROOT / "docs" / "adapters.md").read_text("utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    files = {p.read_text("utf-8") for p in (ROOT / "examples" / "adapters").glob("*.py")}
    assert len(blocks) == 6
    assert set(blocks) <= files


def test_the_readmes_commands_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    lines = re.findall(r"^grpo-rewards .*$", readme, re.MULTILINE)
    assert len(lines) >= 3
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for line in lines:
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output)
    assert (tmp_path / "report.html").is_file()
