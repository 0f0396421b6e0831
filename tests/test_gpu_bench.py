"""The GPU benchmark's own logic, on a tiny model without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def gpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(ROOT / "benchmarks/gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_every_stage_runs_and_ends_in_json() -> None:
    done = gpu("--cpu-smoke")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert max(c["engine_gap"] for c in found["correct"].values() if isinstance(c, dict)) < 1e-5
    assert found["tiny"]["decode_tok_s"] > 0
    assert found["tiny"]["train_tok_s"] > 0
    assert abs(found["tiny"]["ratio"] - 1) < 1e-3  # on policy


def test_stages_past_the_deadline_say_that_they_were_left_out() -> None:
    done = gpu("--cpu-smoke", "--seconds", "-1")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["correct"] == {"skipped": "no time left"} == found["tiny"]
