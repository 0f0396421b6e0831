"""A config is read whole or refused in one line."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import tomllib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from grpo_train.bounds import Bound
from grpo_train.config import (
    AdvantageMethod,
    Aggregation,
    AlarmName,
    Config,
    EngineKind,
    KLEstimator,
    Loss,
    LossKind,
    Schedule,
    Section,
    TrackerName,
    build_config,
    config_notes,
    load_config,
)
from grpo_train.config_text import dump_config, starter
from grpo_train.engines.choose import ENGINES
from grpo_train.errors import ConfigError
from grpo_train.objective.advantage import METHODS
from grpo_train.objective.loss import AGGREGATIONS, KL_ESTIMATORS, LOSSES, Clip
from grpo_train.objective.update import SCHEDULES
from grpo_train.run.alarms import CAUSES
from grpo_train.run.trackers import TRACKERS

LEAST: dict[str, Any] = {
    "name": "x",
    "model": "m",
    "data": {"train": "t.jsonl"},
    "reward": {"ruleset": "r.reward"},
}


def refused(tree: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build_config(tree)
    return str(caught.value)


def test_the_least_config_is_enough() -> None:
    assert build_config(LEAST).sampling.group_size == 8


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    config = build_config(LEAST | {"data": {"train": 'a "b".jsonl', "map": {"gold": "a.b"}}})
    path = tmp_path / "config.toml"
    path.write_bytes(dump_config(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"stps": 3}, "unknown key `stps`\nhint: did you mean `steps`?"),
        ({"sampling": {"group_sze": 3}}, "`sampling.group_sze`\nhint: did you mean `group_size`?"),
        ({"sampling": {"group_size": "8"}}, "Expected `int`, got `str` - at `sampling.group_size`"),
        ({"loss": {"kind": "pqo"}}, "Invalid enum value 'pqo' - at `loss.kind`"),
        ({"precision": "fp16"}, "Invalid enum value 'fp16' - at `precision`"),
        ({"precision": "float16"}, "Invalid enum value 'float16' - at `precision`"),
        ({"steps": 0}, "Expected more than 0, got 0 - at `steps`"),
        ({"sampling": {"top_p": 0.0}}, "`sampling.top_p`"),
        ({"loss": {"kind": "gspo"}}, 'hint: aggregation = "sequence"'),
        ({"prompts_per_step": 5, "updates_per_rollout": 2}, "5 prompts do not split"),
        ({"sampling": {"group_size": 1}}, "got 1: an advantage compares a completion with the"),
        ({"optim": {"max_grad_norm": -1.0}}, "Expected at least 0, got -1.0 - at `optim.max_g"),
        (
            {"optim": {"beta2": 1}},
            "Expected at least 0 and less than 1, got 1.0 - at `optim.beta2`",
        ),
        ({"loss": {"clip_dual": 0.5}}, "Expected 0 or more than 1, got 0.5: it would cut the"),
        ({"loss": {"kl_coef": math.nan}}, "Expected a finite number, got nan - at `loss.kl_coef`"),
        ({"sampling": {"temperature": math.inf}}, "Expected a finite number, got inf - at `sampl"),
        ({"reward": {"ruleset": "r", "params": {"k": math.nan}}}, "got nan - at `reward.params.k`"),
        ({"loss": {"mismatch": "mask", "mismatch_low": 3}}, "3 is more than `loss.mismatch_high`"),
        (
            {"alarms": {"stop": ["entropy", "hackin"]}},
            "Invalid enum value 'hackin' - at `alarms.stop`\nhint: did you mean `hacking`? there "
            "is hacking, saturated, entropy, length, signal, mismatch",
        ),
        ({"advantage": {"overlong_tokens": 257}}, "257 tokens are more than `sampling.max_tokens`"),
        (
            {"advantage": {"method": "gdpo", "overlong_tokens": 4}},
            "`gdpo` reads scores, not the reward - at `advantage.overlong_tokens`",
        ),
    ],
)
def test_a_mistake_is_named_with_its_path(change: dict[str, Any], expected: str) -> None:
    assert expected in refused(LEAST | change)


def numbers(kind: type[Section] = Config, path: str = "") -> dict[str, tuple[Any, Bound]]:
    """Type and bound of every number of the config by its path."""
    found: dict[str, tuple[Any, Bound]] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if isinstance(hint, type) and issubclass(hint, Section):
            found |= numbers(hint, f"{path}{name}.")
        elif name == "scores":  # a table of numbers
            found[f"{path}{name}.any"] = get_args(get_args(hint)[1])
        elif hint in (int, float) or (get_args(hint) and get_args(hint)[0] in (int, float)):
            assert get_args(hint), f"`{path}{name}` says nothing of what it may be"
            found[f"{path}{name}"] = get_args(hint)
    return found


def outside(kind: Any, bound: Bound) -> st.SearchStrategy[Any]:
    """Numbers that a bound refuses, drawn from its own ends."""
    low, high = max(bound.least, bound.above), min(bound.most, bound.below)
    drawn = [st.sampled_from([math.nan, math.inf, -math.inf])] if kind is float else []
    for end, sign, closed in ((low, -1, bound.least == low), (high, 1, bound.most == high)):
        if math.isfinite(end):
            gap = st.integers(int(closed), 10**9) if kind is int else st.floats(0, 1e9)
            drawn.append(gap.map(lambda g, e=end, s=sign: kind(e + s * g)))  # type: ignore[misc]
            drawn.append(st.just(kind(end)))

    def refuses(n: Any) -> bool:
        inside = bound.least <= n <= bound.most and bound.above < n < bound.below
        return not (math.isfinite(n) and inside) and not (bound.or_zero and n == 0)

    return st.one_of(drawn).filter(refuses)


def put(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of the tree with a value at a dotted path."""
    key, _, rest = path.partition(".")
    return tree | {key: put(tree.get(key, {}), rest, value) if rest else value}


@pytest.fixture(scope="module")
def least_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_bytes(dump_config(build_config(LEAST)))
    return path


@given(st.sampled_from(sorted(numbers())), st.data())
def test_a_number_that_cannot_be_is_refused_in_one_line(
    least_file: Path, path: str, data: st.DataObject
) -> None:
    """In the file as on the command line, whatever the field: with its place."""
    kind, bound = numbers()[path]
    value = data.draw(outside(kind, bound))
    for message in (
        refused(put(LEAST, path, value)),
        refused_override(least_file, f"{path}={value}"),
    ):
        (line,) = message.splitlines()
        assert line.endswith(f"- at `{path}`") and f"got {value}" in line


def refused_override(file: Path, override: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file, [override])
    return str(caught.value)


CHOICES = {
    "advantage.method": (AdvantageMethod, METHODS),
    "loss.kind": (LossKind, LOSSES),
    "loss.aggregation": (Aggregation, AGGREGATIONS),
    "loss.kl": (KLEstimator, KL_ESTIMATORS),
    "engine.kind": (EngineKind, ENGINES),
    "optim.schedule": (Schedule, SCHEDULES),
    "alarms.stop": (AlarmName, CAUSES),
    "log.to": (TrackerName, TRACKERS),
}


@pytest.mark.parametrize("path", CHOICES)
def test_a_choice_is_what_the_code_can_do(path: str) -> None:
    """The words of the config are the names of the table that they are looked up in."""
    words, table = CHOICES[path]
    assert list(get_args(words)) == list(table)
    section, key = path.split(".")
    field = get_type_hints(get_type_hints(Config)[section])[key]
    assert field == words or words in get_args(field), "the field takes other words"


@pytest.mark.parametrize("path", ["advantage.method", "loss.kind", "engine.kind", "alarms.stop"])
def test_the_page_has_a_row_for_every_choice(path: str) -> None:
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    head = {"advantage.method": "method", "alarms.stop": "alarm"}.get(path, f"`{path}`")
    _, table = page.split(f"\n| {head} |")
    rows = table.split("\n\n")[0].splitlines()[2:]
    found = [re.match(r"\| `(\w+)`", row)[1] for row in rows]  # type: ignore[index]
    assert [name for name in found if name != "auto"] == list(CHOICES[path][1])


def test_every_bound_of_the_trust_region_is_a_setting() -> None:
    """Each field of `Clip` moves with one field of the config."""
    for field in dataclasses.fields(Clip):
        name = field.name if field.name.startswith("tau") else f"clip_{field.name}"
        assert getattr(Clip.of(build_config(LEAST | {"loss": {name: 2.5}}).loss), field.name) == 2.5


def test_gspo_with_the_range_of_ppo_is_told() -> None:
    gspo: dict[str, Any] = {"kind": "gspo", "aggregation": "sequence"}
    (note,) = config_notes(build_config(LEAST | {"loss": gspo}))
    assert "`loss.clip_low`" in note and "3e-4" in note
    own = gspo | {"clip_low": 3e-4, "clip_high": 4e-4}
    assert config_notes(build_config(LEAST | {"loss": own})) == []
    assert config_notes(build_config(LEAST)) == []


def test_a_missing_key_is_named() -> None:
    tree = {key: value for key, value in LEAST.items() if key != "model"}
    assert "`model`" in refused(tree)


def test_overrides_go_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(dump_config(build_config(LEAST)))
    config = load_config(path, ["optim.lr=1e-4", "steps=7", "name=other", "data.map.gold=a.b"])
    assert (config.optim.lr, config.steps, config.name) == (1e-4, 7, "other")
    assert config.data.map == {"gold": "a.b"}
    with pytest.raises(ConfigError, match="not key=value"):
        load_config(path, ["steps"])
    with pytest.raises(ConfigError, match="not a table"):
        load_config(path, ["steps.more=1"])


@pytest.mark.parametrize("text", [b"name = ", b"\xff\xfe", b""])
def test_a_file_that_is_no_config_is_one_error(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError):
        load_config(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "absent.toml")


def test_the_starter_is_a_config_once_it_is_filled_in() -> None:
    text = starter()
    for key in ("name", "model", "train", "ruleset"):
        assert f'\n{key} = ""' in f"\n{text}"
    filled = text.replace('= ""', '= "x"')
    assert build_config(tomllib.loads(filled)) == build_config(
        LEAST | {"name": "x", "model": "x", "data": {"train": "x"}, "reward": {"ruleset": "x"}}
    )
    # Every default that is shown is the default: uncommented, it changes nothing.
    shown = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE).replace('= ""', '= "x"')
    again, plain = tomllib.loads(shown), tomllib.loads(filled)
    assert set(again["loss"]) == {f.name for f in msgspec.structs.fields(Loss)}
    again["data"] |= {"eval": "", "prefix": "", "suffix": ""}
    again["engine"] |= {"folder": ""}
    assert build_config(again) == build_config(plain)


def test_the_page_shows_every_field() -> None:
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    assert f"```toml\n{starter()}```" in page


def test_every_section_is_frozen() -> None:
    config = build_config(LEAST)
    for part in (config, *(getattr(config, f.name) for f in msgspec.structs.fields(Config))):
        if isinstance(part, Section):
            with pytest.raises(AttributeError):
                part.name = "y"  # type: ignore[attr-defined]


def test_every_field_says_what_it_is() -> None:
    """A line of its own above every field of the starter."""
    lines = starter().splitlines()
    for above, line in itertools.pairwise(lines):
        if re.match(r"(# )?\w+ = ", line):
            assert above.startswith("# ") and not re.match(r"# \w+ = ", above), line
