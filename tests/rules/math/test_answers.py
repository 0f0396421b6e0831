"""Numbers, arithmetic and choices in text; and the table of equal and unequal pairs."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from math_text import hostile

from grpo_rewards.rules.math import arithmetic, choices, numbers
from grpo_rewards.rules.math.equality import decide


def _cases(name: str) -> list[dict[str, Any]]:
    path = ROOT / "tests" / "cases" / name
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


CASES = _cases("math.jsonl")  # the table of docs/math.md
MORE = _cases("math_more.jsonl")  # in every kind, for breadth


@pytest.mark.parametrize("case", CASES + MORE, ids=lambda c: f"{c['gold']} | {c['answer']}"[:60])
def test_case(case: dict[str, Any]) -> None:
    verdict = decide(case["answer"], case["gold"], **case.get("options", {}))
    assert (verdict.value is True) is case["expect"], f"{case['why']}: {verdict}"


@given(hostile)
def test_no_text_raises(text: str) -> None:
    arithmetic.number(text)
    arithmetic.eval_arith(text)
    choices.chosen_letter(text)


@given(st.fractions())
def test_fractions_come_back(value: Fraction) -> None:
    for text in (f"{value}", f"\\frac{{{value.numerator}}}{{{value.denominator}}}"):
        assert arithmetic.number(text) == value


@given(st.integers(-(10**15), 10**15), st.integers(0, 6))
def test_decimals_with_commas_come_back(value: int, places: int) -> None:
    exact = Fraction(value, 10**places)
    sign, digits = "-" if value < 0 else "", str(abs(value)).rjust(places + 1, "0")
    whole, decimals = digits[: len(digits) - places], digits[len(digits) - places :]
    text = f"{sign}{int(whole):,}" + (f".{decimals}" if places else "")
    assert arithmetic.number(text) == exact


@given(st.integers(1, 999), st.integers(1, 99), st.integers(2, 99))
def test_mixed_numbers(whole: int, top: int, bottom: int) -> None:
    value = whole + Fraction(top, bottom)
    for text in (f"{whole} {top}/{bottom}", f"{whole}\\frac{{{top}}}{{{bottom}}}"):
        assert arithmetic.number(text) == value


def _arithmetic() -> st.SearchStrategy[tuple[str, Fraction]]:
    leaf = st.integers(0, 99).map(lambda n: (str(n), Fraction(n)))

    def grow(inner: st.SearchStrategy[tuple[str, Fraction]]) -> Any:
        pair = st.tuples(inner, inner)
        return st.one_of(
            pair.map(lambda p: (f"({p[0][0]} + {p[1][0]})", p[0][1] + p[1][1])),
            pair.map(lambda p: (f"({p[0][0]} - {p[1][0]})", p[0][1] - p[1][1])),
            pair.map(lambda p: (f"{p[0][0]} * {p[1][0]}", p[0][1] * p[1][1])),
            st.tuples(inner, st.integers(1, 9)).map(
                lambda p: (f"{p[0][0]}/{p[1]}", p[0][1] / p[1])
            ),
        )

    return st.recursive(leaf, grow, max_leaves=8)


@given(_arithmetic())
def test_arithmetic_is_exact(pair: tuple[str, Fraction]) -> None:
    text, value = pair
    assert arithmetic.eval_arith(text) == value


def test_arithmetic_is_bounded_and_knows_no_names() -> None:
    for text in ("9^9^9^9", "10!!!!", "(10^10)!", "x + 1", "1/0", "", "abs", "0^0^0^0-x"):
        assert arithmetic.eval_arith(text) is None


@given(st.integers(), st.integers())
def test_numbers_are_the_same_exactly_when_they_are_equal(left: int, right: int) -> None:
    first, second = numbers.read_number(str(left)), numbers.read_number(str(right))
    assert first is not None and second is not None
    assert numbers.same_number(first, second) is (left == right)


def test_choices() -> None:
    picks = {
        "The answer is (B).": "B", "A. Because B is not valid": "A", "I think it's C": "C",
        "(D)": "D", r"\boxed{\text{E}}": "E", "option b": "B", "答案: C": "C", "**B**": "B",
        "réponse est C non A": "C", "It could be (A) or maybe (B)": None, "A cat sat": None,
        "No valid answer": None, "": None,
    }  # fmt: skip
    for text, letter in picks.items():
        assert choices.chosen_letter(text) == letter, text


# -- docs/math.md -----------------------------------------------------------------------------

DOCS = Path(__file__).parents[3] / "docs" / "math.md"
MARK = "<!-- table -->\n"


def table() -> str:
    """The cases as Markdown, by kind."""
    rows = ["", "| gold | answer | equal | why |", "|---|---|---|---|"]
    for case in CASES:
        gold, answer = (_code(case[side]) for side in ("gold", "answer"))
        options = "".join(f" `{k}={v}`" for k, v in case.get("options", {}).items())
        rows.append(
            f"| {gold} | {answer} | {'yes' if case['expect'] else 'no'} | {case['why']}{options} |"
        )
    return "\n".join(rows) + "\n"


def _code(text: str) -> str:
    return f"`` {text} ``".replace("|", "\\|").replace("\n", " ⏎ ") if text else "*nothing*"


def test_the_table_of_pairs_is_current() -> None:
    text = DOCS.read_text("utf-8")
    assert text.endswith(MARK + table()), "run: python tests/rules/math/test_answers.py"
    assert table().count("| yes |") >= 60 and table().count("| no |") >= 40


if __name__ == "__main__":
    head = DOCS.read_text("utf-8").split(MARK)[0]
    DOCS.write_text(head + MARK + table(), "utf-8")
