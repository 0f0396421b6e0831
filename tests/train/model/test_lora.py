"""An adapter starts without effect, leaves the base alone and is the reference switched off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import pytest
import tiny_run
import torch
from torch import Tensor

from grpo_train.config import Lora
from grpo_train.errors import ConfigError
from grpo_train.model.lora import add_lora, load_adapter
from grpo_train.model.policy import Policy, frozen_copy, load_policy
from grpo_train.run.checkpoint import list_checkpoints
from grpo_train.session import Session, resume, start
from grpo_train.train import train, train_step

pytest.importorskip("peft")

RANK = {"rank": 4, "alpha": 8.0}
IDS, POSITIONS = torch.arange(5, 15)[None], torch.arange(10)[None]


def states(policy: Policy) -> Tensor:
    return policy.hidden(IDS, POSITIONS, None).detach()


def adapted(kind: str = "llama", *, moved: bool = True) -> Policy:
    """A random policy with adapters; `moved` makes them count."""
    targets = ["c_attn", "c_fc"] if kind == "gpt2" else []
    policy = add_lora(models.make_policy(kind), Lora(rank=4, targets=targets), 0)
    for name, parameter in policy.model.named_parameters():
        if moved and ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    return policy


def base(policy: Policy) -> dict[str, Tensor]:
    state = policy.model.state_dict()
    return {name: t.clone() for name, t in state.items() if ".lora_" not in name}


def test_at_the_start_an_adapter_has_no_effect() -> None:
    assert states(adapted(moved=False)).equal(states(models.make_policy()))


def test_the_reference_is_the_policy_with_its_adapter_off() -> None:
    policy = adapted()
    before = states(policy)
    assert not before.allclose(states(models.make_policy()))
    assert states(frozen_copy(policy)).equal(states(models.make_policy()))
    assert states(policy).equal(before)  # and it is on again afterwards


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt2"])
def test_merged_weights_are_the_adapted_model(kind: str) -> None:
    policy, plain = adapted(kind), models.make_policy(kind)
    plain.model.load_state_dict(dict(policy.named_weights()))
    torch.testing.assert_close(states(plain), states(policy), rtol=1e-4, atol=2e-5)


def finish(folder: Path, **changes: Any) -> Session:
    session = start(tiny_run.make_config(folder, **changes))
    train(session)
    return session


def test_a_run_starts_at_kl_zero_and_leaves_the_base_untouched(tmp_path: Path) -> None:
    session = start(tiny_run.make_config(tmp_path, lora=RANK, loss={"kl_coef": 0.1}))
    assert session.reference is not None
    assert session.reference.model is session.policy.model  # no second copy
    before, first = base(session.policy), states(session.policy)
    assert abs(train_step(session)["kl"]) < 1e-9
    assert train_step(session)["kl"] > 0
    assert all(before[name].equal(tensor) for name, tensor in base(session.policy).items())
    assert not states(session.policy).equal(first)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's of transformers
def test_what_a_run_leaves_is_read_by_peft_and_by_any_tool(tmp_path: Path) -> None:
    from peft import PeftModel

    session = finish(tmp_path, lora=RANK)
    folder, config = session.record.folder, session.config
    whole = load_policy(str(folder / "model"), device="cpu")
    torch.testing.assert_close(states(whole), states(session.policy), rtol=1e-4, atol=1e-5)
    start_ = load_policy(config.model, device="cpu")
    PeftModel.from_pretrained(start_.model, folder / "adapter")
    assert states(start_).equal(states(session.policy))
    saved = list_checkpoints(folder / "checkpoints")[-1]
    assert not (saved / "model" / "model.safetensors").exists()  # the adapter alone
    assert load_adapter(saved / "model")


def test_a_resumed_run_is_the_run_uncut(tmp_path: Path) -> None:
    changes = {"lora": RANK, "loss": {"kl_coef": 0.1}}
    whole = finish(tmp_path / "whole", **changes)
    cut = start(tiny_run.make_config(tmp_path / "cut", **changes, save={"every": 2}))

    def die(step: int, _: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cut, die)
    again = resume(cut.record.folder)
    assert again.progress.step == 2
    train(again)
    state = again.policy.model.state_dict()
    assert all(state[n].equal(t) for n, t in whole.policy.model.state_dict().items())


@pytest.mark.parametrize("targets", [["lm_head"], ["no_such_layer"]])
def test_layers_that_cannot_be_adapted_are_named(targets: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets"):
        add_lora(models.make_policy(), Lora(rank=2, targets=targets), 0)
