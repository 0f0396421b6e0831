"""The examples in the real packages, each in a virtual environment of its own (minutes a piece).

Their pins contradict ours and each other's, so nothing of them is installed beside the project.
"""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow
TORCH = ["torch==2.13.0", "tensordict", "omegaconf", "ray", "aiohttp", "transformers", "codetiming"]
BACKENDS = {
    # (script, example): what is installed, and what is installed without its dependencies
    ("verifiers_rubric", "verifiers_rubric"): (["verifiers==0.1.14"], []),
    ("verifiers_task", "verifiers_task"): (["verifiers==0.4.0"], []),
    ("verl_manager", "verl_reward"): ([*TORCH, "hydra-core"], ["verl==0.9.1"]),
    ("openrlhf_agent", "openrlhf_reward"): ([*TORCH, "pylatexenc"], ["openrlhf==0.11.2"]),
    ("inspect_eval", "inspect_task"): (["inspect-ai==0.3.285"], []),
}


@pytest.mark.parametrize(("script", "example"), BACKENDS, ids=lambda name: name)
def test_a_backend_takes_the_example_and_pays_what_the_ruleset_says(
    script: str, example: str, tmp_path: Path
) -> None:
    whole, bare = BACKENDS[script, example]
    venv.create(tmp_path, with_pip=True)
    python = str(tmp_path / "bin" / "python")
    pip = [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, str(ROOT), *whole], check=True)
    if bare:
        subprocess.run([*pip, "--no-deps", *bare], check=True)
    command = [python, f"tests/backends/{script}.py", f"examples/adapters/{example}.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok" in done.stdout
