"""The GPU benchmark's own logic, on a tiny model without a GPU."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def gpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_every_stage_runs_and_ends_in_json() -> None:
    done = gpu("--cpu-smoke")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    gaps = [part["engine_gap"] for part in found.values() if "engine_gap" in part]
    assert len(gaps) == 7 and max(gaps) < 1e-5
    assert found["tiny"]["decode_tok_s"] > 0
    assert found["tiny"]["train_tok_s"] > 0
    assert abs(found["tiny"]["ratio"] - 1) < 1e-3  # on policy


def test_a_stage_that_fails_is_reported_and_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_stage = runpy.run_path(str(ROOT / "benchmarks/gpu.py"))["run_stage"]
    report: dict[str, dict[str, str]] = {}
    run_stage(report, "bad", math.inf, lambda: 1 / 0)
    run_stage(report, "good", math.inf, dict)
    assert "ZeroDivisionError" in report["bad"]["failed"] and "failed" not in report["good"]
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_stages_past_the_deadline_say_that_they_were_left_out() -> None:
    done = gpu("--cpu-smoke", "--seconds", "-1")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["llama"] == {"skipped": "no time left"} == found["tiny"]
