"""Laws of the CPU's linear layers: torch's own are the oracle."""

from __future__ import annotations

import copy

import models
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_train.model.onednn import FastLinear, make_fast, packed, product, reordered

SIZES = st.integers(1, 40)


def layers(n_in: int, n_out: int, *, bias: bool) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    torch.manual_seed(n_in * 41 + n_out)
    plain = torch.nn.Linear(n_in, n_out, bias=bias)
    fast = torch.nn.Sequential(copy.deepcopy(plain))
    make_fast(fast)
    return plain, fast[0]


@given(SIZES, SIZES, SIZES, st.booleans())
def test_values_and_gradients_are_torchs(rows: int, n_in: int, n_out: int, bias: bool) -> None:
    plain, fast = layers(n_in, n_out, bias=bias)
    x = torch.randn(2, rows, n_in)
    seen = []
    for layer in (plain, fast):
        y = x.clone().requires_grad_()
        out = layer(y)
        torch.autograd.backward((out * out.detach().cos()).sum())
        seen.append([out.detach(), y.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-4, atol=1e-4)


@given(SIZES, SIZES, SIZES, SIZES)
def test_packed_weights_serve_any_number_of_rows(a: int, b: int, n_in: int, n_out: int) -> None:
    weight, x = torch.randn(n_out, n_in), torch.randn(b, n_in)
    found = reordered(weight, a)
    assert found is not None
    torch.testing.assert_close(product(x, found), x @ weight.T, rtol=1e-4, atol=1e-4)


def test_packing_ends_with_its_block_even_on_an_error() -> None:
    _, fast = layers(8, 4, bias=True)
    x = torch.randn(3, 8)
    try:
        with packed(fast, 3, torch.float32), torch.no_grad():
            before = fast(x)
            assert isinstance(fast, FastLinear)
            assert fast.packed is not None
            raise InterruptedError
    except InterruptedError:
        pass
    assert fast.packed is None
    with torch.no_grad():
        fast.weight.mul_(2)
        fast.bias.mul_(2)
    torch.testing.assert_close(fast(x), 2 * before)


@given(SIZES, SIZES, SIZES, st.booleans())
def test_under_autocast_products_are_in_its_dtype(
    a: int, n_in: int, n_out: int, bias: bool
) -> None:
    plain, fast = layers(n_in, n_out, bias=bias)
    x = torch.randn(a, n_in)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        wanted, found = plain(x), fast(x)
        with packed(fast, a, torch.bfloat16):
            again = fast(x)
    assert wanted.dtype == found.dtype == again.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(again, wanted, rtol=2e-2, atol=2e-2)


def test_other_dtypes_and_empty_inputs_take_torchs_way() -> None:
    _, fast = layers(8, 4, bias=False)
    assert fast(torch.zeros(0, 8)).shape == (0, 4)
    assert fast.double()(torch.ones(2, 8).double()).dtype == torch.float64
    assert reordered(fast.weight, 2) is None


def test_a_model_keeps_its_weights_and_names_and_can_be_copied() -> None:
    policy = models.make_policy()
    assert any(isinstance(m, FastLinear) for m in policy.model.modules())
    twin = copy.deepcopy(policy.model)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(twin(ids).logits, policy.model(ids).logits)
    with torch.no_grad():
        next(iter(twin.parameters())).zero_()
    assert next(iter(policy.model.parameters())).detach().abs().sum() > 0
