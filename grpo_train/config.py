"""The config of a run: one frozen tree, read from TOML.

Below every field stand its unit and what 0 means.

    config = load_config(Path("experiments/arithmetic.toml"), ["steps=20", "optim.lr=1e-4"])

A mistake is one line with its place: Expected `int`, got `str` - at `sampling.group_size`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec

from grpo_train.bounds import (
    Bound,
    Count,
    CountOrNone,
    Decay,
    DualClip,
    Finite,
    GroupSize,
    NotNegative,
    Positive,
    PositiveShare,
    Seed,
    Share,
    Window,
    bound_of,
    choice_problem,
)
from grpo_train.errors import ConfigError

# The words that choose. Each is a key of the table named beside it; a test holds them equal.
AdvantageMethod = Literal[  # objective/advantage.py: METHODS
    "grpo", "dr_grpo", "rloo", "batch_std", "reinforce", "maxrl", "opo", "pass_at_k", "gdpo"
]
LossKind = Literal["ppo", "gspo", "gmpo", "cispo", "sapo"]  # objective/loss.py: LOSSES
Aggregation = Literal["token", "sequence", "constant", "prompt"]  # loss.py: AGGREGATIONS
KLEstimator = Literal["k1", "k2", "k3"]  # loss.py: KL_ESTIMATORS
MismatchLevel = Literal["token", "sequence", "geometric"]  # loss.py: mismatch_weight
EngineKind = Literal["native", "transformers", "vllm", "server"]  # engines/choose.py: ENGINES
Schedule = Literal["constant", "linear", "cosine"]  # objective/update.py: SCHEDULES
TrackerName = Literal["tensorboard", "wandb", "trackio"]  # run/trackers.py: TRACKERS
AlarmName = Literal[  # run/alarms.py: CAUSES
    "hacking", "saturated", "entropy", "length", "signal", "mismatch"
]
GSPO_CLIP = 0.05  # a hundred times what GSPO's paper takes; the usual ranges of PPO lie above
Precision = Literal["auto", "bfloat16", "float32"]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the tables of the file: unknown keys are refused, and values never change."""


class Data(Section, frozen=True):
    """Prompts, and the columns that the ruleset reads."""

    train: str
    """JSONL or Parquet file of prompts, or a Hugging Face data set (hub or folder):
    "hf:openai/gsm8k:main:train"."""
    eval: str = ""
    """Held-out prompts; "" = no evaluation."""
    prompt: str = "prompt"
    """Column of the prompt: text, or a list of chat messages for the model's template."""
    chat: bool = False
    """Make a text prompt one user message and put it through the model's template."""
    suffix: str = ""
    """Text put after every text prompt, such as how to give the answer. "" = none."""
    prefix: str = ""
    """Text that opens every completion, after the template, such as "<think>". "" = none."""
    map: dict[str, str] = {}
    """The file's column for an input of the ruleset; a dotted path leads into nested fields:
    `gold = "a.b"`."""
    max_prompt_tokens: CountOrNone = 0
    """Longest prompt, tokens; longer ones are left out and counted. 0 = no limit."""


class Reward(Section, frozen=True):
    """The ruleset and its params."""

    ruleset: str
    """A `.reward` file."""
    params: dict[str, str | int | float | bool] = {}
    """Values for the ruleset's params."""
    allow_extern: bool = False
    """Allow the Python functions that the ruleset's `extern` names; modules beside it are found."""


class SamplingConfig(Section, frozen=True):
    """How completions are drawn."""

    group_size: GroupSize = 8
    """Completions of each prompt (G)."""
    max_tokens: Count = 256
    """Longest completion, tokens."""
    temperature: Positive = 1.0
    """Temperature of sampling and of the trainer's logprobs; > 0."""
    top_p: PositiveShare = 1.0
    """Probability mass of the most likely tokens that are kept (nucleus sampling); 1 = all. The
    trainer's logprobs are renormalised over what was kept."""
    top_k: CountOrNone = 0
    """Number of the most likely tokens that are kept; 0 = all."""
    max_rows: Count = 512
    """Completions decoded at the same time; others wait in a queue. Bounds the KV cache."""


class EngineConfig(Section, frozen=True):
    """The engine, which samples completions."""

    kind: EngineKind | Literal["auto"] = "native"
    """`native` samples from the weights that train, and repeats a run bit for bit; `transformers`
    is its continuous batching; `vllm` and `server` (a vLLM server) have weights of their own, which
    are handed over after every update; `auto` is vLLM on CUDA where it is installed, else
    native."""
    url: str = "http://localhost:8000"
    """For `server`: address of the vLLM server."""
    folder: str = ""
    """For `server`: folder for new weights, on a disk that it sees; "" = the run's folder."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """For `vllm`: dtype of the weights that it samples from."""
    memory: PositiveShare = 0.4
    """For `vllm`: share of the GPU's memory that it takes."""
    sleep: bool = False
    """For `vllm`: give its memory back while the policy is updated; CUDA only."""


class Advantage(Section, frozen=True):
    """reward → advantage (grpo_train/objective/advantage.py has the papers)."""

    method: AdvantageMethod = "grpo"
    """How a reward is compared with its group; `grpo` is the z-score with ddof 1."""
    k: Count = 4
    """For `pass_at_k`: number of attempts of which one has to succeed."""
    scores: dict[str, Finite] = {}
    """For `gdpo`: weights of the scores that replace the reward; {} = all scores, with weight 1."""
    overlong_tokens: CountOrNone = 0
    """Tokens before `max_tokens` over which a penalty for length grows from 0 to −1, added to the
    reward (DAPO Eq. 13); 0 = no penalty."""


class Loss(Section, frozen=True):
    """advantage → objective (grpo_train/objective/loss.py has the papers)."""

    kind: LossKind = "ppo"
    """The loss of a token; `ppo` is the clipped surrogate of GRPO, Dr. GRPO and DAPO."""
    aggregation: Aggregation = "token"
    """Weight of a token in a step's loss. `token`: every token weighs the same (DAPO); `sequence`:
    every completion does (GRPO); `prompt`: every prompt does; `constant`: every token does, divided
    by `max_tokens` and not by the tokens there are (Dr. GRPO)."""
    clip_low: NotNegative = 0.2
    """The ratio is clipped below 1 − clip_low."""
    clip_high: NotNegative = 0.28
    """The ratio is clipped above 1 + clip_high (DAPO's clip-higher)."""
    clip_dual: DualClip = 0.0
    """Largest loss where the advantage is negative, in multiples of |A|; 0 = no bound."""
    clip_cap: Positive = 5.0
    """For `cispo`: largest importance weight, an absolute value."""
    tau_pos: Positive = 1.0
    """For `sapo`: temperature τ where the advantage is positive; a higher one closes the gate
    nearer to a ratio of 1."""
    tau_neg: Positive = 1.05
    """For `sapo`: temperature τ where the advantage is negative. The paper takes a higher one here,
    because these gradients are less stable."""
    kl_coef: NotNegative = 0.0
    """Weight of the KL to the frozen start; 0 = no reference and no forward pass for it."""
    kl: KLEstimator = "k3"
    """Estimator of the KL, by Schulman's names."""
    kl_weighted: bool = True
    """Multiply the KL by the ratio, which gives k1 and k3 the gradient of the reverse KL."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL goes: a term of the loss, or k1 summed over the completion and subtracted from
    its reward."""
    entropy_coef: Finite = 0.0
    """Weight of the entropy bonus; 0 = none."""
    top_entropy: PositiveShare = 1.0
    """Share of tokens that get a gradient, those of highest entropy (2506.01939); 1 = all."""
    off_policy_delta: NotNegative = 0.0
    """Mean log-ratio past which a row with negative advantage is dropped (2512.02556); 0 = off."""
    mask_truncated: bool = False
    """Leave out completions that were cut at `max_tokens` (DAPO's overlong filtering)."""
    mismatch: Literal["auto", "off", "truncate", "mask"] = "auto"
    """Correction for an engine whose logprobs are not the trainer's, at the cost of a forward pass:
    importance weights, cut at `mismatch_high` or masked out of bounds. `auto` truncates where the
    engine has weights of its own, and else is off."""
    mismatch_level: MismatchLevel = "token"
    """Ratio that the correction weighs by: a token's, the whole completion's, or the geometric mean
    of the completion's tokens."""
    mismatch_low: NotNegative = 0.5
    """For `mask`: smallest ratio that is kept."""
    mismatch_high: Positive = 2.0
    """Largest ratio that `mask` keeps; for `truncate` the cap."""


class Optim(Section, frozen=True):
    """The optimizer, AdamW (1711.05101)."""

    kind: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw_8bit` keeps its moments in 8 bits (2110.02861) through bitsandbytes; one process."""
    lr: Positive = 1e-6
    """Peak learning rate; > 0."""
    warmup_steps: CountOrNone = 0
    """Steps of linear warm-up; 0 = none."""
    schedule: Schedule = "constant"
    """Learning rate after the warm-up: `linear` and `cosine` fall to 0 at the last step."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay; 0 = none."""
    beta1: Decay = 0.9
    """Decay of the gradient's running mean per step."""
    beta2: Decay = 0.99
    """Decay of the squared gradient's running mean per step; lower than the usual 0.999, because
    steps are few and noisy."""
    eps: Positive = 1e-8
    """Added to the root of the squared gradient's mean, against division by 0."""
    max_grad_norm: NotNegative = 1.0
    """Largest norm of the gradient; a larger one is scaled down to it. 0 = no limit."""


class Lora(Section, frozen=True):
    """Low-rank adapters (2106.09685), through peft."""

    rank: CountOrNone = 0
    """Rank of every adapter; 0 = no adapters, all weights train."""
    alpha: Positive = 32.0
    """The adapters' products are scaled by alpha / rank; > 0."""
    targets: list[str] = []
    """Layers to adapt, by the ends of their names, such as "q_proj"; [] = all linear layers but the
    head."""


class Eval(Section, frozen=True):
    """Held-out accuracy."""

    every: CountOrNone = 0
    """Steps between evaluations; 0 = at the start and the end only."""
    samples: Count = 1
    """Completions of each prompt."""
    limit: CountOrNone = 256
    """Number of prompts at most; 0 = all."""
    temperature: Positive = 1.0
    """Temperature of the completions; > 0."""
    score: str = "correct"
    """The ruleset's score that says whether a completion is right."""


class Save(Section, frozen=True):
    """Checkpoints."""

    every: CountOrNone = 50
    """Steps between checkpoints; 0 = at the end only."""
    keep: CountOrNone = 2
    """Number of newest checkpoints that are kept; 0 = all."""


class Alarms(Section, frozen=True):
    """Alarms about training that goes wrong (grpo_train/run/alarms.py)."""

    window: Window = 10
    """Number of rollout batches that are compared with as many earlier ones."""
    entropy: NotNegative = 0.02
    """Entropy in nats per token below which the policy has collapsed; 0 = never."""
    length: Positive = 3.0
    """Mean length that is too long, in multiples of the first window's mean length."""
    truncated: Share = 0.5
    """Share of completions cut at `sampling.max_tokens` that is too large; 1 = never."""
    signal: Share = 0.05
    """Share of groups with unequal rewards that is too small; 0 = never."""
    mismatch: NotNegative = 0.05
    """Mean difference of the engine's and the trainer's logprobs, nats per token, that is too
    large."""
    stop: list[AlarmName] = []
    """Alarms that stop the run with a checkpoint, such as "hacking". A gradient that is not finite
    always does."""


class Log(Section, frozen=True):
    """Where metrics are sent besides the run's folder, each through its own package."""

    to: list[TrackerName] = []
    """Trackers that get the metrics; [] = none."""
    project: str = "grpo-rewards"
    """Project under which wandb and trackio list the run."""


class Config(Section, frozen=True):
    """A whole run."""

    name: str
    """Name of the run, and of its folder."""
    model: str
    """Directory or hub id of a causal language model."""
    data: Data
    reward: Reward
    runs: str = "runs"
    """Folder of run folders."""
    seed: Seed = 0
    """Seed of the order of prompts and of all completions."""
    steps: Count = 100
    """Optimizer updates."""
    prompts_per_step: Count = 16
    """Prompts of a rollout batch (P), which has P · group_size completions."""
    updates_per_rollout: Count = 1
    """Updates from one rollout batch, whose prompts are split into so many parts; 1 = on policy."""
    epochs_per_rollout: Count = 1
    """Passes over a rollout batch (μ of the paper)."""
    token_budget: Count = 16384
    """Tokens of a micro-batch, padding included. It changes memory and speed, not the gradient."""
    resample: CountOrNone = 0
    """How often in a step groups with equal rewards are replaced by new prompts (DAPO's dynamic
    sampling); 0 = never."""
    threads: CountOrNone = 0
    """CPU threads; 0 = torch's choice."""
    device: str = "auto"
    """Device of the policy: `auto`, `cpu` or `cuda`."""
    precision: Precision = "auto"
    """Dtype of matrix products; weights, moments, sums and logits are float32 in any case. `auto`:
    bfloat16 on a GPU that supports it, else float32. A CPU with instructions for bfloat16 trains
    faster with it."""
    shard_size: CountOrNone = 0
    """Under torchrun, processes that share one copy of weights, gradients and moments (FSDP2); a
    divisor of their number. 0 = all of them, 1 = a copy each."""
    checkpointing: Literal["auto", "on", "off"] = "auto"
    """Recompute activations in the backward pass, which takes less memory and a third more time.
    `auto`: only where the memory plan says that they would not fit."""
    offload: bool = False
    """Keep activations in the host's memory until the backward pass, which takes less memory on the
    GPU and time for the copies."""
    sampling: SamplingConfig = SamplingConfig()
    engine: EngineConfig = EngineConfig()
    advantage: Advantage = Advantage()
    loss: Loss = Loss()
    optim: Optim = Optim()
    lora: Lora = Lora()
    eval: Eval = Eval()
    save: Save = Save()
    alarms: Alarms = Alarms()
    log: Log = Log()


def load_config(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """The config of a TOML file, changed by `key=value` overrides; `key` is a dotted path."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read `{path}`: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    for override in overrides:
        _put(tree, override)
    return build_config(tree, source=str(path))


def build_config(tree: dict[str, Any], *, source: str = "config") -> Config:
    """The config of a tree of plain values; raises ConfigError with one line and a hint.

    >>> build_config({"name": "x", "model": "m", "stps": 3})
    Traceback (most recent call last):
    ...
    grpo_train.errors.ConfigError: config: unknown key `stps`
    hint: did you mean `steps`?
    """
    _check_keys(Config, tree, "", source)
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {str(error).replace('$.', '')}") from error
    _check_values(config, source)
    return config


def _check_keys(kind: type[Section], tree: dict[str, Any], path: str, source: str) -> None:
    """Refuse the first unknown key and name the nearest known one, as msgspec does not."""
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in tree.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there is {', '.join(fields)}"
            raise ConfigError(f"{source}: unknown key `{path}{key}`\nhint: {hint}")
        section = fields[key]
        if isinstance(section, type) and issubclass(section, Section) and isinstance(value, dict):
            _check_keys(section, value, f"{path}{key}.", source)
        if wrong := choice_problem(section, value):
            raise ConfigError(f"{source}: {wrong[0]} - at `{path}{key}`\nhint: {wrong[1]}")


def _check_values(config: Config, source: str) -> None:
    """Refuse numbers out of their range, and settings that contradict each other."""
    for path, value, bound in _numbers(config):
        if problem := bound.problem(value):
            raise ConfigError(f"{source}: {problem} - at `{path}`")
    for problem, path, hint in _contradictions(config):
        raise ConfigError(f"{source}: {problem} - at `{path}`" + (hint and f"\nhint: {hint}"))


def _numbers(section: Section, path: str = "") -> Iterator[tuple[str, float, Bound]]:
    """Dotted path, value and bound of every number, those of the ruleset's params included."""
    for name, hint in get_type_hints(type(section), include_extras=True).items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _numbers(value, f"{path}{name}.")
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, number in inner:
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield f"{path}{name}" + (key and f".{key}"), number, bound_of(hint)


def _contradictions(config: Config) -> Iterator[tuple[str, str, str]]:
    """Problem, path and hint of settings that are valid alone but not together."""
    a, loss, sampling = config.advantage, config.loss, config.sampling
    if a.method == "gdpo" and loss.kl_in == "reward":
        yield "`gdpo` reads scores, not the reward", "loss.kl_in", 'kl_in = "loss"'
    if a.method == "gdpo" and a.overlong_tokens:
        hint = "score the length in the ruleset (`n_tokens`), or set it to 0"
        yield "`gdpo` reads scores, not the reward", "advantage.overlong_tokens", hint
    if a.overlong_tokens > sampling.max_tokens:
        problem = f"{a.overlong_tokens} tokens are more than `sampling.max_tokens`"
        hint = f"{sampling.max_tokens} at most; DAPO takes a fifth"
        yield f"{problem}, {sampling.max_tokens}", "advantage.overlong_tokens", hint
    if loss.mismatch == "mask" and loss.mismatch_low > loss.mismatch_high:
        problem = f"{loss.mismatch_low:g} is more than `loss.mismatch_high`"
        yield f"{problem}, {loss.mismatch_high:g}", "loss.mismatch_low", ""
    if loss.kind in ("gspo", "gmpo") and loss.aggregation == "token":
        problem = f"`{loss.kind}` weighs sequences; a token mean would weigh them by length"
        yield problem, "loss.aggregation", 'aggregation = "sequence"'
    if config.prompts_per_step % config.updates_per_rollout:
        problem = f"{config.prompts_per_step} prompts do not split into"
        yield f"{problem} {config.updates_per_rollout} updates", "updates_per_rollout", ""


def config_notes(config: Config) -> list[str]:
    """Remarks on settings that are allowed but rarely meant."""
    loss = config.loss
    if loss.kind == "gspo" and max(loss.clip_low, loss.clip_high) > GSPO_CLIP:
        return [
            f"`gspo` hardly ever clips at {loss.clip_low:g} and {loss.clip_high:g}, which are for "
            "the ratio of one token; its own is a completion's mean, and its paper takes 3e-4 and "
            "4e-4 - at `loss.clip_low` and `loss.clip_high`"
        ]
    return []


def _put(tree: dict[str, Any], override: str) -> None:
    """Put one `a.b=value` into the tree in place; the value is read as TOML, else as text."""
    path, sign, text = override.partition("=")
    if not sign or not path:
        raise ConfigError(f"`{override}` is not key=value\nhint: optim.lr=1e-5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, key = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"`{path}`: `{parent}` is not a table")
    tree[key] = value
