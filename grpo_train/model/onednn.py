"""Linear layers on CPU through oneDNN, which is faster than torch's own choice there.

Torch multiplies fp32 matrices with MKL, which packs the weights anew in every call: at the 32 rows
of a decoding step that costs as much as the product. Here a layer's class is swapped for one with
the same weights and state whose products oneDNN computes, in bf16 under autocast. While a rollout
batch is decoded the weights do not change, so one copy in oneDNN's blocked layout serves all steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

PACK_BYTES = 4 << 30  # larger models are decoded from their own weights: a copy costs too much
ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's
BF16 = ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # on this CPU
DTYPES = (*[torch.float32] * ONEDNN, *[torch.bfloat16] * BF16)  # that oneDNN multiplies here


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b; a packed `weight` takes no gradient."""
    packed = weight.layout is not torch.strided
    if not packed and not _usable(x, weight):
        return linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        found: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]  # torch's
        return found
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def reordered(weight: Tensor, rows: int) -> Tensor | None:
    """`weight` [out, in] in the layout that suits `rows` inputs; None where there is none."""
    if not _usable(weight, weight):
        return None
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return found


def _usable(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can multiply these two."""
    known = x.dtype == weight.dtype and x.dtype in DTYPES and x.numel() > 0
    return known and x.device.type == "cpu" and type(weight) in PLAIN


PLAIN = (Tensor, torch.nn.Parameter)  # types of whole weights, not of shards


class _Product(torch.autograd.Function):
    """x Wᵀ + b with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        flat = grad.flatten(0, -2)
        wanted = ctx.needs_input_grad
        return (
            product(grad.contiguous(), weight.T) if wanted[0] else None,
            flat.T @ x.flatten(0, -2) if wanted[1] else None,
            flat.sum(dim=0) if wanted[2] else None,
        )


class FastLinear(torch.nn.Linear):
    """`torch.nn.Linear` through oneDNN; `packed` is set while the weights do not change."""

    packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b."""
        weight: Tensor = self.weight if self.packed is None else self.packed
        bias: Tensor | None = self.bias
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        return product(x, weight, bias)


def make_fast(model: torch.nn.Module) -> None:
    """Swap the class of every plain linear layer; weights, names and hooks stay what they are."""
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = FastLinear


@contextlib.contextmanager
def packed(model: torch.nn.Module, rows: int, dtype: torch.dtype) -> Iterator[None]:
    """Within, products are in `dtype` from packed weights, which must not change; no gradients."""
    layers = [module for module in model.modules() if isinstance(module, FastLinear)]
    size = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    try:
        if size <= PACK_BYTES:
            for layer in layers:
                layer.packed = reordered(layer.weight.to(dtype), rows)
        yield
    finally:
        for layer in layers:
            layer.packed = None


Pair = tuple[Tensor, Tensor | None]  # weight [out, in] and bias [out]


@dataclass(frozen=True, slots=True)
class Frozen:
    """Layers that read the same input, as one product with copies of their present weights."""

    weight: Tensor  # [out, in], packed where that helps
    bias: Tensor | None

    @staticmethod
    def of(layers: Sequence[Pair], rows: int, dtype: torch.dtype) -> Frozen:
        """The layers joined, for inputs of `rows` rows."""
        weight = torch.cat([weight for weight, _ in layers]).to(dtype)
        biases = [bias for _, bias in layers if bias is not None]
        bias = torch.cat(biases).to(dtype) if biases else None
        ready = reordered(weight, rows)
        return Frozen(weight if ready is None else ready, bias)

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """x Wᵀ + b, plus `add`, which may have a wider dtype."""
        x = x.to(self.weight.dtype)
        if self.weight.layout is torch.strided:
            out = linear(x, self.weight, self.bias)
        elif add is not None and add.dtype == x.dtype:
            point = torch.ops.mkldnn._linear_pointwise.binary
            made: Tensor = point(x, add, self.weight, self.bias, "add")
            return made
        else:
            out = product(x, self.weight, self.bias)
        return out if add is None else add + out
