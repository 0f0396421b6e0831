"""Laws of plain arithmetic: exact, as Python's own fractions have it, and nothing more is read."""

from __future__ import annotations

import random
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from strategies import any_text

from grpo_rewards.rules.math import plain_sums

numbers = st.one_of(st.integers(0, 99).map(str), st.decimals(0, 99, places=2).map(str))


def _join(left: str, operator: str, right: str) -> str:
    return f"({left}) {operator} ({right})"


trees = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.builds(_join, inner, st.sampled_from("+-*/"), inner),
        st.builds(lambda a: f"-({a})", inner),
        st.builds(lambda a, op, b: f"{a} {op} {b}", numbers, st.sampled_from("+-*/"), numbers),
    ),
    max_leaves=10,
)


def oracle(text: str) -> Fraction | None:
    """Python's own arithmetic over fractions; the text is ours, not a completion."""
    import re

    code = re.sub(r"\d+(?:\.\d+)?", lambda m: f"Fraction('{m[0]}')", text)
    try:
        value: Fraction = eval(code, {"Fraction": Fraction})
    except ZeroDivisionError:
        return None
    return value


@given(trees)
def test_a_sum_is_what_fractions_make_of_it(text: str) -> None:
    assert plain_sums.value(text) == oracle(text)


@given(st.lists(numbers, min_size=1, max_size=9), st.lists(st.sampled_from("+-*/"), min_size=9))
def test_a_flat_sum_binds_as_python_does(values: list[str], operators: list[str]) -> None:
    parts = [f" {op} {value}" for value, op in zip(values, operators, strict=False)]
    text = "".join(parts)[3:]
    assert plain_sums.value(text) == oracle(text)


@given(trees)
def test_other_spellings_are_the_same_sum(text: str) -> None:
    spelled = text.replace("*", "×").replace("/", "÷").replace("-", "−")
    latex = text.replace("*", r" \times ").replace("/", r" \div ")
    assert plain_sums.read_sum(spelled) == plain_sums.read_sum(text) == plain_sums.read_sum(latex)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.randoms())
def test_the_numbers_are_used_once_each_in_any_order(
    values: list[int], shuffler: random.Random
) -> None:
    shuffled = list(values)
    shuffler.shuffle(shuffled)
    text = " + ".join(map(str, values))
    assert plain_sums.uses(text, shuffled)
    assert not plain_sums.uses(text, [*shuffled, 1])
    assert not plain_sums.uses(f"{text} + 1", shuffled)
    assert not plain_sums.uses(text, [value + 1 for value in shuffled])


@given(any_text)
def test_any_text_is_a_sum_or_nothing(text: str) -> None:
    found = plain_sums.read_sum(text)
    assert found is None or isinstance(found.value, Fraction)
    assert plain_sums.uses(text, [1, 2]) in (True, False)


def test_what_makes_numbers_of_nothing_is_not_read() -> None:
    refused = ("3!", "2^3", "2**3", "50%", "1 2", "1 1/2", r"\sqrt{4}", "2(3)", "3 = 3", "x", "1e9",
               "1,000", "0x10", "", "()", "1 +", "(1", "1)", "1 // 2", "٣", "1" * 21)  # fmt: skip
    assert [text for text in refused if plain_sums.read_sum(text) is not None] == []


def test_long_and_deep_sums_end() -> None:
    assert plain_sums.read_sum("(" * 100_000) is None
    assert plain_sums.read_sum("-" * 500 + "1") is not None
    assert plain_sums.value("+".join(["1"] * 400)) == 400
