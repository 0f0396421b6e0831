"""A config is read whole or refused in one line."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import ROOT

from grpo_train.config import (
    Config,
    Loss,
    Section,
    build_config,
    dump_config,
    load_config,
    starter,
)
from grpo_train.errors import ConfigError

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
        ({"steps": 0}, "Expected more than 0, got 0 - at `steps`"),
        ({"sampling": {"top_p": 0.0}}, "`sampling.top_p`"),
        ({"loss": {"kind": "gspo"}}, 'hint: aggregation = "sequence"'),
        ({"prompts_per_step": 5, "updates_per_rollout": 2}, "5 prompts do not split"),
    ],
)
def test_a_mistake_is_named_with_its_path(change: dict[str, Any], expected: str) -> None:
    assert expected in refused(LEAST | change)


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
