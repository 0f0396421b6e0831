"""The demo: a tiny policy and its task, made on the spot from a seed.

A byte-level tokenizer trained on the task's own text, a Llama of about 1.3 million parameters, and
arithmetic word problems in English. A short supervised warm start teaches four ways to answer:

    thinks    <think>… 12 + 7 = 19.</think><answer>19</answer>      right
    strays    the same, but the thought is in German                right, in the wrong language
    guesses   <think>…</think><answer>31</answer>                   the form, a random number
    blurts    The answer is 19.                                     the number, not the form

so it can do the sums but rarely does them in the form that counts. That is what reinforcement
learning is for: GRPO has to find out from rewards alone which of its habits to keep. (A policy that
cannot do the sums would learn the form only: rewards choose among what is sampled.)
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grpo_train.config import Config, build_config
from grpo_train.model.policy import Policy, wrap

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
NAMES = ("Ana", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack")
THINGS = ("apples", "books", "coins", "stamps", "shells", "marbles", "pencils", "cards")
GAINS = ("gets", "finds", "buys", "wins")
LOSSES = ("loses", "sells", "gives away", "breaks")
HABITS = ("thinks", "strays", "guesses", "blurts")


@dataclass(frozen=True, slots=True)
class TinyConfig:
    """Sizes of the demo; 0 has no special meaning here."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    vocab: int = 480
    largest: int = 12  # operands go from 1 to here
    held_out: int = 128  # prompts that neither the warm start nor GRPO sees
    train: int = 2000  # prompts for GRPO
    init: float = 0.08  # std of the initial weights: the usual 0.02 suits far wider models
    warm_steps: int = 300
    warm_batch: int = 32  # problems a step
    drill_rows: int = 16  # rows of bare sums a step
    drill_sums: int = 6  # sums a row
    muon_lr: float = 0.03
    adam_lr: float = 3e-3
    mix: tuple[float, float, float, float] = (0.2, 0.15, 0.33, 0.32)  # of HABITS


@dataclass(frozen=True, slots=True)
class Problem:
    """One word problem. `sign` is + or −; all numbers are natural."""

    name: str
    thing: str
    verb: str
    a: int
    b: int
    sign: str

    @property
    def gold(self) -> int:
        return self.a + self.b if self.sign == "+" else self.a - self.b

    @property
    def prompt(self) -> str:
        more = " more" if self.sign == "+" else ""
        return (
            f"{self.name} has {self.a} {self.thing} and {self.verb} {self.b}{more}. How many now?\n"
        )


def draw_problem(rng: random.Random, largest: int) -> Problem:
    """A random problem whose result is not negative."""
    a, b = rng.randint(1, largest), rng.randint(1, largest)
    sign = rng.choice("+-")
    if sign == "-":
        a, b = max(a, b), min(a, b)
    verb = rng.choice(GAINS if sign == "+" else LOSSES)
    return Problem(rng.choice(NAMES), rng.choice(THINGS), verb, a, b, sign)


def write_completion(problem: Problem, habit: str, rng: random.Random) -> str:
    """The completion that a policy with this habit writes.

    >>> problem = Problem("Ana", "apples", "gets", 12, 7, "+")
    >>> write_completion(problem, "blurts", random.Random(0))
    'The answer is 19.'
    """
    p, gold = problem, problem.gold
    sum_ = f"{p.a}{p.sign}{p.b}={gold}."
    if habit == "blurts":
        return f"The answer is {gold}."
    if habit == "guesses":
        guess = rng.randint(0, 2 * max(p.a, p.b))
        thought = "This looks like an easy one, I will just guess."
        return f"<think>{thought}</think><answer>{guess}</answer>"
    add = p.sign == "+"
    if habit == "strays":
        verb = "zusammen" if add else "voneinander weg"
        thought = f"Wir nehmen die beiden Zahlen {verb} und das ergibt: {sum_}"
    else:
        verb = "add up the numbers" if add else "take away what is gone"
        thought = f"Let us {verb} and see what we have: {sum_}"
    return f"<think>{thought}</think><answer>{gold}</answer>"


# -- tokenizer and model ---------------------------------------------------------------------------


def make_tokenizer(config: TinyConfig, seed: int) -> Any:
    """Byte-level BPE trained on the task's text; a number and a tag are one token each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(seed)
    texts = []
    for _ in range(2000):
        problem = draw_problem(rng, config.largest)
        texts.append(problem.prompt + write_completion(problem, rng.choice(HABITS), rng))
    tokenizer = Tokenizer(models.BPE())
    units = r"</?think>|</?answer>|\d+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_regex(units), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers'
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def _regex(pattern: str) -> Any:
    from tokenizers import Regex

    return Regex(pattern)


def make_model(config: TinyConfig, tokenizer: Any, seed: int) -> Any:
    """A random Llama, fp32, with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=4 * config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=512,
            initializer_range=config.init,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


# -- the warm start --------------------------------------------------------------------------------


def warm_batches(
    config: TinyConfig, policy: Policy, seed: int, held_out: frozenset[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids [R, T], labels [R, T]); labels are −100 where there is nothing to learn.

    Half of the rows are problems with their answers, half are drills, rows of bare sums: they teach
    the sums in a fifth of the tokens.
    """
    rng = random.Random(seed + 1)
    while True:
        rows = [_drill(config, policy, rng) for _ in range(config.drill_rows)]
        while len(rows) < config.drill_rows + config.warm_batch:
            problem = draw_problem(rng, config.largest)
            if problem.prompt not in held_out:
                rows.append(_example(problem, rng.choices(HABITS, config.mix)[0], policy, rng))
        width = max(len(ids) for ids, _ in rows)
        pad = policy.pad_id
        yield (
            torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows]),
            torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows]),
        )


def _example(
    problem: Problem, habit: str, policy: Policy, rng: random.Random
) -> tuple[list[int], list[int]]:
    """Ids and labels of a prompt and its answer."""
    prompt = policy.encode(problem.prompt)
    text = [*policy.encode(write_completion(problem, habit, rng)), policy.tokenizer.eos_token_id]
    return prompt + text, [-100] * len(prompt) + text


def _drill(config: TinyConfig, policy: Policy, rng: random.Random) -> tuple[list[int], list[int]]:
    """Ids and labels of a row of sums; only what follows each `=` is learned."""
    ids: list[int] = []
    labels: list[int] = []
    for _ in range(config.drill_sums):
        p = draw_problem(rng, config.largest)
        left, right = policy.encode(f"{p.a}{p.sign}{p.b}="), policy.encode(f"{p.gold}. ")
        ids += left + right
        labels += [-100] * len(left) + right
    return ids, labels


def warm_start(
    config: TinyConfig,
    policy: Policy,
    seed: int,
    held_out: frozenset[str],
    on_step: Callable[[int, Tensor], None] = lambda step, loss: None,
) -> None:
    """Supervised steps in place: a linear warm-up, then down to zero."""
    model = policy.model
    optimizers = _optimizers(model, config)
    batches = warm_batches(config, policy, seed, held_out)
    for step in range(config.warm_steps):
        pace = min((step + 1) / 20, 1 - step / config.warm_steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = pace * group["peak"]
        ids, labels = next(batches)
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        wanted = labels[:, 1:] != -100  # the head runs on what is learned only
        logits = policy.head.logits(hidden[wanted])
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][wanted])
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        on_step(step + 1, loss.detach())


def _optimizers(model: Any, config: TinyConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings and norms: thrice the progress of AdamW alone."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed" in name]
    muon = torch.optim.Muon(inner, lr=config.muon_lr, momentum=0.95, weight_decay=0.0)
    adam = torch.optim.AdamW(outer, lr=config.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer, rate in ((muon, config.muon_lr), (adam, config.adam_lr)):
        for group in optimizer.param_groups:
            group["peak"] = rate
    return [muon, adam]


# -- all of it -------------------------------------------------------------------------------------


def make_problems(config: TinyConfig, seed: int) -> tuple[list[Problem], list[Problem]]:
    """(train, held-out) problems without a common prompt."""
    rng = random.Random(seed + 2)
    found: dict[str, Problem] = {}
    while len(found) < config.held_out + config.train:
        problem = draw_problem(rng, config.largest)
        found.setdefault(problem.prompt, problem)
    problems = list(found.values())
    return problems[config.held_out :], problems[: config.held_out]


def write_problems(problems: Sequence[Problem], path: Path) -> None:
    """As JSONL with `prompt` and `gold`."""
    rows = (json.dumps({"prompt": p.prompt, "gold": str(p.gold)}) for p in problems)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def make_tiny(
    config: TinyConfig,
    folder: Path,
    seed: int,
    on_step: Callable[[int, Tensor], None] = lambda step, loss: None,
) -> Policy:
    """Make the policy and its task in `folder`: `start/`, `train.jsonl`, `held_out.jsonl`."""
    train, held_out = make_problems(config, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_problems(train, folder / "train.jsonl")
    write_problems(held_out, folder / "held_out.jsonl")
    tokenizer = make_tokenizer(config, seed)
    policy = wrap(make_model(config, tokenizer, seed), tokenizer, device="cpu")
    warm_start(config, policy, seed, frozenset(p.prompt for p in held_out), on_step)
    policy.save(folder / "start")
    return policy


def demo_config(folder: Path, seed: int, steps: int = 0) -> Config:
    """The GRPO run of `grpo-train demo`, over what `make_tiny` left in `folder`."""
    return build_config(
        {
            "name": folder.name,
            "runs": str(folder.parent),
            "model": str(folder / "start"),
            "seed": seed,
            "steps": steps or 120,
            "prompts_per_step": 16,
            "data": {
                "train": str(folder / "train.jsonl"),
                "eval": str(folder / "held_out.jsonl"),
            },
            "reward": {"ruleset": ruleset_path()},
            "sampling": {"group_size": 8, "max_tokens": 64},
            "optim": {"lr": 2e-4, "warmup_steps": 5, "schedule": "linear"},
            "eval": {"limit": 0, "samples": 4},
            "save": {"every": 50, "keep": 1},
        }
    )


def ruleset_path() -> str:
    """`rulesets/arithmetic.reward` of the working folder, else the one that is installed."""
    here = Path("rulesets/arithmetic.reward")
    return str(here if here.exists() else Path(__file__).with_name("arithmetic.reward"))
