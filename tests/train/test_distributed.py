"""Two processes are one: the same rewards and gradient, and either may go on with a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
import tiny_run
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from grpo_train import distributed
from grpo_train.config_text import dump_config
from grpo_train.run.record import Record

CASES: dict[str, dict[str, Any]] = {
    "sharded": {},
    "kl and reuse": {"loss": {"kl_coef": 0.1, "entropy_coef": 0.01}, "updates_per_rollout": 2},
    "copies": {"shard_size": 1, "token_budget": 60},
    "batch advantage": {"advantage": {"method": "batch_std"}, "prompts_per_step": 5},
    "resampled": {"resample": 3, "prompts_per_step": 3, "sampling": {"group_size": 2}},
    "adapters": {"lora": {"rank": 4}, "loss": {"kl_coef": 0.1}},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_two_processes_have_the_gradient_of_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = []
    for size in (1, 2):
        config = tiny_run.make_config(tmp_path / str(size), **changes)
        processes.run(size, processes.one_step, config, tmp_path / f"{size}.pt")
        found.append(torch.load(tmp_path / f"{size}.pt", weights_only=False))
    (one, metrics, drawn, advantage), (two, metrics_2, drawn_2, advantage_2) = found
    assert drawn == drawn_2
    assert advantage == advantage_2
    assert one.keys() == two.keys()
    scale = max(float(g.abs().max()) for g in one.values())
    for name, gradient in one.items():
        assert float((gradient - two[name]).abs().max()) <= 1e-6 * max(1.0, scale), name
    for name, value in metrics.items():
        if "seconds" not in name and name != "tokens_per_s":
            assert value == pytest.approx(metrics_2[name], abs=1e-5, nan_ok=True), name


@pytest.mark.parametrize("sizes", [(2, 1), (1, 2), (2, 2)], ids=str)
def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, sizes: tuple[int, int]
) -> None:
    changes = {"save": {"every": 2}, "steps": 5}
    whole, cut = (tiny_run.make_config(tmp_path / name, **changes) for name in ("whole", "cut"))
    paths = []
    for name, config in (("whole", whole), ("cut", cut)):
        paths.append(tmp_path / f"{name}.toml")
        paths[-1].write_bytes(dump_config(config))
    processes.run(sizes[1], processes.whole_run, str(paths[0]), 99)
    processes.run(sizes[0], processes.whole_run, str(paths[1]), 3)
    processes.run(sizes[1], processes.whole_run, str(paths[1]), 99)
    folders = [Path(config.runs) / config.name for config in (whole, cut)]
    rows = [Record(folder).read() for folder in folders]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    assert [row.get("reward") for row in rows[0]] == [row.get("reward") for row in rows[1]]
    models = [load_file(folder / "model" / "model.safetensors") for folder in folders]
    exact = sizes[0] == sizes[1]
    for name, tensor in models[0].items():
        torch.testing.assert_close(
            models[1][name], tensor, rtol=0, atol=0 if exact else 5e-5, msg=name
        )


def test_torchrun_trains_from_the_command_line(tmp_path: Path) -> None:
    config = tiny_run.make_config(tmp_path, steps=2)
    path = tmp_path / "config.toml"
    path.write_bytes(dump_config(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    command += ["-m", "grpo_train.cli", "run", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pass_at_1_after") == 1
    assert [row["step"] for row in Record(Path(config.runs) / config.name).read()] == [0, 1, 2, 2]


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=30),
    st.integers(1, 8),
)
def test_rows_are_shared_out_whole_and_evenly(costs: list[int], size: int) -> None:
    taken, load = [], []
    real = distributed.size, distributed.rank
    try:
        for rank in range(size):
            distributed.size, distributed.rank = lambda: size, lambda rank=rank: rank
            mine = distributed.balanced(costs)
            taken += mine
            load.append(sum(costs[i] for i in mine))
            assert len(distributed.share(len(costs))) in (
                len(costs) // size,
                len(costs) // size + 1,
            )
    finally:
        distributed.size, distributed.rank = real
    assert sorted(taken) == list(range(len(costs)))
    assert max(load) - min(load) <= max(costs)
