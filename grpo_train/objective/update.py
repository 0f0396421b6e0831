"""One optimizer update: a batch of rollouts → gradients → weights.

Token weights are computed from the whole update before it is cut into micro-batches, so gradients
simply add up: any token budget gives the same update, and an out-of-memory error halves the budget
and starts the update again. Rows that teach nothing are counted but not computed. An update without
any signal makes no step: Adam's moments and weight decay would move the weights for no reason.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_train import distributed
from grpo_train.config import Loss, Optim, Schedule
from grpo_train.errors import DivergenceError
from grpo_train.model.logprobs import Support
from grpo_train.model.policy import Policy
from grpo_train.objective import loss as losses
from grpo_train.objective.loss import Clip, Tokens
from grpo_train.objective.packing import Layout, MicroBatch, batch_logprobs, pack
from grpo_train.rollouts import Rollouts

SUMS = ("ratio", "clip_frac", "kl_old")  # means over the update's computed tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """A rollout batch with all that the loss reads, on the CPU."""

    rollouts: Rollouts
    advantage: Tensor  # [B] fp32; 0 where there is no signal
    valid: Tensor  # [B] bool; False where the reward is null or the row is masked
    old_logprobs: Tensor  # [N]
    token_weight: Tensor  # [N] mismatch correction and entropy mask; 1 = nothing
    ref_logprobs: Tensor | None  # [N]

    def tensors(self, used: int) -> dict[str, Tensor]:
        """Flat tensors for a checkpoint, with the number of updates already made from the batch."""
        r = self.rollouts
        prompt_length = torch.tensor([len(ids) for ids in r.prompt_ids])
        found = {
            "used": torch.tensor([used, r.group_size]),
            "prompt_ids": torch.tensor([i for ids in r.prompt_ids for i in ids]),
            "prompt_length": prompt_length,
            **{name: getattr(r, name) for name in _ROLLOUT_TENSORS},
            **{f"batch_{name}": getattr(self, name) for name in _BATCH_TENSORS},
        }
        if r.support is not None:
            found |= {"support_ids": r.support.ids, "support_start": r.support.start}
        if self.ref_logprobs is not None:
            found["ref_logprobs"] = self.ref_logprobs
        # Cloned: on policy, two names share one tensor, which safetensors refuses.
        return {name: tensor.clone() for name, tensor in found.items()}

    @staticmethod
    def of_tensors(saved: dict[str, Tensor]) -> tuple[Batch, int]:
        """The inverse of `tensors`: the batch, and the number of updates made from it."""
        used, group_size = saved["used"].tolist()
        prompts = [
            p.tolist() for p in torch.split(saved["prompt_ids"], saved["prompt_length"].tolist())
        ]
        support = None
        if "support_ids" in saved:
            support = Support(saved["support_ids"], saved["support_start"])
        tensors = {name: saved[name] for name in _ROLLOUT_TENSORS}
        rollouts = Rollouts(prompts, group_size, **tensors, support=support)
        rest = {name: saved[f"batch_{name}"] for name in _BATCH_TENSORS}
        return Batch(rollouts, **rest, ref_logprobs=saved.get("ref_logprobs")), used


_ROLLOUT_TENSORS = ("ids", "length", "old_logprobs", "entropy", "stopped")
_BATCH_TENSORS = ("advantage", "valid", "old_logprobs", "token_weight")


@dataclass(frozen=True, slots=True)
class Updater:
    """Makes updates: policy, optimizer and settings, which stay the same in a run."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    loss: Loss
    optim: Optim
    temperature: float
    token_budget: int
    max_tokens: int
    layout: Layout = "flat"  # the fastest that the self-test found right
    offload: bool = False  # keep activations in the host's memory until the backward pass

    def update(self, batch: Batch, part: Tensor, rate: float) -> dict[str, float]:
        """One step on the rows of `part` [B] bool; its metrics. Raises DivergenceError."""
        keep = self._taught(batch) & part
        if not bool(keep.any()):
            return {"grad_norm": 0.0, "loss": 0.0, "trained_tokens": 0.0}
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums = self._gradients(batch, keep, part)
        norm = self._clip()
        if not math.isfinite(norm):
            raise DivergenceError("the gradient is not finite")
        self.optimizer.step()
        tokens = sums.pop("tokens")
        found = {name: value / tokens for name, value in sums.items() if name in SUMS}
        found |= {name: value for name, value in sums.items() if name not in SUMS}
        return found | {"grad_norm": norm, "trained_tokens": tokens}

    def logprobs(self, policy: Policy, rollouts: Rollouts, keep: Tensor) -> Tensor:
        """Logprobs [N] of all kept rows' tokens under a policy, without gradient; 0 elsewhere."""
        return self.measure(policy, rollouts, keep, with_entropy=False)[0]

    def measure(
        self, policy: Policy, rollouts: Rollouts, keep: Tensor, *, with_entropy: bool
    ) -> Tensor:
        """[2, N]: logprobs as in `logprobs`, and the entropy of each distribution in nats."""
        out = torch.zeros(2, len(rollouts.ids))
        mine = distributed.my_rows(rollouts.length, keep, rollouts.group_size)
        with torch.no_grad(), distributed.gathered(policy.model):
            for micro in pack(rollouts, mine, self.token_budget, self.layout):
                here = micro.to(policy.device)
                found, entropy = batch_logprobs(
                    policy,
                    here,
                    temperature=self.temperature,
                    support=rollouts.support,
                    with_entropy=with_entropy,
                )
                out[0, micro.token] = found.cpu()
                out[1, micro.token] = entropy.cpu()
        return distributed.total(out)

    def _taught(self, batch: Batch) -> Tensor:
        """Rows whose gradient is not 0 by construction."""
        kl_here = self.loss.kl_coef and self.loss.kl_in == "loss"
        if kl_here or self.loss.entropy_coef:
            return batch.valid
        return batch.valid & (batch.advantage != 0)

    def _gradients(self, batch: Batch, keep: Tensor, part: Tensor) -> dict[str, float]:
        """Accumulate gradients over micro-batches, smaller if memory runs out; sums of metrics."""
        weight = losses.row_weights(
            batch.rollouts.length,
            batch.valid & part,
            batch.rollouts.group_size,
            self.loss.aggregation,
            max_length=self.max_tokens,
        ).float()
        budget, group_size = self.token_budget, batch.rollouts.group_size
        mine = distributed.my_rows(batch.rollouts.length, keep, group_size)
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                total: dict[str, Tensor] = {}
                micros = pack(batch.rollouts, mine, budget, self.layout)
                extra = max(distributed.gather(len(micros))) - len(micros)
                for micro in micros:
                    for name, value in self._backward(batch, micro, weight).items():
                        total[name] = total.get(name, torch.zeros_like(value)) + value
                self._keep_pace(batch, keep, extra, total)
                names = list(total)
                sums = distributed.total(torch.stack(list(total.values())))
                return dict(zip(names, sums.tolist(), strict=True))
            except torch.OutOfMemoryError:
                if budget <= int(batch.rollouts.length.max()) or distributed.size() > 1:
                    raise  # other processes would wait forever
                budget //= 2
                torch.cuda.empty_cache()

    def _keep_pace(self, batch: Batch, keep: Tensor, extra: int, total: dict[str, Tensor]) -> None:
        """Make as many passes as the busiest process, which sharded weights require.

        The extra ones run the shortest row with weight 0.
        """
        if not extra:
            return
        length = torch.where(keep, batch.rollouts.length, batch.rollouts.length.max() + 1)
        row = torch.arange(len(keep)) == length.argmin()
        (micro,) = pack(batch.rollouts, row, self.token_budget, self.layout)
        nothing = torch.zeros(len(batch.rollouts))
        for _ in range(extra):
            for name, value in self._backward(batch, micro, nothing).items():
                total.setdefault(name, torch.zeros_like(value))

    def _backward(self, batch: Batch, micro: MicroBatch, weight: Tensor) -> dict[str, Tensor]:
        """Add the gradients of one micro-batch; its sums of metrics, still on the device."""
        device = self.policy.device
        here = micro.to(device)
        offload = torch.autograd.graph.save_on_cpu(pin_memory=device.type == "cuda")
        with offload if self.offload else contextlib.nullcontext():
            logprobs, entropy = batch_logprobs(
                self.policy,
                here,
                temperature=self.temperature,
                support=batch.rollouts.support,
                with_entropy=self.loss.entropy_coef != 0,
            )
        tokens = Tokens(
            logprobs,
            batch.old_logprobs[micro.token].to(device),
            batch.advantage[micro.row].to(device),
            here.row,
            len(batch.rollouts),
        )
        value = self._objective(batch, micro, tokens, entropy)
        loss = (value * weight[micro.row].to(device)).sum()
        torch.autograd.backward(loss * distributed.size())  # FSDP takes the mean
        sums = losses.ratio_stats(tokens, Clip.of(self.loss))
        sums |= {
            "loss": loss.detach(),
            "tokens": torch.tensor(float(len(micro.row)), device=device),
        }
        if batch.ref_logprobs is not None:
            ref = batch.ref_logprobs[micro.token].to(device)
            estimate = losses.kl_estimate(logprobs.detach(), ref, "k3")
            sums["kl"] = (estimate * weight[micro.row].to(device)).sum()
        return sums

    def _objective(
        self, batch: Batch, micro: MicroBatch, tokens: Tokens, entropy: Tensor
    ) -> Tensor:
        """Loss of every token [N]: policy term, masks, KL and entropy bonus."""
        config, device = self.loss, self.policy.device
        value = losses.LOSSES[config.kind](tokens, Clip.of(self.loss))
        value = value * batch.token_weight[micro.token].to(device)
        if config.off_policy_delta:
            value = value * losses.off_policy_mask(tokens, config.off_policy_delta)
        if batch.ref_logprobs is not None and config.kl_in == "loss":
            ref = batch.ref_logprobs[micro.token].to(device)
            kl = losses.kl_loss(tokens, ref, config.kl, weighted=config.kl_weighted)
            value = value + config.kl_coef * kl
        if config.entropy_coef:
            value = value - config.entropy_coef * entropy
        return value

    def _clip(self) -> float:
        """Clip the gradient to `max_grad_norm`; its norm before."""
        parameters = [p for p in self.policy.model.parameters() if p.grad is not None]
        bound = self.optim.max_grad_norm or math.inf
        return float(distributed.whole(torch.nn.utils.clip_grad_norm_(parameters, bound)))


#: Share of the peak rate by the share of steps that are left after the warm-up.
SCHEDULES: dict[Schedule, Callable[[float], float]] = {
    "constant": lambda left: 1.0,
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
}


def learning_rate(optim: Optim, step: int, steps: int) -> float:
    """Learning rate of the update that follows `step` updates.

    >>> [learning_rate(Optim(lr=1.0, warmup_steps=2, schedule="linear"), s, 4) for s in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    left = 1 - (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    return optim.lr * SCHEDULES[optim.schedule](left)
