"""Laws of extraction: a planted answer is found, the last one counts, spans point home."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st
from math_text import answers, hostile

from grpo_rewards.columns import Span, Status
from grpo_rewards.rules import announcements, extract
from grpo_rewards.rules.announcements import said
from grpo_rewards.rules.math.choices import chosen_letter
from grpo_rewards.rules.math.equality import equal

WORDS = st.sampled_from(
    "so we see that the price of a ticket rises by half and then we add them to get more".split()
)
PROSE = st.lists(WORDS, min_size=1, max_size=12).map(" ".join)
NUMBERED = st.tuples(PROSE, st.integers(0, 999)).map(lambda p: f"{p[0]} {p[1]} of them")
SENTENCES = st.lists(st.one_of(PROSE, NUMBERED), max_size=4).map(lambda xs: ". ".join(xs) + ".\n")
FINDERS = [
    extract.boxed, extract.answer, extract.last_number, extract.first_number, extract.fence,
    extract.strip_thoughts, extract.marked_answer, said, extract.mathematics,
    lambda text: extract.tag(text, "answer"), lambda text: extract.after(text, "####"),
    lambda text: extract.regex(text, (r"\d+", "")),
]  # fmt: skip


@given(hostile)
@settings(max_examples=300)
def test_finders_never_raise_and_spans_point_into_the_text(text: str) -> None:
    for find in FINDERS:
        found = find(text)
        if found is not None:
            assert isinstance(found, Span)
            assert text[found.start : found.end] == found


@given(SENTENCES, answers, SENTENCES)
def test_a_planted_answer_is_found_in_prose(before: str, answer: str, after: str) -> None:
    for planted in (
        f"{before}Therefore $\\boxed{{{answer}}}$. {after}",
        f"{before}<answer>{answer}</answer>",
        f"{before}#### {answer}",
        f"{before}The answer is ${answer}$.",
        f"{before}**Final Answer:** \\[ {answer} \\]",
        f"<think>{before}\\boxed{{0}}</think>{before}\\boxed{{{answer}}}",
    ):
        assert equal(planted, answer).value is True, planted


@given(SENTENCES, st.integers(-999, 99999))
def test_a_planted_number_is_found_in_prose(before: str, number: int) -> None:
    for planted in (
        f"{before}The answer is {number}.", f"{before}Answer: {number}", f"{before}A: {number}",
        f"{before}so there are {number} apples.", f"{before}The total is ${number}.",
        f"{before}In the end we get {number:,}", f"{before}答案: {number}",
    ):  # fmt: skip
        assert equal(planted, str(number)).value is True, planted


@given(answers, answers)
def test_the_last_box_counts(first: str, last: str) -> None:
    text = f"\\boxed{{{first}}} no, it is \\boxed{{{last}}}"
    assert extract.boxed(text) == last and extract.boxed(text, which="first") == first


@given(SENTENCES, answers)
def test_thoughts_never_count(prose: str, answer: str) -> None:
    assert extract.answer(f"<think>{prose}\\boxed{{{answer}}}") is None
    spoken = extract.answer(f"<think>\\boxed{{{answer}}}</think> \\boxed{{99}}")
    assert spoken == "99"


def test_nested_boxes_give_the_innermost() -> None:
    assert extract.boxed(r"\boxed{\boxed{8\sqrt{6}}}") == r"8\sqrt{6}"


def test_a_box_that_never_closes_hides_no_other_answer() -> None:
    text = r"\boxed{\frac{1}{2 and so on. The answer is 7." + " blah" * 40
    assert equal(text, "7").value is False


@given(SENTENCES, answers, answers, st.data())
def test_a_box_that_is_cut_off_is_no_answer(
    before: str, first: str, last: str, data: st.DataObject
) -> None:
    opening = data.draw(st.sampled_from(["\\boxed{", "\\fbox{", "\\boxed {"]))
    shown = last[: data.draw(st.integers(0, len(last)))]
    cut = f"{before}\\boxed{{{first}}} no, it is {opening}{shown}"
    for text in (cut, f"<answer>{cut}</answer>", f"<think>so</think>{cut}"):
        for gold in (first, shown or "7", last):
            assert equal(text, gold).value is not True, text
        assert equal(text, first).status in (Status.MISSING, Status.UNPARSED)
        assert extract.boxed(text) is None and extract.answer(text) is None


def test_the_examples_of_cut_off_boxes() -> None:
    for text in (r"\boxed{4", r"\boxed{3} \boxed{4", r"\boxed{x = 4", r"<answer>\boxed{4</answer>"):
        assert equal(text, "4").value is False and extract.answer(text) is None, text
    assert equal(r"\boxed{3} \boxed{4", "3").value is False
    assert chosen_letter(r"\boxed{(B") is None
    assert equal("4", r"\boxed{4").value is None  # a gold that was cut off cannot be read


def test_megabytes_take_a_moment() -> None:
    size = 1_000_000
    for piece in ("\\boxed{", "\\boxed{7} ", "$1$ ", "\\( x ", "\\", "{", "answer: ", "1 ", "1,",
                  "7 percent", "<answer>", "$", "#### ", " ", "answer is \\", "\\[ 1 \\] ", "`",
                  "answer" + " " * 99, "is ", "= "):  # fmt: skip
        text = (piece * (size // len(piece) + 1))[:size]
        start = time.perf_counter()
        equal(text, "7")
        for find in FINDERS[:-1]:  # a user's pattern is linear too, but may match a million times
            find(text)
        assert time.perf_counter() - start < 60, piece  # a hang, not a busy machine


SAYINGS = st.lists(
    st.sampled_from(
        "answer|the |is| |: |final |=|Result|答案|是|ANSWERS|\n|solution|resolution|réponse"
        "|Respuesta|**|42|İ|option |ſ".split("|")
    ),
    max_size=10,
).map("".join)


@given(SAYINGS)
@settings(max_examples=2000)
def test_the_last_announcement_is_that_of_a_whole_scan(text: str) -> None:
    expected = [found.end() for found in announcements._SAID.finditer(text)]
    found = announcements._last_said(text)
    assert (None if found is None else found.end()) == (expected[-1] if expected else None)
