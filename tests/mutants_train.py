"""Plant known bugs in a copy of the trainer, one at a time; a law must fail for each.

    python tests/mutants_train.py                 # all, some minutes
    python tests/mutants_train.py shift leak      # those whose name holds a word

Prints the law that caught each; exit 1 if one survives.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Mutant(NamedTuple):
    """`old` becomes `new` in `grpo_train/<file>`; `tests` should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant(
        "ties found by the std",
        "advantage.py",
        "    return high > low",
        "    return reward.nan_to_num().std(-1) > 1e-9",
        "advantage",
    ),
    Mutant(
        "ddof 0",
        "advantage.py",
        '*, ddof: int = 1) -> Tensor:\n    """Group z',
        '*, ddof: int = 0) -> Tensor:\n    """Group z',
        "advantage",
    ),
    Mutant(
        "a null reward is 0",
        "advantage.py",
        "    return ~torch.isnan(reward)\n",
        "    return torch.ones_like(reward).bool()\n",
        "advantage",
    ),
    Mutant(
        "rloo without n/(n-1)",
        "advantage.py",
        "* count / (count - 1).clamp(min=1)",
        "",
        "advantage",
    ),
    Mutant(
        "max for min in the surrogate",
        "loss.py",
        "loss = -torch.minimum(ratio * advantage",
        "loss = -torch.maximum(ratio * advantage",
        "loss",
    ),
    Mutant(
        "cispo's weight has a gradient",
        "loss.py",
        "log_ratio.detach().exp().clamp(max=clip.cap)",
        "log_ratio.exp().clamp(max=clip.cap)",
        "loss",
    ),
    Mutant(
        "gspo with the sum of log-ratios",
        "loss.py",
        "mean = row_mean(tokens.log_ratio",
        "mean = row_sum(tokens.log_ratio",
        "loss",
    ),
    Mutant(
        "k3 with the sign turned",
        "loss.py",
        "torch.exp(-bounded) + bounded - 1",
        "torch.exp(bounded) - bounded - 1",
        "loss",
    ),
    Mutant(
        "rows without a reward counted in the mean",
        "loss.py",
        "n = length.to(torch.float64) * valid",
        "n = length.to(torch.float64)",
        "loss",
    ),
    Mutant(
        "normaliser of the micro-batch",
        "update.py",
        "(value * weight[micro.row].to(device)).sum()\n        torch.autograd",
        "value.mean()\n        torch.autograd",
        "train",
    ),
    Mutant(
        "no temperature in the head",
        "logprob.py",
        "factor = self.scale / temperature\n        return",
        "factor = self.scale\n        return",
        "logprob",
    ),
    Mutant(
        "no softcap in the backward pass",
        "logprob.py",
        "grad = grad * (1 - torch.tanh(raw / head.softcap).square())",
        "pass",
        "logprob",
    ),
    Mutant(
        "support not renormalised",
        "logprob.py",
        "logits = logits.masked_fill(~kept, -torch.inf)\n    return torch.log",
        "pass\n    return torch.log",
        "logprob",
    ),
    Mutant(
        "off-by-one shift",
        "pack.py",
        "torch.tensor([last]), torch.arange(at, at + n - 1)",
        "torch.tensor([last - 1]), torch.arange(at - 1, at + n - 2)",
        "pack",
    ),
    Mutant(
        "leak between completions of a row",
        "attention.py",
        "near = q.flatten(3, 4) @ k.mT",
        "near = q.flatten(3, 4) @ k.roll(1, dims=2).mT",
        "pack",
    ),
    Mutant(
        "leak of later tokens",
        "attention.py",
        "if self.window else back >= 0",
        "if self.window else back >= -1",
        "pack",
    ),
    Mutant(
        "leak of prompt padding",
        "attention.py",
        "        far &= column < self.length[:, None, None]\n",
        "",
        "pack",
    ),
    Mutant(
        "positions do not restart",
        "pack.py",
        "at, completion[:-1], size)",
        "at, completion[:-1], at)",
        "pack",
    ),
    Mutant(
        "the end token is not trained",
        "pack.py",
        "target.append(torch.tensor(completion))",
        "target.append(torch.tensor([*completion[:-1], 0]))",
        "pack",
    ),
    Mutant(
        "only the first end token ends",
        "native.py",
        "torch.tensor(policy.eos_ids, device",
        "torch.tensor(policy.eos_ids[:1], device",
        "rollout",
    ),
    Mutant(
        "cache of a finished row kept",
        "cache.py",
        "                keys[b, :, : self.seen] = keys[a, :, : self.seen]\n",
        "",
        "rollout",
    ),
    Mutant(
        "decode position off by one",
        "cache.py",
        "return (self.length + self.count)[: self.live, None]",
        "return (self.length + self.count + 1)[: self.live, None]",
        "rollout",
    ),
    Mutant(
        "decoding turns keys the other way",
        "decoder.py",
        "torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)",
        "torch.cat([sin[..., :half], -sin[..., half:]], dim=-1)",
        "rollout",
    ),
    Mutant(
        "decoding norms keys by the queries' weights",
        "decoder.py",
        "zip((attn.q_norm, attn.k_norm), counts, strict=True)",
        "zip((attn.q_norm, attn.q_norm), counts, strict=True)",
        "rollout",
    ),
    Mutant(
        "decoding without the layers' windows",
        "decoder.py",
        "window=window or 0",
        "window=0",
        "rollout",
    ),
    Mutant(
        "a draw may pass the last token with mass",
        "native.py",
        "    target = torch.minimum(target, torch.nextafter(end, torch.zeros_like(end)))\n",
        "",
        "rollout",
    ),
    Mutant(
        "scores in the order that groups ended",
        "score.py",
        "return Scored.join(parts).take([at[p] * n + i for p in order for i in range(n)])",
        "return Scored.join(parts)",
        "ahead",
    ),
    Mutant(
        "groups told of before all their rows ended",
        "native.py",
        "if not self.left[p]]",
        "if self.left[p] < self.n]",
        "ahead",
    ),
    Mutant(
        "randomness by place in the batch",
        "native.py",
        "self.uniform[row, count]",
        "self.uniform[torch.arange(len(row)), count]",
        "rollout",
    ),
    Mutant(
        "sampler without temperature",
        "native.py",
        "self.head.logits(hidden, self.sampling.temperature)",
        "self.head.logits(hidden, 1.0)",
        "rollout",
    ),
    Mutant(
        "prompt padding visible",
        "cache.py",
        "(far < length) & rules.near(length + count, far)",
        "rules.near(length + count, far)",
        "rollout",
    ),
    Mutant(
        "a batch without signal steps",
        "update.py",
        "batch.valid & (batch.advantage != 0)",
        "batch.valid",
        "train",
    ),
    Mutant(
        "gradients kept after out of memory",
        "update.py",
        "        while True:\n            self.optimizer.zero_grad(set_to_none=True)\n",
        "        self.optimizer.zero_grad(set_to_none=True)\n        while True:\n",
        "train",
    ),
    Mutant(
        "half-used rollouts not saved",
        "session.py",
        "session.batch.tensors(session.used) if session.batch and half_used else None",
        "None",
        "train",
    ),
    Mutant(
        "stale old logprobs",
        "batch.py",
        "Batch(rollouts, advantage.float(), valid, old,",
        "Batch(rollouts, advantage.float(), valid, old - 0.1,",
        "train",
    ),
    Mutant(
        "Adam's moments not restored",
        "session.py",
        "    restore_optimizer(checkpoint, session.policy, session.updater.optimizer)\n",
        "",
        "train",
    ),
    Mutant(
        "prompts start over after a resume",
        "session.py",
        "    session.sampler.position = progress.position\n",
        "",
        "train",
    ),
    Mutant(
        "same seeds every batch",
        "batch.py",
        "row_seeds(config.seed, session.rollouts,",
        "row_seeds(config.seed, 0,",
        "train",
    ),
    Mutant(
        "other prompts go unseen",
        "session.py",
        "progress.data_hash != session.data_hash",
        "False",
        "train",
    ),
    Mutant(
        "an engine starts stale after a resume",
        "session.py",
        "of_tensors(tensors)\n    session.engine.sync()\n",
        "of_tensors(tensors)\n",
        "engines",
    ),
    Mutant(
        "processes take the mean of the gradient",
        "update.py",
        "(loss * distributed.size())",
        "(loss)",
        "distributed",
    ),
    Mutant(
        "every process computes every row",
        "distributed.py",
        "return keep & mine.repeat_interleave(group_size)",
        "return keep",
        "distributed",
    ),
    Mutant(
        "the reference keeps its adapter",
        "policy.py",
        "if self.adapter and self.adapter_off else None",
        "if False else None",
        "lora",
    ),
    Mutant(
        "an adapter merged without its scale",
        "policy.py",
        "module.scaling[ADAPTER] * (",
        "(",
        "lora",
    ),
    Mutant(
        "a hack without a rise",
        "alarms.py",
        '    if not _rises(reward[before], reward[now]):\n        return ""\n',
        "",
        "alarms",
    ),
    Mutant(
        "alarms that do not stop ringing",
        "alarms.py",
        "if text and not _known(name, rows, config):",
        "if text:",
        "alarms",
    ),
    Mutant(
        "KL added to the reward",
        "batch.py",
        "reward -= config.loss.kl_coef * penalty",
        "reward += config.loss.kl_coef * penalty",
        "train",
    ),
    Mutant(
        "decoding with stale packed weights",
        "linear.py",
        "            layer.packed = None\n",
        "            pass\n",
        "linear",
    ),
    Mutant(
        "gradient of the weight lost",
        "linear.py",
        "flat.T @ x.flatten",
        "0 * flat.T @ x.flatten",
        "linear",
    ),
    Mutant("damage goes unseen", "state.py", " or _digest(path) != digest", "", "state"),
    Mutant(
        "biased pass@k",
        "evaluate.py",
        "math.comb(int(w), k) / math.comb(n, k)",
        "(int(w) / n) ** k",
        "evaluate",
    ),
]


def main() -> int:
    """Try the mutants whose names hold one of the words given."""
    words = sys.argv[1:]
    survivors = 0
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in ("grpo_train", "grpo_rewards", "tests", "rulesets", "docs", "experiments"):
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, copy / part, ignore=skip)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for mutant in MUTANTS:
            if words and not any(word in mutant.name for word in words):
                continue
            law = caught_by(mutant, copy)
            survivors += law is None
            sys.stdout.write(f"| {mutant.name} | {law or 'SURVIVED'} |\n")
            sys.stdout.flush()
    return 1 if survivors else 0


def caught_by(mutant: Mutant, copy: Path) -> str | None:
    """The first law that fails, None if none does."""
    path = copy / "grpo_train" / mutant.file
    text = path.read_text("utf-8")
    if text.count(mutant.old) != 1:
        sys.exit(f"`{mutant.name}` does not fit {mutant.file} any more")
    path.write_text(text.replace(mutant.old, mutant.new), "utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += [f"tests/test_{test}.py" for test in mutant.tests.split()]
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    path.write_text(text, "utf-8")
    found = re.search(r"^(?:FAILED|ERROR) tests/(\S+?)(?:\[|\s|$)", done.stdout, re.MULTILINE)
    return found[1] if done.returncode == 1 and found else None


if __name__ == "__main__":
    sys.exit(main())
