"""Text rules: lengths, counts, repetition, punishments of length."""

from __future__ import annotations

import itertools
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import any_text

from grpo_rewards.columns import Span
from grpo_rewards.rules import text as t

WORDS = ["sum", "apple", "box", "seven", "number", "train", "hour", "mile"]
#: The same eight words in languages that write them with blanks, with marks, and without blanks.
TONGUES = {
    "en": WORDS,
    "ru": ["сумма", "яблоко", "ящик", "семь", "число", "поезд", "час", "миля"],
    "hi": ["योग", "सेब", "डिब्बा", "सात", "संख्या", "रेलगाड़ी", "घंटा", "मील"],
    "ko": ["합", "사과", "상자", "일곱", "숫자", "기차", "시간", "마일"],
    "zh": list("和果箱七数车时里"),
    "ja": list("わりんごはこしち"),
}
sequences = st.lists(st.integers(0, 7), max_size=30)
tokens = st.floats(0, 1e5)


def _write(tongue: str, sequence: list[int]) -> str:
    gap = "" if tongue in ("zh", "ja") else " "
    return gap.join(TONGUES[tongue][i] for i in sequence)


def _by_hand(sequence: list[int], n: int) -> float | None:
    seen: set[tuple[int, ...]] = set()
    repeated = 0
    for i in range(len(sequence) - n + 1):
        gram = tuple(sequence[i : i + n])
        repeated += gram in seen
        seen.add(gram)
    return repeated / (len(sequence) - n + 1) if len(sequence) >= n else None


@given(sequences, st.integers(1, 5))
def test_repetition_does_not_depend_on_the_language(sequence: list[int], n: int) -> None:
    expected = _by_hand(sequence, n)
    assert t.repetition_ids(sequence, n=n) == pytest.approx(expected)
    if len(sequence) >= n:  # below n words characters are counted
        for tongue in TONGUES:
            assert t.repetition(_write(tongue, sequence), n=n) == pytest.approx(expected)


@given(st.permutations(range(8)), st.integers(1, 5), st.sampled_from(sorted(TONGUES)))
def test_distinct_words_never_repeat(order: list[int], n: int, tongue: str) -> None:
    assert t.repetition(_write(tongue, order), n=n) == 0


@given(sequences.filter(lambda s: len(s) >= 3))
def test_saying_it_again_never_repeats_less(sequence: list[int]) -> None:
    once, twice = t.repetition_ids(sequence), t.repetition_ids(sequence * 2)
    assert once is not None and twice is not None and once <= twice


def test_case_and_punctuation_are_no_way_out_of_repetition() -> None:
    assert t.repetition("go on. Go on, GO ON! go-on; go on?") == t.repetition("go on " * 5)
    assert t.repetition("!" * 100) == pytest.approx(97 / 98)
    assert t.repetition("") is None and t.repetition("a b", n=3) is None


def test_words_by_script() -> None:
    assert t.words("don't say x_1 = 3!") == 4
    assert t.words("我们 go") == 3
    assert t.words("नमस्ते दुनिया") == 2
    assert t.words("été e\u0301te\u0301 \u200d") == 2


@given(any_text, st.integers(-2, 5))
def test_no_text_raises(text: str, n: int) -> None:
    value = t.repetition(text, n=n)
    assert value is None or 0 <= value < 1
    assert t.words(text) <= t.length(text)
    assert t.words(text) == len(t.units(text))
    assert t.contains(text, text) and t.starts_with(text, "") and t.count(text, "") == 0


@given(any_text)
def test_strip_keeps_the_place(text: str) -> None:
    found = t.strip(text)
    assert found == text.strip()
    assert isinstance(found, Span) and text[found.start : found.end] == found


@given(any_text, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4))
def test_outside_is_what_no_span_covers(text: str, places: list[tuple[int, int]]) -> None:
    cuts = [(min(a, b, len(text)), min(max(a, b), len(text))) for a, b in places]
    spans = [Span.cut(text, start, end) for start, end in cuts]
    kept = [c for i, c in enumerate(text) if not any(a <= i < b for a, b in cuts)]
    assert t.outside(text, *spans, None, "elsewhere") == "".join(kept)
    inner = Span.cut("xx" + text, 2, 2 + len(text))
    assert t.outside(inner, *(Span.cut(inner, *cut) for cut in cuts)) == "".join(kept)


@given(tokens, st.integers(1, 10**5), st.integers(0, 10**5))
def test_overlong_punishes_between_nothing_and_one(n: float, max_len: float, cache: float) -> None:
    value = t.overlong(n, max_len, cache)
    assert -1 <= value <= 0
    assert n > max_len - cache or value == 0
    assert n <= max_len or value == -1
    assert t.overlong(n + 1, max_len, cache) <= value


@given(tokens, st.booleans(), st.floats(1, 1e5))
def test_cosine_length_stays_between_its_options(n: float, correct: bool, max_len: float) -> None:
    value = t.cosine_length(n, correct, max_len)
    assert value is not None
    low, high = (0.5, 1.0) if correct else (-1.0, -0.5)
    assert low <= value <= high or (n >= max_len and value == -1)
    step = t.cosine_length(n + max_len / 7, correct, max_len)
    if n + max_len / 7 < max_len and step is not None:
        assert step <= value if correct else step >= value


def test_cosine_length_is_the_papers() -> None:
    value = t.cosine_length(30, True, 90, correct_short=2, correct_long=1)
    assert value == pytest.approx(1 + 0.5 * (1 + math.cos(math.pi / 3)))
    assert t.cosine_length(90, True, 90, exceed=-10) == -10
    assert t.cosine_length(5, True, 0) is None


@pytest.mark.parametrize("piece", ["a", "a ", "我", "\u0301", "ा", "a'"])
def test_long_texts_take_linear_time(piece: str) -> None:
    text = piece * (10**6 // len(piece))
    start = time.process_time()
    t.repetition(text)
    t.words(text)
    assert time.process_time() - start < 5


def test_equal_words_of_all_tongues_are_told_apart() -> None:
    for tongue, words in TONGUES.items():
        assert len(set(words)) == 8, tongue
        assert all(t.words(a) == 1 for a in words), tongue
        assert all(a != b for a, b in itertools.combinations(words, 2))
