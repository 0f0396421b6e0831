"""Habits of writing: rewritten once, to the same mathematics, whatever the text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from math_text import hostile

from grpo_rewards.rules.math.equality import equal
from grpo_rewards.rules.math.latex import rewrites

SPELLINGS = {
    r"{n \choose k}": r"\binom{n }{ k}",
    r"_5C_2": r"\binom{5}{2}",
    r"{}^5C_2": r"\binom{5}{2}",
    "12C3": r"\binom{12}{3}",
    "]0, 1]": "(0, 1]",
    r"[1, 2[ \cup ]3, 4]": r"[1, 2) \cup (3, 4]",
    "negative 3": "-3",
    "3 to 4": "3:4",
    "1010 base two": "1010_{2}",
    "0.1666...": r"0.1\overline{6}",
    "0.142857142857...": r"0.\overline{142857}",
    "3.14159...": "3.14159",
    r"0.\dot{1}4285\dot{7}": r"0.\overline{142857}",
    "0.(3)": r"0.\overline{3}",
    "dy/dx": r"\frac{dy}{dx}",
    "Matrix([[1, 2]])": "[[1, 2]]",
    "25°C": r"25 \text{celsius}",
    "5¢": "5 cents",
    r"\nicefrac{1}{2}": r"\frac{1}{2}",
    "_5P_2": "nPr(5, 2)",
    r"\pounds 5": "£5",
    r"\max\{1, 2\}": r"\max(1, 2)",
    r"\mathbb{R}_{\ge 0}": r"[0, \infty)",
    r"\mathbb{R}^+": r"(0, \infty)",
    r"k \in Z": r"k \in \mathbb{Z}",
    r"2k, \text{ where } k \text{ is an integer}": r"2k, k \in \mathbb{Z}",
}
AS_THEY_ARE = [
    "[0, 1]", "[[1,2],[3,4]]", "(1, 2), [3, 4]", r"\sqrt[3]{2}", "5C", "C_2", "AB", "1, 2, ...",
    r"(0, 1] \cup (2, 3]", r"(0, 1] \cup (2, 3) \cup [4, 5)", "(0, 1] U (2, 3]",
    r"x^+", r"\max(1, 2)",
    "1.5", "2(3)", "database", r"\bar{x}", r"\dot{x}", "x^2", r"\overline{AB}", "12.5(3)",
]  # fmt: skip


@pytest.mark.parametrize("text", SPELLINGS)
def test_each_habit_has_one_spelling(text: str) -> None:
    assert rewrites.rewritten(text) == SPELLINGS[text]


def test_numbers_in_words() -> None:
    ones, tens = rewrites._ONES, rewrites._TENS
    for value in [*range(200), 999, 1000, 1001, 2142, 70_000, 999_999, 1_000_000, 12_345_678]:
        assert rewrites.spoken_number(_words(value, ones, tens)) == value
    for text in (
        "ten one",
        "hundred",
        "one and",
        "and one",
        "twenty twelve",
        "one two",
        "thousand",
    ):
        assert rewrites.spoken_number(text.split()) is None, text


def _words(value: int, ones: list[str], tens: list[str]) -> list[str]:
    for size, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if value >= size:
            rest = _words(value % size, ones, tens) if value % size else []
            return [*_words(value // size, ones, tens), name, *rest]
    if value < 20:
        return [ones[value]]
    return [tens[value // 10 - 2], *([ones[value % 10]] if value % 10 else [])]


@pytest.mark.parametrize("text", AS_THEY_ARE)
def test_what_is_no_habit_stays(text: str) -> None:
    assert rewrites.rewritten(text) == text


@given(hostile)
def test_rewriting_never_raises_and_a_second_time_changes_little(text: str) -> None:
    once = rewrites.rewritten(text)
    rewrites.stand_in(once)
    rewrites.magnitude(once)
    assert len(once) <= 12 * len(text) + 24


@given(st.integers(0, 999), st.integers(1, 999), st.sampled_from([3, 6, 7, 9, 11, 12, 13, 37, 99]))
def test_dots_after_a_period_are_the_fraction(whole: int, top: int, bottom: int) -> None:
    value = whole + top % bottom / bottom
    digits = str(10**24 * (whole * bottom + top % bottom) // bottom).rjust(25, "0")
    written = f"{digits[:-24]}.{digits[-24:]}..."
    gold = f"\\frac{{{whole * bottom + top % bottom}}}{{{bottom}}}"
    if top % bottom:
        assert equal(written, gold, extract="none").value is True, (written, value)


@given(st.integers(1, 40), st.integers(0, 40))
def test_every_way_to_write_a_binomial_is_its_value(top: int, bottom: int) -> None:
    import math

    gold = str(math.comb(top, bottom))
    for written in (f"{{{top} \\choose {bottom}}}", f"_{{{top}}}C_{{{bottom}}}",
                    f"{top}C{bottom}", f"{{}}^{{{top}}}C_{{{bottom}}}"):  # fmt: skip
        if bottom <= top:
            assert equal(written, gold, extract="none").value is True, written


@given(st.integers(-99, 98), st.integers(1, 99), st.sampled_from("[]"), st.sampled_from("[]"))
def test_french_intervals_are_the_english_ones(low: int, size: int, left: str, right: str) -> None:
    french = f"{left}{low}, {low + size}{right}"
    english = f"{'[' if left == '[' else '('}{low}, {low + size}{']' if right == ']' else ')'}"
    other = f"{'(' if left == '[' else '['}{low}, {low + size}{']' if right == ']' else ')'}"
    assert equal(french, english, extract="none").value is True
    assert equal(french, other, extract="none").value is False


def test_long_repeats_are_read_in_a_moment() -> None:
    for piece in ("{", "{a\\choose ", "]1,", "[1,2[ ", "0.1", "5C", "_5C_", "\\dot{1}", "to ",
                  "\\left\\{\\begin{array}", "base ", "1 million ", "\\circ C"):  # fmt: skip
        text = (piece * 2_000)[:2_000]
        start = time.perf_counter()
        rewrites.rewritten(text)
        rewrites.magnitude(text)
        rewrites.stand_in(text)
        assert time.perf_counter() - start < 10, piece  # a hang, not a busy machine
