"""Laws of the F1 of JSON fields, with scikit-learn's definition worked out by hand as oracle."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import any_text

from grpo_rewards.columns import Status
from grpo_rewards.limits import MAX_JSON_CHARS, MAX_JSON_FIELDS
from grpo_rewards.rules.format.matching import compile_json
from grpo_rewards.rules.json_fields import f1, text_of

leaves = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=3))
records = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=12,
)


def listed(value: Any, path: str = "$") -> list[str]:
    """Every leaf as `path=JSON`, recursively."""
    if isinstance(value, dict) and value:
        return [x for k, v in value.items() for x in listed(v, f"{path}.{json.dumps(k)}")]
    if isinstance(value, list) and value:
        return [x for v in value for x in listed(v, f"{path}[]")]
    return [f"{path}={json.dumps(value)}"]


def oracle(one: Any, other: Any) -> float:
    a, b = listed(one), listed(other)
    left, shared = list(b), 0
    for item in a:
        if item in left:
            left.remove(item)
            shared += 1
    precision, recall = shared / len(a), shared / len(b)
    return 2 * precision * recall / (precision + recall) if shared else 0.0


@given(records, records)
def test_it_is_the_harmonic_mean_of_precision_and_recall(one: Any, other: Any) -> None:
    found = f1(json.dumps(one), json.dumps(other))
    assert found.status == Status.OK
    assert abs(found.value - oracle(one, other)) < 1e-12


@given(records, records)
def test_it_is_symmetric_and_one_only_for_equal_records(one: Any, other: Any) -> None:
    a, b = json.dumps(one), json.dumps(other)
    assert f1(a, b) == f1(b, a)
    assert (f1(a, b).value == 1) == (sorted(listed(one)) == sorted(listed(other)))


@given(records)
def test_spacing_and_order_of_keys_do_not_matter(record: Any) -> None:
    spaced = json.dumps(record, indent=3, sort_keys=True)
    assert f1(spaced, json.dumps(record)).value == 1
    assert f1(spaced, record).value == 1 if not isinstance(record, str) else True


@given(any_text)
def test_a_text_that_is_no_json_earns_nothing(text: str) -> None:
    found = f1(text, '{"a": 1}')
    assert 0 <= found.value <= 1
    try:
        json.loads(text)
    except ValueError:
        assert found == (0.0, Status.UNPARSED)


def test_values_keep_their_kind() -> None:
    assert f1("[1]", "[1.0]").value == 1
    for other in ("[true]", '["1"]', "[null]", "[[]]", "[{}]"):
        assert f1("[1]", other).value == 0
    assert f1("[[]]", "[{}]").value == 0


def test_a_gold_that_is_no_json_is_null() -> None:
    assert f1("{}", "see figure") == (None, Status.UNPARSED)


def test_a_text_or_a_gold_with_a_key_twice_is_no_json() -> None:
    for twice in ('{"a": 1, "a": 1}', '[{"b": {"a": 1, "\\u0061": 2}}]'):
        assert f1(twice, '{"a": 1}') == (0.0, Status.UNPARSED)
        assert f1('{"a": 1}', twice) == (None, Status.UNPARSED)
        assert text_of(twice) == (None, Status.UNPARSED)


def spelled(draw: Any, key: str) -> str:
    """A key as JSON may spell it, each character plain or escaped."""
    plain = [json.dumps(char, ensure_ascii=draw(st.booleans()))[1:-1] for char in key]
    escaped = [f"\\u{ord(char):04{draw(st.sampled_from('xX'))}}" for char in key]
    both = zip(plain, escaped, strict=True)
    return f'"{"".join(pair[draw(st.booleans())] for pair in both)}"'


@st.composite
def objects(draw: Any, twice: bool) -> str:
    """JSON with an object inside lists and objects, which has one of its keys twice or does not."""
    keys = draw(
        st.lists(st.text("ab\u00e9\u4e2d", max_size=3), min_size=1, max_size=4, unique=True)
    )
    if twice:
        keys = draw(st.permutations([*keys, draw(st.sampled_from(keys))]))
    members = [f"{spelled(draw, key)}: {json.dumps(draw(records))}" for key in keys]
    text = "{" + ", ".join(members) + "}"
    around = st.sampled_from([("[1, ", ', "a"]'), ('{"a": ', ', "b": {}}')])
    for before, behind in draw(st.lists(around, max_size=3)):
        text = before + text + behind
    return text


ANYTHING = compile_json("anything", "{}")


@given(st.data(), st.booleans())
def test_an_object_fits_a_format_only_if_no_key_stands_twice(data: Any, twice: bool) -> None:
    text = data.draw(objects(twice))
    match = ANYTHING.match(text)
    assert match.ok != twice
    assert match.credit == (not twice)
    assert (f1(text, "{}").status == Status.OK) != twice
    assert (f1("{}", text).value is None) == twice
    assert text_of(text).value == (None if twice else text)


@given(records)
def test_a_value_as_text_is_read_back_as_it_was(record: Any) -> None:
    if not isinstance(record, str):
        assert json.loads(text_of(record).value) == record


@pytest.mark.parametrize("value", [{"a": {1, 2}}, float("nan"), [float("inf")], "{", b"x"])
def test_a_value_that_json_cannot_say_has_no_text(value: Any) -> None:
    assert text_of(value) == (None, Status.UNPARSED)


def test_lists_of_parquet_files_have_a_text() -> None:
    assert text_of({"a": np.array([1, 2]), "b": np.float32(0.5)}).value == '{"a": [1, 2], "b": 0.5}'


def test_a_gold_over_a_limit_is_no_gold() -> None:
    assert text_of(["x" * MAX_JSON_CHARS]) == (None, Status.UNPARSED)
    assert f1("[]", [1] * (MAX_JSON_FIELDS + 1)) == (None, Status.UNPARSED)


def test_a_gold_may_be_read_already() -> None:
    assert f1('{"a": [1, 2]}', {"a": np.array([2, 1])}).value == 1


def test_hostile_records_end() -> None:
    for text in ("[" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000, "[" + "1," * 90_000 + "1]",
                 "[NaN]", '{"a": 1' * 3, "9" * 190_000):  # fmt: skip
        assert f1(text, '{"a": 1}').value == 0
