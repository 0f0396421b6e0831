"""Prompts are read whole or refused with the place; the sampler is its position."""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from grpo_train.config import Data
from grpo_train.data import Sampler, load_prompts, read_rows
from grpo_train.demo import TinyConfig, make_tokenizer
from grpo_train.errors import DataError
from grpo_train.model.policy import Policy


class _Words:
    """A policy as far as prompts go: its tokenizer."""

    def __init__(self) -> None:
        self.tokenizer = make_tokenizer(TinyConfig(), 0)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids


@pytest.fixture(scope="module")
def policy() -> Any:
    return _Words()


def lines(tmp_path: Path, *rows: Any) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_prompts_carry_their_columns(tmp_path: Path, policy: Policy) -> None:
    path = lines(tmp_path, {"prompt": "a", "x": {"y": 3}}, {"prompt": "b"})
    found = load_prompts(path, Data(train=path, map={"gold": "x.y"}, prefix="<think>"), policy)
    columns = found.columns(2)
    assert columns["gold"] == [3, 3, None, None]
    assert columns["prompt"] == ["a<think>", "a<think>", "b<think>", "b<think>"]


def test_parquet_and_jsonl_are_the_same_rows(tmp_path: Path) -> None:
    import pandas as pd

    rows = [{"prompt": "a", "gold": "1"}, {"prompt": "b", "gold": "2"}]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    assert read_rows(str(tmp_path / "rows.parquet")) == read_rows(lines(tmp_path, *rows)) == rows


def test_long_prompts_are_left_out_and_counted(tmp_path: Path, policy: Policy) -> None:
    path = lines(tmp_path, {"prompt": "a"}, {"prompt": "a b c d e f g h"})
    found = load_prompts(path, Data(train=path, max_prompt_tokens=3), policy)
    assert (len(found), found.skipped) == (1, 1)
    with pytest.raises(DataError, match="every prompt"):
        load_prompts(
            lines(tmp_path, {"prompt": "a b c d"}), Data(train="", max_prompt_tokens=1), policy
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "no rows"),
        (b'{"prompt": "a"}\n{"prom', ":2: not JSON"),
        (b'["prompt"]', ":1: a row is an object, not list"),
        (b"\x00\xff\xfe", "not JSON"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, text: bytes, expected: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text)
    with pytest.raises(DataError) as caught:
        read_rows(str(path))
    assert expected in str(caught.value)


def test_a_file_that_is_no_parquet_or_absent(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"nonsense")
    for name in ("x.parquet", "absent.jsonl", "absent.parquet"):
        with pytest.raises(DataError):
            read_rows(str(tmp_path / name))


def test_bad_rows_are_reported_together(tmp_path: Path, policy: Policy) -> None:
    path = lines(tmp_path, {"prompt": "a"}, *[{"prompt": None, "x": i} for i in range(5)])
    with pytest.raises(DataError) as caught:
        load_prompts(path, Data(train=path), policy)
    assert "row 2: no prompt; row 3: no prompt; row 4: no prompt; and 2 more" in str(caught.value)


def test_a_hugging_face_data_set_is_the_same_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": "a", "gold": "1"}, {"prompt": "b", "gold": "2"}]
    found = datasets.Dataset.from_list(rows)
    found.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": found}).save_to_disk(tmp_path / "many")
    assert read_rows(f"hf:{tmp_path}/one") == rows
    assert read_rows(f"hf:{tmp_path}/many::test") == rows
    with pytest.raises(DataError, match="no split `train`, it has `test`"):
        read_rows(f"hf:{tmp_path}/many")
    (tmp_path / "files").mkdir()
    found.to_json(tmp_path / "files" / "train.jsonl")
    assert read_rows(f"hf:{tmp_path}/files") == rows
    with pytest.raises(DataError, match="cannot read"):
        read_rows(f"hf:{tmp_path}/absent")


@pytest.mark.parametrize("row", [{"question": "a"}, {"prompt": ""}, {"prompt": 3}, {"prompt": []}])
def test_a_row_without_a_prompt_is_refused(tmp_path: Path, policy: Policy, row: Any) -> None:
    path = lines(tmp_path, {"prompt": "a"}, row)
    with pytest.raises(DataError, match="row 2"):
        load_prompts(path, Data(train=path), policy)


def test_messages_need_a_template_and_go_through_it(tmp_path: Path) -> None:
    policy: Any = _Words()
    path = lines(tmp_path, {"prompt": [{"role": "user", "content": "hi"}]})
    with pytest.raises(DataError, match="no chat template"):
        load_prompts(path, Data(train=path), policy)
    policy.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert load_prompts(path, Data(train=path), policy).text == ["<user>hi<assistant>"]
    text = lines(tmp_path, {"prompt": "hi"})
    data = Data(train=text, chat=True, suffix=" there", prefix="<think>")
    assert load_prompts(text, data, policy).text == ["<user>hi there<assistant><think>"]


@functools.cache
def _tokenizer() -> Any:
    return make_tokenizer(TinyConfig(), 0)


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="bos-"))


class _Adds:
    """A tokenizer that puts its BOS, or BOS and EOS, before and after a text, or nothing."""

    def __init__(self, single: str, template: str) -> None:
        self.tokenizer = copy.deepcopy(_tokenizer())
        marks = [(word, self.tokenizer.convert_tokens_to_ids(word)) for word in ("<bos>", "<eos>")]
        self.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=single, special_tokens=marks
        )
        self.tokenizer.chat_template = template
        self.eos_ids = (self.tokenizer.eos_token_id,)

    encode = Policy.encode


@given(
    single=st.sampled_from(["$A", "<bos> $A", "<bos> $A <eos>"]),
    written=st.sampled_from(["", "{{ bos_token }}", "{{ bos_token }}\n"]),
    prompt=st.text("ab <>", min_size=1),
    chat=st.booleans(),
    own=st.booleans(),
)
def test_a_prompt_begins_with_one_bos_at_most(
    single: str, written: str, prompt: str, chat: bool, own: bool
) -> None:
    """One where the tokenizer adds it or the text has it, and nothing else is lost."""
    policy: Any = _Adds(single, written + "{% for m in messages %}{{ m.content }}{% endfor %}")
    prompt = "<bos>" * (own and not chat) + prompt
    path = lines(_folder(), {"prompt": prompt})
    found = load_prompts(path, Data(train=path, chat=chat), policy)
    (ids,), (text,), bos = found.ids, found.text, policy.tokenizer.bos_token_id
    adds, has = "<bos>" in single, text.startswith("<bos>")
    assert ids[:2].count(bos) == int(adds or has) == ids.count(bos)
    bare = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [i for i in ids if i != bos] == [i for i in bare if i != bos]


@given(st.integers(1, 20), st.lists(st.integers(0, 9), max_size=8), st.integers(0, 5))
def test_the_sampler_is_its_position(size: int, takes: list[int], seed: int) -> None:
    straight = Sampler(size, seed=seed)
    whole = list(straight.take(sum(takes)))
    cut, position = [], 0
    for count in takes:
        again = Sampler(size, seed=seed, position=position)
        cut += again.take(count)
        position = again.position
    assert cut == whole
    for epoch in range(len(whole) // size):
        assert sorted(whole[epoch * size : (epoch + 1) * size]) == list(range(size))
