"""Does our trainer learn what TRL's learns? Reward by step of both, from the same start.

Regime: the demo's task and policy (1.1 M parameters, warm-started once with seed 0), the same
prompts, 16 × 8 completions of at most 64 tokens a step, on policy, z-scored groups, mean over the
step's tokens, no KL, AdamW at a constant 2e-4, one seed a run. Orders of prompts and random numbers
differ, so curves agree within noise, not point by point. Runs go one after the other.

    python benchmarks/parity.py                    # 3 seeds a side; needs trl 1.16
    python benchmarks/parity.py --seeds 0 --steps 10 --plot ''

Writes benchmarks/results/parity.json and docs/parity.svg; the last line is JSON: mean reward over
the last quarter of the steps, and its standard error over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RATE = 2e-4
COLOURS = {"ours": "#0b6e99", "trl": "#c2571a"}


def main() -> None:
    """All runs, or one where a parent process asks for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/parity"))
    parser.add_argument("--plot", default=str(ROOT / "docs/parity.svg"), help="'' = none")
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run = run_ours if options.side == "ours" else run_trl
        print("\n" + json.dumps(run(options.folder, options.seeds[0], options.steps)))
        return
    make_start(options.folder)
    curves: dict[str, list[list[float]]] = {"ours": [], "trl": []}
    for seed in options.seeds:
        for side, found in curves.items():
            found.append(run_child(side, seed, options))
            print(f"{side:5} seed {seed}: last quarter {_tail(found[-1]):.3f}", flush=True)
    result = summary(curves)
    if options.plot:
        out = ROOT / "benchmarks/results/parity.json"
        out.write_text(json.dumps(result | {"curves": curves}, indent=1) + "\n")
        Path(options.plot).write_text(plot(curves))
    print(json.dumps(result))


def make_start(folder: Path) -> None:
    """The demo's policy and prompts, once."""
    if (folder / "start").exists():
        return
    from grpo_train.demo import TinyConfig, make_tiny

    make_tiny(TinyConfig(), folder, 0)


def run_child(side: str, seed: int, options: argparse.Namespace) -> list[float]:
    """One run in a process of its own: mean reward by step."""
    command = [sys.executable, __file__, "--side", side, "--seeds", str(seed)]
    command += ["--steps", str(options.steps), "--folder", str(options.folder)]
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | quiet, cwd=ROOT, check=False
    )
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    found: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def run_ours(folder: Path, seed: int, steps: int) -> list[float]:
    """Our loop."""
    from grpo_train.config import build_config
    from grpo_train.demo import ruleset_path
    from grpo_train.session import start
    from grpo_train.train import train_step

    config = build_config(
        {
            "name": f"run-{time.time_ns()}",
            "runs": str(folder / "runs"),
            "model": str(folder / "start"),
            "seed": seed,
            "threads": 1,
            "steps": steps,
            "prompts_per_step": 16,
            "data": {"train": str(folder / "train.jsonl")},
            "reward": {"ruleset": ruleset_path()},
            "sampling": {"group_size": 8, "max_tokens": 64},
            "loss": {"clip_high": 0.2},
            "optim": {"lr": RATE},
            "device": "cpu",
        }
    )
    session = start(config)
    return [train_step(session)["reward"] for _ in range(steps)]


def run_trl(folder: Path, seed: int, steps: int) -> list[float]:
    """TRL's trainer with the same settings."""
    import torch
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    import grpo_rewards as gr
    from grpo_train.demo import ruleset_path

    torch.set_num_threads(1)
    scorer = gr.load(ruleset_path())
    found: list[float] = []

    def reward(completions: list[str], gold: list[str], **_: Any) -> list[float]:
        values = [float(r) for r in scorer(completion=completions, gold=gold).reward]
        found.append(statistics.fmean(values))
        return values

    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        seed=seed,
        max_steps=steps,
        per_device_train_batch_size=128,
        num_generations=8,
        max_completion_length=64,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        adam_beta2=0.99,
        weight_decay=0.0,
        max_grad_norm=1.0,
        loss_type="dapo",
        beta=0.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    data = load_dataset("json", data_files=str(folder / "train.jsonl"), split="train")
    model = str(folder / "start")
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    GRPOTrainer(model, reward, config, data, processing_class=tokenizer).train()
    return found


def _tail(curve: list[float]) -> float:
    """Mean of the last quarter."""
    return statistics.fmean(curve[-max(1, len(curve) // 4) :])


def summary(curves: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Mean and standard error over seeds, at the start and over the last quarter."""
    result: dict[str, Any] = {}
    for side, runs in curves.items():
        ends = [_tail(run) for run in runs]
        error = statistics.stdev(ends) / len(ends) ** 0.5 if len(ends) > 1 else None
        result[side] = {
            "start": round(statistics.fmean(run[0] for run in runs), 4),
            "end": round(statistics.fmean(ends), 4),
            "standard_error": None if error is None else round(error, 4),
        }
    return result


def plot(curves: dict[str, list[list[float]]], width: int = 640, height: int = 320) -> str:
    """Every run as a thin line, the mean of each side as a thick one; SVG."""
    steps = max(len(run) for runs in curves.values() for run in runs)

    def line(values: list[float], side: str, stroke: float, opacity: float) -> str:
        across, up = (width - 70) / max(1, steps - 1), (height - 60) / 1.3
        points = " ".join(
            f"{50 + across * i:.1f},{height - 40 - up * v:.1f}" for i, v in enumerate(values)
        )
        return (
            f'<polyline fill="none" stroke="{COLOURS[side]}" stroke-width="{stroke}" '
            f'opacity="{opacity}" points="{points}"/>'
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25):
        y = height - 40 - (height - 60) * tick / 1.3
        parts.append(f'<line x1="50" x2="{width - 20}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="14" y="{y + 4}">{tick:.2f}</text>')
    for side, runs in curves.items():
        parts += [line(run, side, 1, 0.35) for run in runs]
    for place, (side, runs) in enumerate(curves.items()):
        mean = [statistics.fmean(values) for values in zip(*runs, strict=False)]
        parts.append(line(mean, side, 2.5, 1))
        parts.append(
            f'<text x="{60 + 90 * place}" y="16" fill="{COLOURS[side]}">{side} ({len(runs)})</text>'
        )
    parts.append(f'<text x="{width // 2 - 60}" y="{height - 10}">step 1 … {steps}: reward</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
