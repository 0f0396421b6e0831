"""What users hold on to does not change by accident: hashes, score bytes, JSON, exit codes.

`cases/unchanged.json` was recorded before the modules were moved into folders. A change that means
to change one of its rows records them again and says so in its commit:

    python tests/project/test_unchanged.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import grpo_rewards as gr

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests" / "cases" / "unchanged.json"

#: What differs from run to run, or from machine to machine, in a command's JSON.
VOLATILE = {"seconds", "stages", "versions", "per_second", "ms"}

BOXED, DATA = "examples/boxed.reward", "examples/boxed.jsonl"
AUDIT = "examples/auditing"
COMPLETIONS = f"{AUDIT}/completions.jsonl"
#: Commands as the documentation shows them; OUT stands for a file in a new folder.
COMMANDS = {
    "check a ruleset": ["check", BOXED, "--json"],
    "check mistakes": ["check", "examples/mistakes.reward", "--json"],
    "check nothing there": ["check", "no-such.reward"],
    "fmt of a formatted file": ["fmt", "--check", BOXED],
    "test a ruleset": ["test", "rulesets/r1_zero.reward", "--json"],
    "score into JSON lines": ["score", BOXED, DATA, "-o", "OUT.jsonl", "--json"],
    "score into Parquet": ["score", BOXED, DATA, "-o", "OUT.parquet", "--json"],
    "score with an extern": ["score", "examples/brevity.reward", "examples/brevity.jsonl", "-o",
                             "OUT.jsonl", "--allow-extern", "--json"],
    "an extern that is not allowed": ["score", "examples/brevity.reward",
                                      "examples/brevity.jsonl", "-o", "OUT.jsonl"],
    "score the audited rows": ["score", f"{AUDIT}/strict.reward", COMPLETIONS, "-o", "OUT.jsonl",
                               "--json"],
    "explain the plan": ["explain", BOXED],
    "explain a row": ["explain", BOXED, DATA, "--row", "0", "--json"],
    "attack": ["attack", f"{AUDIT}/lenient.reward", COMPLETIONS, "--json"],
    "diff": ["diff", f"{AUDIT}/lenient.reward", f"{AUDIT}/strict.reward", COMPLETIONS, "--json"],
    "calibrate": ["calibrate", f"{AUDIT}/strict.reward", COMPLETIONS, "--label", "right",
                  "--json"],
    "grade equal": ["grade", "--gold", "1/2", "--text", "0.5", "--json"],
    "grade different": ["grade", "--gold", "1/2", "--text", "0.6", "--json"],
    "format": ["format", "rulesets/r1_zero.reward", "r1", "--text", "<think>x</think>", "--json"],
    "a rule": ["rules", "math.equal", "--json"],
    "an unknown rule": ["rules", "math.equals"],
    "an unknown command": ["scores"],
}  # fmt: skip


def hashes() -> dict[str, str]:
    """The content hash of every ruleset that is shipped or shown."""
    found = {}
    sys.path.append(str(ROOT / "examples"))  # where brevity.reward's function stands
    for folder in ("rulesets", "examples", "tests/weak"):
        for path in sorted((ROOT / folder).rglob("*.reward")):
            if path.name != "mistakes.reward":
                with gr.load(path, workers=0, allow_extern=True) as scorer:
                    found[str(path.relative_to(ROOT))] = scorer.hash
    return found


def run(arguments: list[str]) -> dict[str, Any]:
    """What a command answers: its exit code, its JSON, and the bytes that it wrote."""
    script = Path(sys.executable).with_name("grpo-rewards")
    with tempfile.TemporaryDirectory() as folder:
        there = [item.replace("OUT", f"{folder}/out") for item in arguments]
        done = subprocess.run(
            [script, *there], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
        )
        found: dict[str, Any] = {"exit": done.returncode}
        if "--json" in arguments:
            lines = done.stdout.replace(folder, "").splitlines()
            found["json"] = [steady(json.loads(line)) for line in lines]
        written = Path(folder, "out.jsonl")
        if written.exists():
            found["written"] = written.read_text("utf-8").splitlines()
        return found


def steady(value: Any) -> Any:
    """A JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [steady(item) for item in value]
    return round(value, 12) if isinstance(value, float) else value


def test_the_hash_of_a_ruleset_is_what_it_was() -> None:
    assert hashes() == json.loads(TABLE.read_text("utf-8"))["hashes"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_answers_what_it_did(name: str) -> None:
    assert run(COMMANDS[name]) == json.loads(TABLE.read_text("utf-8"))["commands"][name]


def record() -> None:
    """Write the table from what the code does now."""
    with ThreadPoolExecutor(2) as pool:
        commands = dict(zip(COMMANDS, pool.map(run, COMMANDS.values()), strict=True))
    table = {"hashes": hashes(), "commands": commands}
    TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
