"""Laws of equality: what every pair must obey, whatever is compared."""

from __future__ import annotations

import pickle
import time

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from math_text import answers, expressions, hostile

from grpo_rewards.columns import Status
from grpo_rewards.rules import extract
from grpo_rewards.rules.math import hedges
from grpo_rewards.rules.math.choices import chosen_letter
from grpo_rewards.rules.math.equality import Verdict, compile_gold, decide, equal
from grpo_rewards.rules.math.latex.parser import parse_math
from grpo_rewards.rules.math.latex.tree import Term

sympy = pytest.importorskip("sympy")


def says(answer: str, gold: str, **options: object) -> bool | None:
    return equal(answer, gold, extract="none", **options).value  # type: ignore[arg-type]


@given(hostile, hostile)
@settings(max_examples=400)
def test_no_text_raises(answer: str, gold: str) -> None:
    verdict = equal(answer, gold)
    assert isinstance(verdict, Verdict) and isinstance(verdict.status, Status)
    assert verdict.value is not None or verdict.rung in ("gold", "pass")


@given(answers)
def test_every_answer_equals_itself(text: str) -> None:
    assert says(text, text) is True


@given(answers, answers)
def test_equality_is_symmetric(left: str, right: str) -> None:
    assert says(left, right) == says(right, left)


@given(answers)
def test_decoration_means_nothing(text: str) -> None:
    for dressed in (
        f"  {text} ", f"${text}$", f"\\boxed{{{text}}}", f"\\[ {text} \\]", f"{text}.",
        text.replace("\\frac", "\\dfrac"), text.replace("(", "\\left(").replace(")", "\\right)"),
        text.replace(" + ", "+"), text.replace(" - ", " -  "),
    ):  # fmt: skip
        assert equal(dressed, text).value is True, dressed
        assert equal(text, dressed).value is True, dressed


@given(st.lists(expressions, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_sums_products_sets_and_lists_have_no_order(parts: list[str], random: object) -> None:
    shuffled = parts[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for left, join, right in (("", "+", ""), ("(", ") \\cdot (", ")"), ("\\{", ", ", "\\}"),
                              ("", ", ", "")):  # fmt: skip
        written, moved = (left + join.join(order) + right for order in (parts, shuffled))
        assert says(written, moved) is True


@given(st.integers(2, 10**9), st.integers(0, 9), st.data())
def test_another_digit_is_another_number(value: int, digit: int, data: st.DataObject) -> None:
    text = str(value)
    at = data.draw(st.integers(0, len(text) - 1))
    other = text[:at] + str(digit) + text[at + 1 :]
    assume(int(other) != value)
    for shape in ("{}", "{}x", "\\frac{{{}}}{{7}}", "\\sqrt{{{}}}", "({}, 3)", "[{}, \\infty)",
                  "x = {}", "x > {}", "\\{{{}, -1\\}}", "{} \\text{{ cm}}",
                  "{}_{{12}}"):  # fmt: skip
        assert says(shape.format(other), shape.format(text)) is False, shape


@given(expressions)
def test_another_sign_operator_or_bracket_is_refused(text: str) -> None:
    assert says(f"({text}) + 1", text) is False
    assert says(f"-(({text})^2 + 1)", f"({text})^2 + 1") is False
    assert says(f"(({text})^2 + 1) \\cdot 2", f"({text})^2 + 1") is False
    assert says(f"({text}, z)", f"[{text}, z]") is False
    assert says(f"z \\le {text}", f"z < {text}") is False
    assert says(f"z > {text}", f"z < {text}") is False


def _by_sympy(text: str) -> object:
    from grpo_rewards.rules.math.compare.sympy_rung import to_sympy

    tree = parse_math(text)
    assert isinstance(tree, Term)
    return to_sympy(tree)


@given(expressions, expressions)
@settings(max_examples=60)
def test_the_oracle_agrees(left: str, right: str) -> None:
    """SymPy at a point of its own choice against our verdict."""
    names = sympy.symbols("x y n a")
    point = dict(zip(names, (sympy.Rational(17, 13), -sympy.Rational(5, 7), 3, 11), strict=True))
    try:
        difference = sympy.N((_by_sympy(left) - _by_sympy(right)).subs(point), 40)  # type: ignore[operator]
    except (TypeError, ValueError):
        assume(False)
    assume(difference.is_finite)
    verdict = says(left, right)
    if abs(difference) > 1e-20:
        assert verdict is False
    else:
        assert verdict is not False


@given(expressions, st.integers(1, 9))
@settings(max_examples=60)
def test_rewritten_expressions_are_equal(text: str, number: int) -> None:
    rewritten = [
        f"({text}) \\cdot {number} / {number}", f"({text}) + {number} - {number}",
        f"\\frac{{({text}) \\cdot ({text}) + ({text})}}{{({text}) + 1}}",
        f"\\sin^2({text}) + \\cos^2({text}) - 1 + ({text})", str(sympy.expand(_by_sympy(text))),
    ]  # fmt: skip
    for other in rewritten:
        verdict = says(other, text)
        assert verdict is not False, other


@given(answers, st.sampled_from(["41", "x^{17}+1", r"\{-3, 99\}", "(5, 6, 7, 8)"]))
def test_another_answer_behind_never_turns_wrong_into_right(gold: str, wrong: str) -> None:
    assume(equal(wrong, gold).value is False)
    for joined in (f"{wrong}, {gold}", f"{gold} or {wrong}", f"{wrong} = {wrong}, or {gold}"):
        assume(equal(joined, gold).rung != "choice")
        assert equal(f"\\boxed{{{joined}}}", gold).value is not True, joined
    assert equal(f"\\boxed{{{gold}}} \\boxed{{{wrong}}}", gold).value is not True


#: What an answer says with words beside it; `{}` is the value, `{other}` one that differs.
TAKEN_BACK = (
    "not {}", "{} (wrong)", "{} is wrong", "anything but {}", "everything except {}", "never {}",
    "isn't {}", "{} is not the answer", "{} (not correct)", "{}, which is wrong", "{}? No",
    "definitely not {}", "other than {}", "different from {}", "cannot be {}", "wrong: {}",
    "{} is incorrect", "{}, no wait", "nicht {}", "n'est pas {}", "no es {}", "не {}", "不是{}",
)  # fmt: skip
BOUNDED = (
    "less than {}", "more than {}", "fewer than {}", "at least {}", "at most {}", "up to {}",
    "over {}", "below {}", "no more than {}", "{} or less", "{} or fewer", "{} at most",
    "almost {}", "nearly {}", "{} and above", "just under {}", "mindestens {}", "moins de {}",
    "al menos {}", "меньше {}", "小于{}", "{}以上",
)  # fmt: skip
SCALED = (
    "half of {}", "twice {}", "double {}", "a third of {}", "two thirds of {}", "10% of {}",
    "three times {}", "one more than {}", "the square root of {}", "{} squared", "{} plus one",
)  # fmt: skip
HEDGED = (
    "{} or {other}", "{other} or {}", "either {other} or {}", "{} and/or {other}", "{}, or {other}",
    "{other} versus {}", "{other} or maybe {}", "{} (or {other})", "{other}, possibly {}",
    "maybe {other}, maybe {}", "{other} rather than {}", "{other} oder {}", "{} ou {other}",
    "{other} или {}", "{other} 或 {}", "{}; {other}", "{other}, {}", "{other} and {}",
)  # fmt: skip
PLACES = (
    "{}", "\\boxed{{{}}}", "The answer is {}.", "<answer>{}</answer>", "#### {}", "Answer: {}",
    "**{}**", "So in the end we get {}.", "We add both of them. I think it's {}.",
)  # fmt: skip
VALUES = st.one_of(
    st.integers(11, 99999).map(str),
    st.fractions(min_value=2, max_denominator=50).map(str),
    st.decimals(2, 999, places=1).map(str),
    st.sampled_from(["\\frac{1}{3}", "-7", "$12"]),
)


@given(VALUES, st.sampled_from(TAKEN_BACK + BOUNDED + SCALED + HEDGED), st.sampled_from(PLACES))
@settings(max_examples=800)
@example("5", "{} (wrong)", "{}")
@example("5", "half of {}", "{}")
@example("42", "{} or forty-one", "{}")
@example("42", "43 or {}", "{}")
def test_words_that_change_an_answer_are_not_passed_over(
    value: str, saying: str, place: str
) -> None:
    said = saying.format(value, other="4") if "{other}" in saying else saying.format(value)
    completion = place.format(said)
    assert equal(completion, value).value is False
    found = extract.answer(completion)
    assert found is None or says(found, value) is False
    assert says(said, value) is not True and says(value, said) is not True


@given(VALUES, st.sampled_from(TAKEN_BACK + BOUNDED), st.sampled_from(PLACES))
def test_a_gold_with_such_words_wants_the_same_ones(value: str, saying: str, place: str) -> None:
    gold = saying.format(value)
    assert equal(gold, gold).value is True
    assert equal(value, gold).value is not True
    assert equal(place.format(value), gold).value is not True


HARMLESS = (
    "The answer is {}.", "= {}", "{} apples", "about {}", "approximately {}", "{} or so",
    "not 1 but {}", "The answer is {}, not 1.", "exactly {}", "nothing but {}",
    "So she has {} more apples than Bob.", "Half of 10000 is {}.", "10 minus 1 is {}",
    "It is less than 10000. It is {}.", "It is wrong to say 1. The answer is {}.",
    "Tom has twice as many as Bob, so Bob has {}.", "The number that he did not eat is {}.",
    "She earns ${}/hour.", "{0} (or {0}.0)", "Hence we need at least \\boxed{{{}}} colors.",
    "\\boxed{{{0}}}, or \\boxed{{{0}.0}}", "Some liked it, others did not: {}",
)  # fmt: skip


@given(st.integers(2, 9999), st.sampled_from(HARMLESS))
def test_words_that_change_nothing_are(value: int, saying: str) -> None:
    assert equal(saying.format(value), str(value)).value is True


@given(answers, answers, st.sampled_from(["or", "oder", "or maybe", "versus"]))
def test_two_boxes_to_choose_from_are_no_answer(gold: str, other: str, word: str) -> None:
    assume(equal(other, gold).value is False and equal(gold, other).value is False)
    assume(gold != "B")
    for left, right in ((gold, other), (other, gold)):
        text = f"$\\boxed{{{left}}}$ {word} $\\boxed{{{right}}}$"
        assert equal(text, gold).value is not True, text


_PIECES = st.sampled_from(
    [*" ,;(/$*{}[]:-'?", "not ", "n't ", "wrong ", "less than ", "or ", "and ", "the ", "is ",
     "which ", "answer ", "\\text{", "at ", "least ", "half ", "of ", "5", "one ", "maybe ", "no ",
     "kein "]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=14).map("".join), st.lists(_PIECES, max_size=14).map("".join))
def test_the_quick_look_misses_no_word(before: str, after: str) -> None:
    slow = hedges._BEFORE.search(before) or hedges._LISTED.search(before[-12:])
    assert not slow or hedges._may_change(before) or not hedges._POINTS.isdisjoint(before[-12:])
    assert not hedges._DENIED_BEFORE.search(before) or any(w in before for w in hedges._DENYING)
    assert not hedges._CHANGES.search(after) or hedges._may_change(after)


@pytest.mark.parametrize("piece", [" ", "$", "(", "not ", "the ", "is ", "1, ", "or ", "\\text{"])
def test_words_beside_an_answer_are_looked_at_in_a_moment(piece: str) -> None:
    for word in ("not", "wrong", "or", "1/2", "half of", "which"):
        beside = f"{word}{piece * 60}"
        started = time.perf_counter()
        hedges.changed(f"{beside}5{beside}q", len(beside), len(beside) + 1)
        hedges.denied(f"{beside}5 {beside}q", len(beside), len(beside) + 1)
        assert time.perf_counter() - started < 1  # a hang, not a busy machine


@pytest.mark.parametrize("text", ["not (B)", "(B) is incorrect", "B (wrong)", "anything but B"])
def test_a_choice_that_is_taken_back_is_none(text: str) -> None:
    assert chosen_letter(text) is None and equal(text, "B").value is False
    assert equal(r"The answer is not \boxed{5}", "5").value is False
    assert equal(r"\boxed{5} is wrong", "5").value is False


def test_blame_goes_to_the_gold_that_cannot_be_read() -> None:
    verdict = equal("5", "((")
    assert (verdict.value, verdict.status, verdict.rung) == (None, Status.UNPARSED, "gold")


def test_a_missing_answer_is_wrong() -> None:
    for missing in (None, "", "   ", r"\boxed{}", "<think> 5"):
        verdict = equal(missing, "5")
        assert (verdict.value, verdict.status) == (False, Status.MISSING), missing


def test_an_unreadable_answer_is_wrong() -> None:
    verdict = equal(r"\boxed{\frac{1}}", "5")
    assert (verdict.value, verdict.status) == (False, Status.UNPARSED)


def test_what_is_too_large_to_compute_is_refused_and_says_so() -> None:
    for bomb in ("9^{9^{9^9}}", "(10^{10})!", r"\sin(10^{10^{10}})", "10!!!!", "1.5^{10^{15}}"):
        verdict = equal(bomb, "7")
        assert (verdict.value, verdict.status) == (False, Status.TOO_LARGE), bomb


def test_golds_can_be_pickled_and_reused() -> None:
    gold = compile_gold(r"\frac{1}{2} \text{ cm}")
    again = pickle.loads(pickle.dumps(gold))
    assert again == gold and equal("0.5 cm", again).value is True


def test_the_last_rung_settles_what_the_others_pass() -> None:
    assert equal(r"\sum_{k=1}^{n} k + 0", r"\sum_{k=0}^{n} k").rung == "pass"
    assert decide(r"\sum_{k=1}^{n} k", r"\sum_{k=0}^{n} k").value is True
    assert decide(r"\sum_{k=2}^{n} k", r"\sum_{k=0}^{n} k").value is False
