"""Attention of trees on CUDA: runs of queries, each with the keys that it may see.

A packed row is a sequence of runs, prompts and branches, so queries stay where they are; keys are
gathered, a prompt's once for each of its branches. Flash attention (Dao 2023) takes both with their
bounds, without padding or mask. It aligns causality at the ends, so a branch's first token sees the
whole prompt. It has no soft cap, and takes bf16 and fp16 only: the self-test before the first step
decides whether it is used.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from grpo_train.model.tree_attention import Rules


@dataclass(frozen=True, slots=True)
class Runs:
    """The bounds of a row's S runs, and the keys of each run."""

    query_ends: Tensor  # [S + 1] int32, from 0
    key_ends: Tensor  # [S + 1] int32, from 0
    key: Tensor  # [K] index in the row
    longest: tuple[int, int]  # run of queries, of keys

    @staticmethod
    def of(prompts: Sequence[range], branches: Sequence[Sequence[range]]) -> Runs:
        """The runs of prompts' spans and their branches', in the order of the row."""
        runs: list[tuple[range, list[range]]] = []
        for prompt, spans in zip(prompts, branches, strict=True):
            runs.append((prompt, [prompt]))
            runs += [(span, [prompt, span]) for span in spans]
        queries = [len(run) for run, _ in runs]
        keys = [sum(map(len, seen)) for _, seen in runs]
        return Runs(
            torch.tensor([0, *accumulate(queries)], dtype=torch.int32),
            torch.tensor([0, *accumulate(keys)], dtype=torch.int32),
            torch.cat([torch.arange(s.start, s.stop) for _, seen in runs for s in seen]),
            (max(queries), max(keys)),
        )

    def to(self, device: torch.device) -> Runs:
        """The same on another device."""
        query_ends, key_ends = self.query_ends.to(device), self.key_ends.to(device)
        return Runs(query_ends, key_ends, self.key.to(device), self.longest)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        """Attention of one packed row: query [1, H, T, D] → [1, T, H, D].

        Raises ImportError before torch 2.10, NotImplementedError for what flash attention, or this
        version's, cannot be told, and what torch raises for other dtypes.
        """
        from torch.nn.attention.varlen import varlen_attn

        said = _said(varlen_attn, rules, query.shape[-1])
        # Under autocast, rotary positions leave queries and keys in fp32.
        q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
        k, v = (x.index_select(0, self.key) for x in (k, v))
        out = varlen_attn(
            q.contiguous(),
            k,
            v,
            self.query_ends,
            self.key_ends,
            *self.longest,
            **said,
        )
        assert isinstance(out, Tensor)  # a pair only where more is asked for
        return out[None]


@functools.cache
def _parameters(attend: Callable[..., Any]) -> frozenset[str]:
    """The parameters of torch's function, which differ between its versions."""
    return frozenset(inspect.signature(attend).parameters)


def _said(attend: Callable[..., Any], rules: Rules, dim: int) -> dict[str, Any]:
    """A layer's rules as arguments for this version of torch.

    2.10 knows `is_causal`; 2.11 `scale` and `window_size`, whose right end 0 is causality; later
    ones want to be told of fewer heads of keys than of queries, which the kernel takes anyway.
    """
    known = _parameters(attend)
    if rules.cap:
        raise NotImplementedError("flash attention has no soft cap")
    said: dict[str, Any] = {}
    if "window_size" in known:
        said["window_size"] = (rules.window - 1 if rules.window else -1, 0)
    elif rules.window or "is_causal" not in known:
        raise NotImplementedError("flash attention of this torch knows no window")
    else:
        said["is_causal"] = True
    if "scale" in known:
        said["scale"] = rules.scale
    elif not math.isclose(rules.scale, dim**-0.5):
        raise NotImplementedError("flash attention of this torch knows no scale")
    if "enable_gqa" in known:
        said["enable_gqa"] = True
    return said
