"""One frozen tree from TOML; under every field its unit and what 0 means.

    config = load_config(Path("experiments/arithmetic.toml"), ["steps=20", "optim.lr=1e-4"])

Unknown keys and wrong types are one line: Expected `int`, got `str` - at `sampling.group_size`.
"""

from __future__ import annotations

import ast
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
GSPO_CLIP = 0.05  # a hundred times the paper's; PPO's ranges lie above
Precision = Literal["auto", "bfloat16", "float32"]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file. Values do not change once they are read."""


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
    """Text put after every text prompt: how to give the answer, say. "" = none."""
    prefix: str = ""
    """Text that opens every completion, after the template: "<think>", say. "" = none."""
    map: dict[str, str] = {}
    """The ruleset's column = the file's, a dotted path into nested fields: `gold = "a.b"`."""
    max_prompt_tokens: CountOrNone = 0
    """Longer prompts are left out, and counted. 0 = no limit."""


class Reward(Section, frozen=True):
    """The ruleset and what it is given."""

    ruleset: str
    """A `.reward` file."""
    params: dict[str, str | int | float | bool] = {}
    """Values for the ruleset's params."""
    allow_extern: bool = False
    """Run the Python functions that the ruleset's `extern` names; modules beside it are found."""


class SamplingConfig(Section, frozen=True):
    """How completions are drawn."""

    group_size: GroupSize = 8
    """Completions a prompt (G)."""
    max_tokens: Count = 256
    """Longest completion, tokens."""
    temperature: Positive = 1.0
    """> 0; the trainer's logprobs are taken at the same temperature."""
    top_p: PositiveShare = 1.0
    """Nucleus; 1 = all. The trainer renormalises over what was kept."""
    top_k: CountOrNone = 0
    """Most likely tokens to keep; 0 = all."""
    max_rows: Count = 512
    """Completions decoded at the same time; more wait in a queue. Bounds the KV cache."""


class EngineConfig(Section, frozen=True):
    """What samples completions."""

    kind: EngineKind | Literal["auto"] = "native"
    """`native` samples from the weights that train, and repeats a run bit for bit; `transformers`
    is its continuous batching; `vllm` and `server` (a vLLM server) have weights of their own, which
    are handed over after every update; `auto` is vLLM where it is there on CUDA, else native."""
    url: str = "http://localhost:8000"
    """Address of the vLLM server, for `server`."""
    folder: str = ""
    """Where `server` finds new weights, on a disk that it sees; "" = the run's folder."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of the weights that `vllm` samples from."""
    memory: PositiveShare = 0.4
    """Share of the GPU's memory that `vllm` takes."""
    sleep: bool = False
    """`vllm` gives its memory back while the policy is updated; CUDA only."""


class Advantage(Section, frozen=True):
    """reward → advantage (grpo_train/objective/advantage.py has the papers)."""

    method: AdvantageMethod = "grpo"
    """`grpo` is the group z-score with ddof 1."""
    k: Count = 4
    """For `pass_at_k`: completions that share one success."""
    scores: dict[str, Finite] = {}
    """For `gdpo`: weights of the scores that replace the reward; {} = all of them, 1 each."""
    overlong_tokens: CountOrNone = 0
    """Soft penalty over the last tokens before `max_tokens` (DAPO Eq. 13), added to the reward;
    0 = none."""


class Loss(Section, frozen=True):
    """advantage → objective (grpo_train/objective/loss.py has the papers)."""

    kind: LossKind = "ppo"
    """`ppo` is the clipped surrogate of GRPO, Dr. GRPO and DAPO."""
    aggregation: Aggregation = "token"
    """What weighs the same in a step's loss: every token (DAPO), every completion (GRPO), every
    prompt, or a token whatever its completion's length (`constant`, Dr. GRPO)."""
    clip_low: NotNegative = 0.2
    """Lower clip, 1 − clip_low."""
    clip_high: NotNegative = 0.28
    """Upper clip, 1 + clip_high (DAPO's clip-higher)."""
    clip_dual: DualClip = 0.0
    """Bound of the loss where the advantage is negative, in |A|; 0 = none."""
    clip_cap: Positive = 5.0
    """CISPO's largest importance weight, absolute."""
    tau_pos: Positive = 1.0
    """SAPO's temperature τ where the advantage is positive; a higher one closes the gate sooner."""
    tau_neg: Positive = 1.05
    """The same where it is negative; the paper takes a higher one, because these gradients are the
    less stable ones."""
    kl_coef: NotNegative = 0.0
    """Weight of the KL to the frozen start; 0 = no reference, no second forward."""
    kl: KLEstimator = "k3"
    """Estimator of the KL."""
    kl_weighted: bool = True
    """Multiply the KL by the ratio, which gives k1 and k3 the gradient of the reverse KL."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL goes: a term of the loss, or k1 summed over the completion and taken off its
    reward."""
    entropy_coef: Finite = 0.0
    """Weight of the entropy bonus; 0 = none."""
    top_entropy: PositiveShare = 1.0
    """Share of tokens, the most uncertain, that get a gradient (2506.01939); 1 = all."""
    off_policy_delta: NotNegative = 0.0
    """Mean log-ratio past which a row with negative advantage is dropped (2512.02556); 0 = off."""
    mask_truncated: bool = False
    """Leave out completions that the length limit cut (DAPO's overlong filtering)."""
    mismatch: Literal["auto", "off", "truncate", "mask"] = "auto"
    """Correct for an engine that is not the trainer; `auto` truncates where the engine has weights
    of its own, which costs a forward pass, and is off where it has not."""
    mismatch_level: MismatchLevel = "token"
    """What the correction's ratio is of: a token, a whole completion, or its geometric mean."""
    mismatch_low: NotNegative = 0.5
    """Lower bound, for `mask`."""
    mismatch_high: Positive = 2.0
    """Upper bound: a cap for `truncate`."""


class Optim(Section, frozen=True):
    """AdamW (1711.05101)."""

    kind: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw_8bit` keeps its moments in 8 bits (2110.02861) through bitsandbytes; one process."""

    lr: Positive = 1e-6
    """Peak learning rate; > 0."""
    warmup_steps: CountOrNone = 0
    """Steps of linear warm-up; 0 = none."""
    schedule: Schedule = "constant"
    """What follows the warm-up, down to 0 at the last step."""
    weight_decay: NotNegative = 0.0
    """Decoupled; 0 = none."""
    beta1: Decay = 0.9
    """Decay of the gradient's running mean, a step."""
    beta2: Decay = 0.99
    """Decay of its square's mean; lower than the usual 0.999, as steps are few and noisy."""
    eps: Positive = 1e-8
    """Added to the root of the square's mean."""
    max_grad_norm: NotNegative = 1.0
    """Clip; 0 = none."""


class Lora(Section, frozen=True):
    """Low-rank adapters (2106.09685), through peft."""

    rank: CountOrNone = 0
    """Rank of every adapter; 0 = no adapters, all weights train."""
    alpha: Positive = 32.0
    """An adapter's product is scaled by alpha / rank; > 0."""
    targets: list[str] = []
    """Ends of names of the layers to adapt: "q_proj", say; [] = all linear ones but the head."""


class Eval(Section, frozen=True):
    """Held-out accuracy."""

    every: CountOrNone = 0
    """Steps between evaluations; 0 = at the start and the end only."""
    samples: Count = 1
    """Completions a prompt."""
    limit: CountOrNone = 256
    """Prompts at most; 0 = all."""
    temperature: Positive = 1.0
    """Temperature of the completions; > 0."""
    score: str = "correct"
    """The ruleset's score that says whether a completion is right."""


class Save(Section, frozen=True):
    """Checkpoints."""

    every: CountOrNone = 50
    """Steps between checkpoints; 0 = at the end only."""
    keep: CountOrNone = 2
    """Checkpoints kept, the newest; 0 = all."""


class Alarms(Section, frozen=True):
    """When a run says that something goes wrong (grpo_train/run/alarms.py)."""

    window: Window = 10
    """Rollout batches that are compared with as many earlier ones."""
    entropy: NotNegative = 0.02
    """Entropy below which it has collapsed, nats a token; 0 = never."""
    length: Positive = 3.0
    """Mean length that is a blow-up, in mean lengths of the first window."""
    truncated: Share = 0.5
    """Share of completions cut at `sampling.max_tokens`; 1 = never."""
    signal: Share = 0.05
    """Share of groups with unequal rewards below which they are too few; 0 = never."""
    mismatch: NotNegative = 0.05
    """Mean difference of engine and trainer, nats a token."""
    stop: list[AlarmName] = []
    """Alarms that stop the run with a checkpoint: "hacking", say. A gradient that is not finite
    always does."""


class Log(Section, frozen=True):
    """Where metrics go besides the run's folder, each through its own package."""

    to: list[TrackerName] = []
    """[] = nowhere else."""
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
    """Seed of the order of prompts and of every completion."""
    steps: Count = 100
    """Optimizer updates."""
    prompts_per_step: Count = 16
    """P; a rollout batch has P · group_size completions."""
    updates_per_rollout: Count = 1
    """Updates from one rollout batch: its prompts in that many parts. 1 = on policy."""
    epochs_per_rollout: Count = 1
    """Passes over a rollout batch (μ of the paper)."""
    token_budget: Count = 16384
    """Tokens of a micro-batch, padding included. Changes memory and speed, not the gradient."""
    resample: CountOrNone = 0
    """Times that groups without signal are replaced by new prompts in a step (DAPO's dynamic
    sampling); 0 = never."""
    threads: CountOrNone = 0
    """CPU threads; 0 = torch's choice."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    precision: Precision = "auto"
    """What products are made in; weights, moments, sums and logits are float32 in any case.
    `auto`: bfloat16 on a GPU that has it, else float32. A CPU with instructions for bfloat16 trains
    faster with it."""
    shard_size: CountOrNone = 0
    """Under torchrun, processes that share one copy of weights, gradients and moments (FSDP2); a
    divisor of their number. 0 = all of them, 1 = a copy each."""
    checkpointing: Literal["auto", "on", "off"] = "auto"
    """Recompute activations in the backward pass: less memory, a third more time. `auto`: where the
    memory plan says that they would not fit."""
    offload: bool = False
    """Keep activations in the host's memory until the backward pass: less memory on the GPU, time
    for the copies."""
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
    """The config of a TOML file with `key=value` put over it; `key` is a dotted path."""
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


def dump_config(config: Config) -> bytes:
    """The resolved config as TOML is read back by `load_config`; every field is written."""
    return _toml(msgspec.to_builtins(config)).encode()


def flat_config(config: Config) -> dict[str, Any]:
    """Every field by its dotted path."""
    found: dict[str, Any] = {}

    def walk(tree: dict[str, Any], path: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                walk(value, f"{path}{key}.")
            else:
                found[f"{path}{key}"] = value

    walk(msgspec.to_builtins(config), "")
    return found


def starter() -> str:
    """A commented config: every field with its default; what must be filled in comes first.

    The comments are the fields' own docstrings, read from this file.
    """
    text = Path(__file__).read_text(encoding="utf-8")
    sections = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    parts = [_starter_fields(sections["Config"])]
    for field in msgspec.structs.fields(Config):
        if isinstance(field.type, type) and issubclass(field.type, Section):
            node = sections[field.type.__name__]
            head = ast.get_docstring(node) or ""
            parts.append(f"[{field.name}]  # {head}\n{_starter_fields(node)}")
    return "\n".join(parts)


def _starter_fields(node: ast.ClassDef) -> str:
    """The plain fields of a section; one that has a default is commented out."""
    lines: list[str] = []
    for item, following in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if isinstance(item.value, ast.Call) or item.target.id in ("data", "reward"):
            continue  # a section: it has a table of its own
        said = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            said = " ".join(str(following.value.value).split())
        default = None if item.value is None else ast.literal_eval(item.value)
        value = "{}" if default == {} else '""' if default is None else _value(default)
        lines += [f"# {said}"] if said else []
        lines.append(f"{'' if default is None else '# '}{item.target.id} = {value}")
    return "\n".join(lines) + "\n"


def _check_keys(kind: type[Section], tree: dict[str, Any], path: str, source: str) -> None:
    """The first unknown key, with the nearest that exists; msgspec would not suggest one."""
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
    """Ranges, and settings that contradict each other."""
    for path, value, bound in _numbers(config):
        if problem := bound.problem(value):
            raise ConfigError(f"{source}: {problem} - at `{path}`")
    for problem, path, hint in _contradictions(config):
        raise ConfigError(f"{source}: {problem} - at `{path}`" + (hint and f"\nhint: {hint}"))


def _numbers(section: Section, path: str = "") -> Iterator[tuple[str, float, Bound]]:
    """Every number with its dotted path and what it may be; those of the ruleset's params too."""
    for name, hint in get_type_hints(type(section), include_extras=True).items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _numbers(value, f"{path}{name}.")
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, number in inner:
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield f"{path}{name}" + (key and f".{key}"), number, bound_of(hint)


def _contradictions(config: Config) -> Iterator[tuple[str, str, str]]:
    """Problem, path and hint of settings that are sound alone and not together."""
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
    """Settings that can be meant and seldom are."""
    loss = config.loss
    if loss.kind == "gspo" and max(loss.clip_low, loss.clip_high) > GSPO_CLIP:
        return [
            f"`gspo` hardly ever clips at {loss.clip_low:g} and {loss.clip_high:g}, which are for "
            "the ratio of one token; its own is a completion's mean, and its paper takes 3e-4 and "
            "4e-4 - at `loss.clip_low` and `loss.clip_high`"
        ]
    return []


def _put(tree: dict[str, Any], override: str) -> None:
    """Apply one `a.b=value`: the value as TOML, else as text."""
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


def _toml(tree: dict[str, Any], path: str = "") -> str:
    """Plain values first, then one table a dict."""
    lines = [f"{k} = {_value(v)}" for k, v in tree.items() if not isinstance(v, dict)]
    for key, value in tree.items():
        if isinstance(value, dict):
            lines.append(f"\n[{path}{key}]\n{_toml(value, f'{path}{key}.')}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """JSON's strings, numbers and booleans are TOML's."""
    return msgspec.json.encode(value).decode()
