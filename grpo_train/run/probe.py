"""The evidence of the self-test: a few completions, and what the model itself says of them.

The truth is the model's own forward in fp32: its own attention and its own output layer, a text at
a time, so that nothing of ours has a part in it. In fp32 a path of ours is right where it agrees to
rounding. In bf16 every path errs, real weights by 0.2 nats at the worst token, and how much they
may is measured on the same tokens: what plain rows, the model's own attention, lose by bf16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from grpo_train.model.policy import Policy
from grpo_train.objective.packing import Layout, batch_logprobs, pack
from grpo_train.rollouts import Rollouts

TOLERANCE = 1e-4  # nats at the worst token, of fp32
FACTOR = 2.0  # times what bf16 itself costs: paths round in other places, and no more often
FLOOR = 1e-3  # nats, where bf16 costs next to nothing
QUANTILE = 0.95  # of errors; the few beyond it are left to chance
WINDOW = 5  # keys: shorter than what is sampled, so that a window matters
WINDOWS = ("sliding_window", "attention_chunk_size")  # where configs and layers have theirs


@dataclass(frozen=True, slots=True)
class Probe:
    """Completions, and their logprobs by the model's own forward."""

    policy: Policy  # in the precision that is judged
    rollouts: Rollouts
    temperature: float
    exact: Tensor  # [N] logprobs in fp32
    allowed: tuple[float, float]  # nats: mean and high quantile of errors in bf16
    short: bool  # whether windows are made short, so that they matter

    @staticmethod
    def of(policy: Policy, rollouts: Rollouts, temperature: float, *, short: bool) -> Probe:
        """Ask the model itself; raises what the model does where it cannot be asked."""
        found = Probe(policy, rollouts, temperature, torch.zeros(0), (0.0, 0.0), short)
        exact = found._own()
        if not policy.mixed:
            return replace(found, exact=exact)
        cost = (found.logprobs("plain") - exact).abs()
        allowed = FACTOR * cost.mean() + FLOOR, FACTOR * cost.quantile(QUANTILE) + FLOOR
        return replace(found, exact=exact, allowed=(float(allowed[0]), float(allowed[1])))

    def gap(self, logprobs: Tensor) -> float:
        """How far off: nats at the worst token, of bf16 on average."""
        error = (logprobs - self.exact).abs()
        return float(error.mean() if self.policy.mixed else error.max())

    def right(self, logprobs: Tensor) -> bool:
        """Whether that is rounding; NaN is not."""
        error = (logprobs - self.exact).abs()
        if not self.policy.mixed:
            return bool(error.max() <= TOLERANCE)
        mean, high = self.allowed
        return bool(error.mean() <= mean) and bool(error.quantile(QUANTILE) <= high)

    def logprobs(self, layout: Layout, *, backward: bool = False) -> Tensor:
        """As the trainer would have them: packed, or plain rows under the model's own attention."""
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
        """As the model has them, in fp32."""
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
    """Within: windows of WINDOW keys. Those of real models are longer than what is probed, and a
    path that forgets them would be found out far into the run."""
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
