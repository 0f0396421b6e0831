"""One command for a bare GPU machine: is every path right, and how near is it to the hardware?

    python benchmarks/gpu.py                 # needs torch and transformers; trl if there
    python benchmarks/gpu.py --cpu-smoke     # the script itself, on a tiny model without a GPU

Correctness first: for random models of several classes the engine's logprobs against the
trainer's, every packing against plain rows, replayed steps against steps that are launched anew,
values and gradients of the device against fp32 on the CPU. Then, for random models of Qwen2.5's
shapes: decoded tokens a second, with CUDA graphs and without, against what reading weights and
cache at the measured bandwidth allows, trained tokens a second and the share of the measured bf16
matrix throughput, and a whole step with its peak memory. TRL takes the same step where it is
installed.

A stage that would start after the deadline is skipped and says so; one that fails leaves its
traceback and the next goes on, so that one visit to a GPU shows all there is to mend. The last line
is JSON, and the exit status 1 where something failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import importlib.util
import json
import platform
import runpy
import sys
import tempfile
import time
import traceback
import unittest.mock
from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from grpo_train.config import Loss, Optim
from grpo_train.engines.native import NativeEngine
from grpo_train.model.cuda_graphs import Replays
from grpo_train.model.policy import Policy, wrap
from grpo_train.objective.packing import batch_logprobs, pack
from grpo_train.objective.update import Batch, Updater
from grpo_train.rollouts import Rollouts, Sampling, row_seeds
from grpo_train.run.preflight import self_test

SHAPES: dict[str, dict[str, int]] = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "heads": 14},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "heads": 12},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "heads": 4},
}
CLASSES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "mistral")
EOS, PAD = 1, 0
TRAINER = __file__.replace("gpu.py", "trainer.py")


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """Sizes of a run."""

    prompts: int = 64
    group: int = 8
    prompt_tokens: int = 256
    max_tokens: int = 512
    rows: int = 512
    vocab: int = 151_936
    token_budget: int = 16_384


SMOKE = Work(2, 4, 12, 8, 8, 128, 256)


class Ids:
    """As much of a tokenizer as the engine needs: the ids of two tokens."""

    eos_token_id = EOS
    pad_token_id = PAD


def main() -> None:
    """Every stage in order; what was found, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cpu-smoke", action="store_true", help="tiny sizes, no GPU needed")
    parser.add_argument("--seconds", type=float, default=520, help="no stage starts after this")
    parser.add_argument("--models", nargs="+", choices=sorted(SHAPES), default=["0.5B", "1.5B"])
    options = parser.parse_args()
    if not options.cpu_smoke and not torch.cuda.is_available():
        parser.error("there is no GPU here\nhint: --cpu-smoke runs the script itself")
    device = "cpu" if options.cpu_smoke else "cuda"
    work = SMOKE if options.cpu_smoke else Work()
    models = ["tiny"] if options.cpu_smoke else options.models
    deadline = time.monotonic() + options.seconds
    report: dict[str, Any] = {"hardware": hardware(device), "work": dataclasses.asdict(work)}
    for kind in CLASSES:
        run_stage(report, kind, deadline, functools.partial(class_gaps, kind, device))
    run_stage(report, "peaks", deadline, lambda: measured_peaks(device, work))
    for name in models:
        stage = measure_model(name, device, work, report)
        run_stage(report, name, deadline, stage)
    if importlib.util.find_spec("trl") is not None and not options.cpu_smoke:
        for name in models:
            step = trl_stage(name, work)
            run_stage(report, f"{name} trl", deadline, step)
    print(json.dumps(report))
    sys.exit(any("failed" in found for found in report.values()))


def run_stage(
    report: dict[str, Any], name: str, deadline: float, stage: Callable[[], dict[str, Any]]
) -> None:
    """Its findings under its name, or why there are none."""
    if time.monotonic() > deadline:
        report[name] = {"skipped": "no time left"}
    else:
        began = time.monotonic()
        try:
            report[name] = stage()
        except Exception:  # whatever it is, the other stages are worth running
            report[name] = {"failed": traceback.format_exc()[-1500:]}
        report[name]["seconds"] = round(time.monotonic() - began, 1)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    print(f"{name}: {json.dumps(report[name])}", flush=True)


def hardware(device: str) -> dict[str, str]:
    """What it ran on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "cpu"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": name, "python": platform.python_version()} | versions


# -- correctness -----------------------------------------------------------------------------------


def class_gaps(kind: str, device: str) -> dict[str, Any]:
    """Engine against trainer, packing against rows, this device against fp32 on the CPU: the layout
    taken and the largest differences. Raises AssertionError where a bound is broken."""
    policy = small_policy(kind, device)
    prompts = [[5, 6, 7, 8, 9], [20, 21], [30] * 12]
    engine = NativeEngine(policy, 8)
    found = self_test(policy, engine, prompts, Sampling(20))
    engine = found.engine
    seeds = row_seeds(1, torch.arange(12))
    sampling = Sampling(20, temperature=0.9, top_p=0.95)
    rollouts = engine.generate(prompts, 4, sampling, seeds)
    with launched():
        anew = engine.generate(prompts, 4, sampling, seeds)
    if not torch.equal(anew.ids, rollouts.ids):
        raise AssertionError("a replayed step is not the step")
    here, gradient = gradients(policy, rollouts, found.layout)
    there, exact = gradients(small_policy(kind, "cpu"), rollouts, "plain")
    cosine = float(torch.nn.functional.cosine_similarity(gradient, exact, dim=0))
    gap = float((here - there).abs().max())
    bound = 0.15 if device == "cuda" else 1e-4
    if gap > bound or cosine < 1 - bound / 3:
        raise AssertionError(f"{device} differs from fp32 by {gap:.2g}, cosine {cosine:.5f}")
    return {
        "layout": found.layout,
        "engine_gap": found.engine_gap,
        "fp32_gap": gap,
        "gradient_cosine": round(cosine, 6),
    }


def launched() -> Any:
    """Within: every kernel of a decoding step by itself, no graphs."""
    return unittest.mock.patch.object(Replays, "run", lambda _, step, extent: step(extent))


def small_policy(kind: str, device: str) -> Policy:
    """The same small random policy on any device."""
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    if kind == "gpt2":
        sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4}
    if kind in ("gemma2", "gemma3_text", "mistral"):
        sizes["sliding_window"] = 6
    torch.manual_seed(0)
    special = {"vocab_size": 211, "pad_token_id": PAD, "bos_token_id": 2, "eos_token_id": EOS}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **special))
    return wrap(model, Ids(), device=device)


def gradients(policy: Policy, rollouts: Rollouts, layout: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprobs [N] of the rollouts, and the gradient of their mean, flat; fp32 on the CPU."""
    out = torch.zeros(len(rollouts.ids))
    for batch in pack(rollouts, torch.ones(len(rollouts)).bool(), 200, layout):
        logprobs, _ = batch_logprobs(
            policy, batch.to(policy.device), temperature=0.9, support=rollouts.support
        )
        torch.autograd.backward(logprobs.sum() / len(rollouts.ids))
        out[batch.token] = logprobs.detach().cpu()
    found = [
        p.grad.flatten().float().cpu() for p in policy.model.parameters() if p.grad is not None
    ]
    return out, torch.cat(found)


# -- speed -----------------------------------------------------------------------------------------


def measured_peaks(device: str, work: Work) -> dict[str, Any]:
    """Bytes a second of a copy and bf16 operations a second of a product: what can be had here."""
    size = 1 << 12 if device == "cpu" else 1 << 30
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = best_seconds(lambda: target.copy_(source), device)
    side = 256 if device == "cpu" else 8192
    matrix = torch.randn(side, side, dtype=torch.bfloat16, device=device)
    product = best_seconds(lambda: matrix @ matrix, device)
    return {"bytes_per_s": 2 * size / copied, "flop_per_s": 2 * side**3 / product}


def best_seconds(action: Callable[[], object], device: str, times: int = 10) -> float:
    """The fastest of some runs, the first of which is not counted."""
    found = []
    for _ in range(times + 1):
        began = now(device)
        action()
        found.append(now(device) - began)
    return min(found[1:])


def now(device: str) -> float:
    """Seconds, with all work on the device done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def shape_config(name: str, work: Work) -> Any:
    """Qwen2.5's shape."""
    sizes = dict(SHAPES[name])
    heads = sizes.pop("heads")
    return AutoConfig.for_model(
        "qwen2",
        **sizes,
        num_attention_heads=heads,
        num_key_value_heads=2,
        vocab_size=work.vocab,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )


def measure_model(
    name: str, device: str, work: Work, report: dict[str, Any]
) -> Callable[[], dict[str, Any]]:
    """Decode, train, and the two together."""

    def stage() -> dict[str, Any]:
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(shape_config(name, work))
        policy = wrap(model, Ids(), device=device)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found, rollouts = decode_speed(policy, work, report["peaks"], device)
        found |= train_speed(policy, rollouts, work, report["peaks"], device)
        found["step_s"] = round(found["decode_s"] + found["train_s"], 3)
        if device == "cuda":
            found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        return found

    return stage


def decode_speed(
    policy: Policy, work: Work, peaks: dict[str, float], device: str
) -> tuple[dict[str, Any], Rollouts]:
    """Tokens a second of one rollout batch. The bound: bf16 weights once and the live cache once a
    step. A random policy hardly ever ends, so rows are full length."""
    generator = torch.Generator().manual_seed(0)
    shape = (work.prompts, work.prompt_tokens)
    prompts = torch.randint(2, work.vocab, shape, generator=generator).tolist()
    seeds = row_seeds(0, torch.arange(work.prompts * work.group))
    engine = NativeEngine(policy, work.rows)
    engine.generate(prompts[:1], 1, Sampling(4), seeds[:1])  # kernels are loaded here
    with launched():
        few = Sampling(min(64, work.max_tokens))
        began = now(device)
        slow = len(engine.generate(prompts, work.group, few, seeds).ids) / (now(device) - began)
    began = now(device)
    rollouts = engine.generate(prompts, work.group, Sampling(work.max_tokens), seeds)
    seconds = now(device) - began
    c = policy.model.config
    weights = 2 * sum(p.numel() for p in policy.model.parameters())
    head_dim = c.hidden_size // c.num_attention_heads
    per_token = 2 * 2 * c.num_hidden_layers * c.num_key_value_heads * head_dim
    rows = min(work.rows, len(rollouts))
    cache = rows * per_token * (work.prompt_tokens + work.max_tokens / 2)
    bound = rows * peaks["bytes_per_s"] / (weights + cache)
    speed = len(rollouts.ids) / seconds
    return {
        "decode_s": round(seconds, 3),
        "decode_tok_s": round(speed),
        "decode_of_bound": round(speed / bound, 4),
        "decode_tok_s_launched": round(slow),
    }, rollouts


def train_speed(
    policy: Policy, rollouts: Rollouts, work: Work, peaks: dict[str, float], device: str
) -> dict[str, Any]:
    """Completion tokens a second of one update, and 6·N·tokens of the product's throughput."""
    rows = len(rollouts)
    layout = self_test(policy, NativeEngine(policy, 8), rollouts.prompt_ids, Sampling(8)).layout
    advantage = torch.where(torch.arange(rows) % 2 == 0, 1.0, -1.0)
    batch = Batch(
        rollouts,
        advantage,
        torch.ones(rows).bool(),
        rollouts.old_logprobs,
        torch.ones(len(rollouts.ids)),
        None,
    )
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-6, fused=True)
    updater = Updater(
        policy, optimizer, Loss(), Optim(), 1.0, work.token_budget, work.max_tokens, layout
    )
    some = torch.arange(rows) < work.group
    updater.update(batch, some, 1e-6)  # Adam's moments and kernels
    began = now(device)
    metrics = updater.update(batch, torch.ones(rows).bool(), 1e-6)
    seconds = now(device) - began
    tokens = len(rollouts.ids) + work.prompts * work.prompt_tokens
    parameters = sum(p.numel() for p in policy.model.parameters())
    return {
        "layout": layout,
        "train_s": round(seconds, 3),
        "train_tok_s": round(tokens / seconds),
        "mfu": round(6 * parameters * tokens / seconds / peaks["flop_per_s"], 4),
        "ratio": round(metrics["ratio"], 4),
    }


# -- the rival -------------------------------------------------------------------------------------


def trl_stage(name: str, work: Work) -> Callable[[], dict[str, Any]]:
    """TRL's step on the same model and sizes, its generation through Hugging Face."""

    def stage() -> dict[str, Any]:
        from datasets import Dataset
        from transformers import TrainerCallback
        from trl import GRPOConfig, GRPOTrainer

        ends: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ends.append(now("cuda"))

        folder = tempfile.mkdtemp()
        tokenizer = runpy.run_path(TRAINER)["make_tokenizer"](4096)
        tokenizer.padding_side = "left"
        config = GRPOConfig(
            output_dir=folder,
            max_steps=2,
            per_device_train_batch_size=work.group,
            gradient_accumulation_steps=work.prompts,
            num_generations=work.group,
            max_completion_length=work.max_tokens,
            bf16=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        torch.cuda.reset_peak_memory_stats()
        with torch.device("cuda"):
            model = AutoModelForCausalLM.from_config(shape_config(name, work))
        data = Dataset.from_dict({"prompt": ["of " * work.prompt_tokens] * (4 * work.prompts)})

        def reward(completions: list[str], **_: Any) -> list[float]:
            return [min(len(text) / 4000, 1.0) for text in completions]

        trainer = GRPOTrainer(
            model, reward, config, data, processing_class=tokenizer, callbacks=[Clock()]
        )
        trainer.train()
        peak = torch.cuda.max_memory_allocated() / 2**30
        return {"step_s": round(ends[1] - ends[0], 2), "peak_gib": round(peak, 1)}

    return stage


if __name__ == "__main__":
    main()
