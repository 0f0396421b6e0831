"""Runs the commands and the Python of these pages again, and writes what they print below them.

    .venv/bin/python docs/refresh.py

tests/project/test_docs.py holds the pages to what is printed; this brings them up to date
after a change that was meant.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from grpo_train.config_text import starter

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"^```(?P<kind>\w*)\n(?P<text>.*?)^```\n(?:\n*```\n(?P<printed>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
TIMES = re.compile(r"[\d.]+ │$", re.MULTILINE)  # seconds differ from run to run


def refreshed(page: str) -> str:
    """The page with what its blocks print now."""
    names: dict[str, object] = {}

    def renew(block: re.Match[str]) -> str:
        if block["kind"] == "console" and block["text"].startswith("$ grpo-rewards "):
            command, _, shown = block["text"].partition("\n")
            printed = _command(command) + "\n"
            if TIMES.sub("", printed) == TIMES.sub("", shown):
                return block[0]
            return _with(block, "text", f"{command}\n{printed}")
        if block["kind"] == "python":
            printed = _python(block["text"], names)
            if printed and block["printed"] is not None:
                return _with(block, "printed", printed)
            return block[0] + (f"\n```\n{printed}```\n" if printed else "")
        if block["kind"] == "toml" and block["text"].startswith("# Name of the run"):
            return _with(block, "text", starter())
        return block[0]

    return BLOCK.sub(renew, page)


def _with(block: re.Match[str], part: str, text: str) -> str:
    """The block with other text in one of its parts."""
    start, end = (at - block.start() for at in block.span(part))
    return block[0][:start] + text + block[0][end:]


def _command(command: str) -> str:
    from grpo_rewards.cli.main import app

    return CliRunner().invoke(app, shlex.split(command)[2:]).output.strip()


def _python(code: str, names: dict[str, object]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "page", "exec"), names)  # noqa: S102 - our own pages
    text = printed.getvalue().strip("\n")
    return f"{text}\n" if text else ""


if __name__ == "__main__":
    os.chdir(ROOT)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        before = path.read_text("utf-8")
        after = refreshed(before)
        if after != before:
            path.write_text(after, "utf-8")
            print(f"refreshed {path.relative_to(ROOT)}")  # noqa: T201
