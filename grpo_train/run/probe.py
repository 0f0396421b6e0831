"""The evidence of the self-test: a few completions with the model's own logprobs.

These come from the model's own forward in fp32: its attention and its output layer, one text at a
time, with nothing of ours. In fp32 a path of ours is right if it agrees up to rounding. In bf16
every path errs, with real weights by 0.2 nats at the worst token. How much it may err is measured
on the same tokens, by what the model's own attention over plain rows loses in bf16.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from grpo_train.model.policy import Policy
from grpo_train.objective.packing import Layout, batch_logprobs, pack
from grpo_train.rollouts import Rollouts

TOLERANCE = 1e-4  # nats at the worst token, in fp32
# Of what bf16 costs, fp32 may cost this share: its rounding is 2^-16 of bf16's, and sums add to it.
SHARE = 2**-8
FACTOR = 2.0  # of bf16's own error: our paths round in other places, but not more often
FLOOR = 1e-3  # nats that are always allowed in bf16, whose own error may be next to 0
QUANTILE = 0.95  # of errors that is compared; the few beyond it are due to chance
WINDOW = 5  # keys of a shortened window: fewer than are sampled, so that it matters
WINDOWS = ("sliding_window", "attention_chunk_size")  # attributes of configs and layers


@dataclass(frozen=True, slots=True)
class Probe:
    """Completions, and their logprobs by the model's own forward."""

    policy: Policy  # in the precision that is judged
    rollouts: Rollouts
    temperature: float
    exact: Tensor  # [N] logprobs in fp32
    allowed: tuple[float, float, float]  # nats: on average, at a high quantile, at the worst token
    short: bool  # whether windows are made short, so that they matter

    @staticmethod
    def of(
        policy: Policy, rollouts: Rollouts, temperature: float, *, short: bool, bf16: bool
    ) -> Probe:
        """The probe of some rollouts; errors of the model's forward pass through.

        `bf16` says whether the run is in bf16, whatever the probe is in.
        """
        none = (math.inf, math.inf, TOLERANCE)
        found = Probe(policy, rollouts, temperature, torch.zeros(0), none, short)
        exact = found._own()
        if not bf16:
            return replace(found, exact=exact)
        rounded = replace(found, policy=replace(policy, mixed=True)).logprobs("plain")
        cost = (rounded - exact).abs()
        if policy.mixed:
            mean, high = (float(FACTOR * x + FLOOR) for x in (cost.mean(), cost.quantile(QUANTILE)))
            allowed = (mean, high, math.inf)
        else:
            allowed = (math.inf, math.inf, max(TOLERANCE, SHARE * float(cost.max())))
        return replace(found, exact=exact, allowed=allowed)

    def gap(self, logprobs: Tensor) -> float:
        """Distance from the model's own logprobs in nats: the worst token's; in bf16 the mean."""
        error = (logprobs - self.exact).abs()
        return float(error.mean() if self.policy.mixed else error.max())

    def right(self, logprobs: Tensor) -> bool:
        """Whether rounding explains the distance; it does not explain NaN."""
        error = (logprobs - self.exact).abs()
        found = (error.mean(), error.quantile(QUANTILE), error.max())
        return all(float(x) <= most for x, most in zip(found, self.allowed, strict=True))

    def logprobs(self, layout: Layout, *, backward: bool = False) -> Tensor:
        """Logprobs [N] as the trainer computes them; `plain` is with the model's own attention."""
        found = torch.zeros(len(self.rollouts.ids))
        batches = pack(self.rollouts, torch.ones(len(self.rollouts)).bool(), 4096, layout)
        with self._settings(ours=layout != "plain"), torch.set_grad_enabled(backward):
            for batch in batches:
                logp, _ = batch_logprobs(
                    self.policy,
                    batch.to(self.policy.device),
                    temperature=self.temperature,
                    support=self.rollouts.support,
                    with_entropy=False,
                )
                found[batch.token] = logp.detach().float().cpu()
                if backward:
                    torch.autograd.backward(logp.sum())
        self.policy.model.zero_grad(set_to_none=True)
        return found

    def _own(self) -> Tensor:
        """Logprobs [N] by the model's own forward, in fp32."""
        model, group = self.policy.model, self.rollouts.group_size
        support, found = self.rollouts.support, []
        with self._settings(ours=False), torch.no_grad():
            model.eval()
            at = 0
            for row, ids in enumerate(self.rollouts.completion_ids()):
                prompt = self.rollouts.prompt_ids[row // group]
                text = torch.tensor([prompt + ids[:-1]], device=self.policy.device)
                out = model(input_ids=text, attention_mask=torch.ones_like(text))
                logits = out.logits[0, len(prompt) - 1 :].float().cpu()
                logits = logits / self.temperature
                if support is not None:
                    kept = support.mask(at, at + len(ids), logits.shape[-1])
                    logits = logits.masked_fill(~kept, -torch.inf)
                logp = torch.log_softmax(logits, dim=-1)
                found.append(logp.gather(1, torch.tensor(ids)[:, None])[:, 0])
                at += len(ids)
        return torch.cat(found)

    @contextlib.contextmanager
    def _settings(self, *, ours: bool) -> Iterator[None]:
        short = shortened(self.policy.model) if self.short else contextlib.nullcontext()
        with short, self.policy.attention(ours=ours):
            yield


@contextlib.contextmanager
def shortened(model: Any) -> Iterator[None]:
    """Within, sliding windows have `WINDOW` keys.

    Windows of real models are longer than a probe, so a path that ignores them would not be noticed
    until far into the run.
    """
    seen: dict[int, Any] = {}
    for module in model.modules():
        owners = [module, getattr(module, "config", None), getattr(module, "text_config", None)]
        seen |= {id(owner): owner for owner in owners if owner is not None}
    config = model.config.get_text_config()
    seen[id(config)] = config
    before = [
        (owner, name, value)
        for owner in seen.values()
        for name in WINDOWS
        if type(value := getattr(owner, name, None)) is int and value > WINDOW
    ]
    for owner, name, _ in before:
        setattr(owner, name, WINDOW)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
