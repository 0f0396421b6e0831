"""Seconds of a training step, ours against TRL's GRPOTrainer, at equal work on one CPU core.

Regime: random models of 4 layers, width 256, vocabulary 4,096, groups of 8, no KL, one update
a rollout batch, micro-batches of 8 rows (TRL) or as many tokens (ours). `short` is a Llama with 4
prompts of some 25 tokens × 8 completions of 64 tokens, `long_prompt` a Qwen3 with 2 prompts of some
178 tokens × 8 completions of 64 tokens. A random policy hardly ever ends,
so both sides decode and train the same number of tokens. Each side runs in its own process, because
peak memory is the process's, and the sides take turns, because the machine is shared; the first
step of a process is left out, and medians are compared. `cpu` are the process's own seconds, which
other processes on the machine disturb least.

    python benchmarks/trainer.py                   # needs trl 1.16: pip install "trl==1.16.*"
    python benchmarks/trainer.py --only short --rounds 1
    python benchmarks/trainer.py --precision bfloat16    # of the products, on both sides

The last line is JSON: the ratio is TRL's seconds over ours.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WORKLOADS: dict[str, dict[str, int]] = {
    "short": {"prompts": 4, "group": 8, "tokens": 64, "prompt": 25},
    "long_prompt": {"prompts": 2, "group": 8, "tokens": 64, "prompt": 178},
}
ARCHITECTURE = {"short": "llama", "long_prompt": "qwen3"}
TOKEN_BUDGET = 1280  # 8 rows of TRL's micro-batch hold 712 tokens of `short`, 1,936 of the other
RULESET = """ruleset bench "Dense, so that every group has a signal"

input completion: chat

score length = text.length(completion)

reward in 0..1 = clamp(length / 400, 0, 1)
"""


def main() -> None:
    """Run all workloads, or one side of one where a parent process asks for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=sorted(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="measured steps a process")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", action="store_true", help="no table, the JSON line only")
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run = run_ours if options.side == "ours" else run_trl
        found = run(options.folder, WORKLOADS[options.only], options)
        found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print("\n" + json.dumps(found))
        return
    compare(options)


def compare(options: argparse.Namespace) -> None:
    """Let the sides take turns; a table and the JSON line."""
    names = [options.only] if options.only else list(WORKLOADS)
    report: dict[str, Any] = {"ratio": {}, "ours": {}, "trl": {}}
    report |= {"threads": options.threads, "precision": options.precision}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for workload in names:
            make_inputs(folder / workload, WORKLOADS[workload], ARCHITECTURE[workload])
            rows: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
            for _ in range(options.rounds):
                for side in rows:
                    rows[side].append(run_child(folder / workload, workload, side, options))
            for side, found in rows.items():
                report[side][workload] = summary(found)
            ours, rival = report["ours"][workload], report["trl"][workload]
            report["ratio"][workload] = round(rival["step"] / ours["step"], 2)
            report.setdefault("cpu_ratio", {})[workload] = round(rival["cpu"] / ours["cpu"], 2)
            report.setdefault("memory", {})[workload] = round(
                ours["peak_mib"] / rival["peak_mib"], 2
            )
            if not options.json:
                print_table(workload, report)
    print(json.dumps(report))


def run_child(
    folder: Path, workload: str, side: str, options: argparse.Namespace
) -> dict[str, Any]:
    """One process of one side; the last line of its output."""
    command = [sys.executable, __file__, "--side", side, "--only", workload]
    command += ["--folder", str(folder), "--steps", str(options.steps)]
    command += ["--threads", str(options.threads), "--precision", options.precision]
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    environment = os.environ | quiet | {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the steps of all rounds; the smallest peak memory."""
    steps = [step for row in rows for step in row["steps"]]
    found = {name: statistics.median(step[name] for step in steps) for name in steps[0]}
    found["peak_mib"] = min(row["peak_mib"] for row in rows)
    return {name: round(value, 4) for name, value in found.items()}


def print_table(workload: str, report: dict[str, Any]) -> None:
    """Both sides and their quotient."""
    ours, rival = report["ours"][workload], report["trl"][workload]
    print(f"\n{workload}: {WORKLOADS[workload]}\n{'':14}{'ours':>10}{'trl':>10}{'trl/ours':>10}")
    for name in dict.fromkeys([*ours, *rival]):
        a, b = ours.get(name), rival.get(name)
        quotient = f"{b / a:10.2f}" if a and b else ""
        print(f"{name:14}{_cell(a)}{_cell(b)}{quotient}")


def _cell(value: float | None) -> str:
    return f"{'':>10}" if value is None else f"{value:10.3f}"


# -- the same inputs for both ----------------------------------------------------------------------


def make_inputs(folder: Path, workload: dict[str, int], architecture: str) -> None:
    """A random model with its tokenizer, prompts, and the ruleset."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    tokenizer = make_tokenizer(4096)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            architecture,
            vocab_size=4096,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rng = random.Random(0)
    words = "sum of two and three write digits only please compute the list".split()
    with (folder / "train.jsonl").open("w") as file:
        for i in range(128):
            count, text = workload["prompt"] - rng.randint(0, workload["prompt"] // 10), f"q{i}:"
            while len(tokenizer(text)["input_ids"]) < count:
                text += " " + rng.choice(words)
            file.write(json.dumps({"prompt": text + " ="}) + "\n")
    (folder / "bench.reward").write_text(RULESET)


def make_tokenizer(vocab: int) -> Any:
    """Byte-level BPE of bytes and pairs of letters: no corpus, no download."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = "etaoinshrdlucmfwypvbgkqjxzETAOINSHRDLUCMFWYPVBGKQJXZ0123456789.,;:!?-+*/=<>[]{}"
    tokens = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = [(a, b) for a in letters for b in letters][: vocab - len(tokens)]
    tokens += [a + b for a, b in merges]
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


# -- the sides -------------------------------------------------------------------------------------


def run_ours(folder: Path, workload: dict[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """Whole steps of our loop, with the metrics that it logs itself."""
    from grpo_train.config import build_config
    from grpo_train.session import start
    from grpo_train.train import train_step

    config = build_config(
        {
            "name": f"run-{time.time_ns()}",
            "runs": str(folder / "runs"),
            "model": str(folder / "model"),
            "threads": options.threads,
            "precision": options.precision,
            "steps": options.steps + 1,
            "prompts_per_step": workload["prompts"],
            "token_budget": TOKEN_BUDGET,
            "data": {"train": str(folder / "train.jsonl")},
            "reward": {"ruleset": str(folder / "bench.reward")},
            "sampling": {"group_size": workload["group"], "max_tokens": workload["tokens"]},
            "loss": {"clip_high": 0.2},
            "optim": {"lr": 1e-3},
            "device": "cpu",
        }
    )
    session = start(config)
    rows = []
    for _ in range(options.steps + 1):
        began, cpu = time.perf_counter(), time.process_time()
        metrics = train_step(session)
        row = {"step": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        row["generate"] = metrics["seconds/generate"]
        row |= {"update": metrics["seconds/update"], "tokens": metrics["tokens"]}
        rows.append(row | {"decode_tok_s": row["tokens"] / row["generate"]})
    return {"steps": rows[1:]}


def run_trl(folder: Path, workload: dict[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """Whole steps of TRL's trainer with the same sizes and its defaults otherwise."""
    import torch
    from datasets import load_dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(options.threads)
    rows: list[dict[str, float]] = []
    clock = {"generate": 0.0, "tokens": 0.0, "began": 0.0}

    class Timed(GRPOTrainer):
        def _generate_single_turn(self, *args: Any, **rest: Any) -> Any:
            began = time.perf_counter()
            out = super()._generate_single_turn(*args, **rest)
            clock["generate"] += time.perf_counter() - began
            clock["tokens"] += sum(map(len, out[0]))
            return out

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.update(generate=0.0, tokens=0.0, began=time.perf_counter())
            clock["cpu"] = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            step = time.perf_counter() - clock["began"]
            row = {"step": step, "cpu": time.process_time() - clock["cpu"]}
            row |= {"generate": clock["generate"], "tokens": clock["tokens"]}
            row["update"] = step - clock["generate"]
            rows.append(row | {"decode_tok_s": row["tokens"] / row["generate"]})

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [min(len(text) / 400, 1.0) for text in completions]

    size = workload["group"]
    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=options.steps + 1,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=workload["prompts"],
        num_generations=size,
        max_completion_length=workload["tokens"],
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        loss_type="dapo",
        beta=0.0,
        bf16=options.precision == "bfloat16",
        use_cpu=True,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
    )
    data = load_dataset("json", data_files=str(folder / "train.jsonl"), split="train")
    model = str(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    trainer = Timed(model, reward, config, data, processing_class=tokenizer, callbacks=[Clock()])
    trainer.train()
    return {"steps": rows[1:]}


if __name__ == "__main__":
    main()
